"""The conventional pipeline on a folder of recordings; the function that configs/classical.yaml calls."""

import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sparse_ulm.acquisition import Acquisition, block_ranges
from sparse_ulm.blocks import RecordingBlocks, refuse_same_names
from sparse_ulm.classical.pipeline import Recorded, Result, process
from sparse_ulm.classical.presets import find_preset
from sparse_ulm.conventions import METRES_PER_MM
from sparse_ulm.io.atomic import whole_folder
from sparse_ulm.io.nifti import save_map, save_vector_map
from sparse_ulm.io.tables import write_localisations, write_tracks
from sparse_ulm.mapping.figure import save_projections
from sparse_ulm.provenance import write_provenance


def run_folder(
    dataset_dir: str | Path,
    output_dir: str | Path,
    *,
    preset: str,
    settings: dict[str, Any],
    recorded: dict[str, Any],
    geometry: dict[str, Any],
) -> list[Path]:
    """Run the pipeline on all recordings of a folder and write `OUTPUT_DIR/NAME/` for each.

    Writes `NAME_density.nii.gz` (tracks per voxel), `NAME_speed.nii.gz` and `NAME_velocity.nii.gz` (mm/s, NaN where
    nothing passed), `NAME_density.png`, `NAME_localisations.csv`, `NAME_tracks.csv` and `provenance.json`: all of them
    or, where a recording cannot be read to its end, none.

    Args:
        dataset_dir: Folder of recordings, or one recording.
        output_dir: Where the folders go.
        preset: Name in `presets.PRESETS`.
        settings: Changes to the preset; None keeps its value.
        recorded: Fields of `pipeline.Recorded`; lists stand for tuples.
        geometry: Keyword overrides for `io.open_recording`; None values are left out.

    Returns:
        The folders written.

    Raises:
        UserError: If a setting is impossible, or a recording cannot be read.
    """
    method = find_preset(preset, **settings)
    known = Recorded(**{name: tuple(v) if isinstance(v, list) else v for name, v in recorded.items()})  # type: ignore[arg-type]
    blocks = RecordingBlocks(dataset_dir, block_frames=known.block_frames, geometry=geometry)
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
            write_result(temporary, result, acquisition)
            write_provenance(
                temporary / "provenance.json",
                config={"preset": preset, **asdict(method), **asdict(known), "geometry_overrides": geometry},
                inputs=[acquisition.path],
                weights=None,
                started=started,
            )
        folders.append(folder)
    return folders


def write_result(folder: Path, result: Result, acquisition: Acquisition) -> None:
    """Write maps, picture and tables of one recording, as design §6 names them.

    Args:
        folder: Existing folder.
        result: From `pipeline.process`.
        acquisition: The recording.
    """
    name, grid = acquisition.name, acquisition.geometry.refined(result.map.factor)
    density = result.map.density()
    save_map(folder / f"{name}_density.nii.gz", density, grid, description="tracks through each voxel, count")
    label = "Microbubble density (tracks per voxel)"
    save_projections(folder / f"{name}_density.png", density, grid, label=label, title=name)
    speed = result.map.speed() / METRES_PER_MM
    save_map(folder / f"{name}_speed.nii.gz", speed, grid, description="mean speed of tracks, mm/s")
    velocity = result.map.velocity() / METRES_PER_MM
    save_vector_map(
        folder / f"{name}_velocity.nii.gz", velocity, grid, name="velocity mm/s", description="mean velocity, mm/s"
    )
    write_localisations(folder / f"{name}_localisations.csv", result.localisations, acquisition.geometry)
    write_tracks(folder / f"{name}_tracks.csv", result.tracks, acquisition.geometry)


def _warn_if_empty(result: Result, acquisition: Acquisition) -> None:
    if not len(result.tracks):
        warnings.warn(
            f"{acquisition.name}: no track among {len(result.localisations)} localisations; its map is empty. "
            "Check noise_factor, min_length, clutter removal and the recording itself.",
            stacklevel=3,
        )
