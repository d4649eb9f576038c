"""What is written of a recording whose bubbles are found: tracks, maps, pictures, provenance."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparse_ulm.acquisition import Acquisition
from sparse_ulm.block_store import BlockResult
from sparse_ulm.classical.pipeline import Result, link
from sparse_ulm.classical.presets import Preset
from sparse_ulm.conventions import refinement
from sparse_ulm.io.dicom_map import check_dicom_grid
from sparse_ulm.io.dicom_tags import DicomTags
from sparse_ulm.io.tables import write_localisations
from sparse_ulm.io.track_files import require_track_formats, save_tracks
from sparse_ulm.localisations import Localisations
from sparse_ulm.mapping.track_map_files import require_maps, write_maps
from sparse_ulm.motion import MotionSettings
from sparse_ulm.motion_estimation import report_motion
from sparse_ulm.provenance import write_provenance


@dataclass(frozen=True)
class Outputs:
    """What is written of every recording, checked before any work is done.

    Attributes:
        maps: Keys of `track_map_files.MAPS`.
        track_formats: Keys of `track_files.TRACK_FORMATS`.
        dicom: For density and speed as DICOM; None without.
    """

    maps: tuple[str, ...]
    track_formats: tuple[str, ...]
    dicom: DicomTags | None = None

    @classmethod
    def of(
        cls,
        *,
        maps: str | Sequence[str],
        track_formats: str | Sequence[str],
        dicom: bool = False,
        dicom_tags: Mapping[str, Any] | None = None,
    ) -> "Outputs":
        """Take the names of a config.

        Raises:
            UserError: If one is unknown, or cannot be written here.
        """
        return cls(require_maps(maps), require_track_formats(track_formats), DicomTags.of(dicom, dicom_tags))

    def told(self) -> dict[str, Any]:
        """Give what `provenance.json` repeats; of DICOM tags no values."""
        return {"maps": self.maps, "track_formats": self.track_formats, **DicomTags.told(self.dicom)}

    def check(self, acquisition: Acquisition) -> None:
        """Refuse what cannot be written of a recording, before any work is done.

        Raises:
            UserError: If DICOM cannot hold its maps.
        """
        if self.dicom is not None:
            shape, factor = acquisition.shape[:3], refinement(acquisition.shape)
            x, y, z = (size * step for size, step in zip(shape, factor, strict=True))
            check_dicom_grid(acquisition.name, (x, y, z), acquisition.geometry)


def check_linking(acquisition: Acquisition, preset: Preset) -> None:
    """Refuse settings of linking and smoothing that are impossible for a recording, by linking no bubble.

    Raises:
        UserError: If one is impossible.
    """
    link(acquisition, [], preset)


def write_linked(
    folder: Path,
    acquisition: Acquisition,
    results: Iterator[BlockResult],
    preset: Preset,
    outputs: Outputs,
    *,
    provenance: Mapping[str, Any],
    weights: Path | None,
    started: float,
    motion: MotionSettings,
    advice: str,
) -> None:
    """Link the bubbles of a recording's blocks and write everything, as design §6 names it.

    Args:
        folder: Existing folder.
        acquisition: The recording.
        results: Columns of `Localisations` by block, in order of time.
        preset: Links and smooths.
        outputs: Which maps and formats.
        provenance: Settings of the run.
        weights: Of a network; None without.
        started: `time.monotonic()` at the start of the work.
        motion: Bubbles are moved to the reference before they are linked, and `NAME_motion.csv` is written.
        advice: What to look at where no bubble was followed.
    """
    found = report_motion(folder, acquisition, motion)
    parts = (Localisations(**columns) for columns in results)
    result = link(acquisition, [found.bubbles(part) for part in parts] if found else list(parts), preset)
    if not len(result.tracks):
        warnings.warn(
            f"{acquisition.name}: no track among {len(result.localisations)} localisations; its map is empty. {advice}",
            stacklevel=2,
        )
    write_result(folder, result, acquisition, outputs)
    write_provenance(
        folder / "provenance.json",
        config=dict(provenance) | ({"motion_found": found.summary()} if found else {}),
        inputs=[acquisition.path],
        weights=weights,
        started=started,
    )


def write_result(folder: Path, result: Result, acquisition: Acquisition, outputs: Outputs) -> None:
    """Write maps, picture and tables of one recording.

    Args:
        folder: Existing folder.
        result: From `pipeline.link`.
        acquisition: The recording.
        outputs: Which maps and formats.
    """
    name, geometry = acquisition.name, acquisition.geometry
    write_maps(folder, name, result.map, maps=outputs.maps, dicom=outputs.dicom)
    write_localisations(folder / f"{name}_localisations.csv", result.localisations, geometry)
    save_tracks(folder / name, result.tracks, geometry, shape=acquisition.shape[:3], formats=outputs.track_formats)
