"""The conventional pipeline on a folder of recordings; the function that configs/classical.yaml calls."""

import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sparse_ulm.acquisition import Acquisition, block_ranges
from sparse_ulm.blocks import RecordingBlocks, refuse_same_names
from sparse_ulm.classical.pipeline import Recorded, Result, process
from sparse_ulm.classical.presets import find_preset
from sparse_ulm.io.atomic import whole_folder
from sparse_ulm.io.tables import write_localisations
from sparse_ulm.io.track_files import require_track_formats, save_tracks
from sparse_ulm.mapping.track_map_files import require_maps, write_maps
from sparse_ulm.provenance import write_provenance


@dataclass(frozen=True)
class Outputs:
    """What is written of every recording, checked before any work is done.

    Attributes:
        maps: Keys of `track_map_files.MAPS`.
        track_formats: Keys of `track_files.TRACK_FORMATS`.
    """

    maps: tuple[str, ...]
    track_formats: tuple[str, ...]

    @classmethod
    def of(cls, *, maps: str | Sequence[str], track_formats: str | Sequence[str]) -> "Outputs":
        """Take the names of a config.

        Raises:
            UserError: If one is unknown, or cannot be written here.
        """
        return cls(require_maps(maps), require_track_formats(track_formats))


def run_folder(
    dataset_dir: str | Path,
    output_dir: str | Path,
    *,
    preset: str,
    settings: dict[str, Any],
    recorded: dict[str, Any],
    clutter: dict[str, Any],
    geometry: dict[str, Any],
    maps: str | Sequence[str],
    track_formats: str | Sequence[str],
) -> list[Path]:
    """Run the pipeline on all recordings of a folder and write `OUTPUT_DIR/NAME/` for each.

    Writes `NAME_density.nii.gz` (tracks per voxel) and the other maps, their pictures, `NAME_localisations.csv`,
    `NAME_tracks.csv` and the other formats, and `provenance.json`: all of them or, where a recording cannot be read to
    its end, none.

    Args:
        dataset_dir: Folder of recordings, or one recording.
        output_dir: Where the folders go.
        preset: Name in `presets.PRESETS`.
        settings: Changes to the preset; None keeps its value.
        recorded: Fields of `pipeline.Recorded`; lists stand for tuples.
        clutter: Fields of `clutter.ClutterFilter`; None values are left out.
        geometry: Keyword overrides for `io.open_recording`; None values are left out.
        maps: Kinds of maps (`track_map_files.MAPS`); density is always written.
        track_formats: Kinds of files of tracks (`track_files.TRACK_FORMATS`); csv is always written.

    Returns:
        The folders written.

    Raises:
        UserError: If a setting is impossible, or a recording cannot be read.
    """
    method = find_preset(preset, **settings)
    outputs = Outputs.of(maps=maps, track_formats=track_formats)
    known = Recorded(**{name: tuple(v) if isinstance(v, list) else v for name, v in recorded.items()})  # type: ignore[arg-type]
    blocks = RecordingBlocks(dataset_dir, block_frames=known.block_frames, geometry=geometry, clutter=clutter)
    blocks.require()
    refuse_same_names(blocks, output_dir)
    folders = []
    for acquisition in {item["image"].name: item["image"] for item in blocks}.values():
        started = time.monotonic()
        ranges = block_ranges(acquisition.n_frames, known.block_frames)
        result = process(acquisition, method, known, blocks=tqdm(ranges, desc=acquisition.name, disable=None))
        _warn_if_empty(result, acquisition)
        folder = Path(output_dir) / acquisition.name
        with whole_folder(folder) as temporary:
            write_result(temporary, result, acquisition, outputs)
            write_provenance(
                temporary / "provenance.json",
                config={
                    "preset": preset,
                    **asdict(method),
                    **asdict(known),
                    "clutter": asdict(blocks.clutter),
                    **asdict(outputs),
                    "geometry_overrides": geometry,
                },
                inputs=[acquisition.path],
                weights=None,
                started=started,
            )
        folders.append(folder)
    return folders


def write_result(folder: Path, result: Result, acquisition: Acquisition, outputs: Outputs) -> None:
    """Write maps, picture and tables of one recording, as design §6 names them.

    Args:
        folder: Existing folder.
        result: From `pipeline.process`.
        acquisition: The recording.
        outputs: Which maps and formats.
    """
    name, geometry = acquisition.name, acquisition.geometry
    write_maps(folder, name, result.map, maps=outputs.maps)
    write_localisations(folder / f"{name}_localisations.csv", result.localisations, geometry)
    save_tracks(folder / name, result.tracks, geometry, shape=acquisition.shape[:3], formats=outputs.track_formats)


def _warn_if_empty(result: Result, acquisition: Acquisition) -> None:
    if not len(result.tracks):
        warnings.warn(
            f"{acquisition.name}: no track among {len(result.localisations)} localisations; its map is empty. "
            "Check noise_factor, min_length, clutter removal and the recording itself.",
            stacklevel=3,
        )
