"""The conventional pipeline on a folder of recordings; the function that configs/classical.yaml calls."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sparse_ulm import ranks
from sparse_ulm.acquisition import Acquisition
from sparse_ulm.batch import run_recordings
from sparse_ulm.block_store import BlockResult, BlockStore
from sparse_ulm.blocks import RecordingBlocks
from sparse_ulm.classical.outputs import Outputs, check_linking, write_linked
from sparse_ulm.classical.pipeline import Recorded, localise_frames
from sparse_ulm.classical.presets import find_preset
from sparse_ulm.errors import UserError
from sparse_ulm.io.dicom_tags import DicomTags
from sparse_ulm.io.log_compression import ENVELOPE_NOTE
from sparse_ulm.motion import MotionSettings
from sparse_ulm.motion_estimation import check_motion


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
    dicom: bool = False,
    dicom_tags: Mapping[str, Any] | None = None,
    motion: Mapping[str, Any] | None = None,
    resume: bool = True,
    force: bool = False,
    report: bool = False,
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
        dicom: Write density and speed as DICOM too.
        dicom_tags: What they say of patient and study (`dicom_tags.ALLOWED_TAGS`).
        motion: Fields of `motion.MotionSettings.of`.
        resume: Leave alone what is done, and go on where a run was stopped (`batch.run_recordings`).
        force: Replace results of other settings.
        report: Write `OUTPUT_DIR/report.html` at the end.

    Returns:
        The folders of all recordings.

    Raises:
        UserError: If a setting is impossible, or recordings failed.
    """
    known = Recorded(**{name: tuple(v) if isinstance(v, list) else v for name, v in recorded.items()})  # type: ignore[arg-type]
    blocks = RecordingBlocks(
        dataset_dir, block_frames=known.block_frames, geometry=geometry, clutter=clutter, keep_going=True
    )
    method = _Classical(
        preset,
        settings,
        known,
        Outputs.of(maps=maps, track_formats=track_formats, dicom=dicom, dicom_tags=dicom_tags),
        MotionSettings.of(motion),
        {"clutter": asdict(blocks.clutter), "geometry_overrides": geometry},
    )

    def compute(store: BlockStore) -> None:
        for item in tqdm(blocks, desc=blocks[0]["image"].name, disable=True if ranks.rank() > 0 else None):
            store.save(item["core"][0], method.result_of(item["image"], *item["core"]))

    return run_recordings(blocks, method, compute, output_dir=output_dir, resume=resume, force=force, report=report)


class _Classical:
    """The method as `batch.run_recordings` wants it."""

    def __init__(
        self,
        preset: str,
        changes: dict[str, Any],
        recorded: Recorded,
        outputs: Outputs,
        motion: MotionSettings,
        others: dict[str, Any],
    ) -> None:
        self.preset, self.recorded, self.outputs = find_preset(preset, **changes), recorded, outputs
        self.motion = motion
        self.provenance: Mapping[str, Any] = {
            "preset": preset,
            **asdict(self.preset),
            **asdict(recorded),
            **outputs.told(),
            "motion": asdict(motion),
            **others,
        }
        self.settings: Mapping[str, Any] = {**self.provenance, **DicomTags.followed(outputs.dicom)}

    def check(self, acquisition: Acquisition) -> None:
        """Refuse impossible settings before work is done, and say what is assumed of an envelope."""
        if acquisition.content == "envelope":
            warnings.warn(f"{acquisition.name}: {ENVELOPE_NOTE}.", stacklevel=2)
            if self.recorded.noise_measure == "differences":
                raise UserError(
                    f"noise_measure is differences, and {acquisition.name} is an envelope, whose noise has no phase to "
                    "cancel; wanted faintest. Set --noise_measure faintest."
                )
        self.outputs.check(acquisition)
        check_linking(acquisition, self.preset)
        check_motion(acquisition, self.motion)

    def result_of(self, acquisition: Acquisition, start: int, stop: int) -> BlockResult:
        """Localise the bubbles of one block."""
        return vars(localise_frames(acquisition, self.preset, self.recorded, start=start, stop=stop))

    def write(self, folder: Path, acquisition: Acquisition, results: Iterator[BlockResult], *, started: float) -> None:
        """Link and write."""
        write_linked(
            folder,
            acquisition,
            results,
            self.preset,
            self.outputs,
            provenance=self.provenance,
            weights=None,
            started=started,
            motion=self.motion,
            advice="Check noise_factor, min_length, clutter removal and the recording itself.",
        )
