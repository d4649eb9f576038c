"""Score a folder of maps against the known truth of simulated recordings, by concentration.

Sound speed, frequency, frame rate and field of view come from the recording itself, which lies beside its truth: any
map on any grid can then be scored, whoever made it, and no file of our own has to say where it came from.
"""

import json
import zlib
from importlib import metadata
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from jaxtyping import Int
from nibabel.filebasedimages import ImageFileError

from sparse_ulm import __version__
from sparse_ulm.acquisition import Acquisition, Geometry, as_rows
from sparse_ulm.blocks import truth_of, with_distinct_names
from sparse_ulm.conventions import METRES_PER_MM
from sparse_ulm.errors import RecordingError, UserError
from sparse_ulm.evaluation_table import (
    LABEL,
    TOLERANCES,
    ScoredMap,
    by_concentration,
    pool,
    score_columns,
    write_csv,
    write_json,
)
from sparse_ulm.io import find_recordings, open_recordings
from sparse_ulm.io.names import recording_stem
from sparse_ulm.io.nifti import MM_PER_UNIT
from sparse_ulm.io.truth import Truth
from sparse_ulm.mapping.figure import save_projections
from sparse_ulm.mapping.truth_map import trajectory_voxels
from sparse_ulm.metrics import overlap_counts

SIMULATION_SUMMARY = "simulation.json"


def evaluate_folder(
    prediction_dir: str | Path,
    truth_dir: str | Path,
    output_dir: str | Path,
    *,
    density_threshold: float = 0.0,
    geometry: dict[str, Any] | None = None,
) -> Path:
    """Score all maps of a folder and write `metrics.json`, `metrics.csv` and beside each map `NAME_comparison.png`.

    A voxel is predicted where the density exceeds the threshold. The true map is the union of the bubbles'
    trajectories on the map's own grid, over all frames of the recording. Scores are voxel exact and within a tenth of
    the wavelength (`_lambda_10`); of several recordings they come from added counts, and the spread over recordings
    stands beside them.

    Args:
        prediction_dir: Folder that holds `NAME/NAME_density.nii.gz` for each recording.
        truth_dir: Folder that holds each recording NAME with `NAME_truth.csv` beside it. A `simulation.json` there
            gives the concentrations to group by; without it recordings are grouped by what their truth shows.
        output_dir: Where to write.
        density_threshold: Lowest density that does not count as visited.
        geometry: Keyword overrides for `io.open_recording`; None values are left out.

    Returns:
        Path of `metrics.json`.

    Raises:
        UserError: If there are no maps, or recordings or truth are missing for some (all are named), or a map is no 3D
            NIfTI file.
    """
    maps = _find_maps(Path(prediction_dir))
    options = {key: value for key, value in (geometry or {}).items() if value is not None}
    recordings, without_map = _find_truth(Path(truth_dir), list(maps), options)
    labels = _read_labels(Path(truth_dir))
    scored = [
        _score(maps[name], recordings[name], label=labels.get(name), density_threshold=density_threshold)
        for name in maps
    ]
    groups = [pool("concentration", name, members) for name, members in by_concentration(scored)]
    total = pool("total", "all", scored)
    folder = Path(output_dir)
    write_json(
        folder / "metrics.json",
        {
            "density_threshold": density_threshold,
            "tolerances_wavelengths": {f"dice{ending}": tolerance for ending, tolerance in TOLERANCES.items()},
            "versions": {"sparse_ulm": __version__, **{p: metadata.version(p) for p in ("numpy", "scipy")}},
            "total": total,
            "by_concentration": groups,
            "recordings": [entry.row for entry in scored],
            "recordings_without_map": without_map,
        },
    )
    write_csv(folder / "metrics.csv", [*(entry.row for entry in scored), *groups, total])
    return folder / "metrics.json"


def read_map(path: str | Path, recording: Geometry) -> tuple[np.ndarray, Geometry]:
    """Read a map and its grid.

    Args:
        path: 3D NIfTI file with an affine to scanner millimetres.
        recording: Gives frame rate, frequency and sound speed, which a map does not hold.

    Raises:
        UserError: If the file is no 3D NIfTI.
    """
    try:
        image = nibabel.load(path)
        if not isinstance(image, nibabel.Nifti1Pair) or image.ndim != 3:
            raise UserError(f"{path}: is no 3D NIfTI map; wanted one value per voxel (x, y, z).")
        density = np.asanyarray(image.dataobj)
    except (ImageFileError, OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read as NIfTI ({error}); wanted a density map. Write it again.") from error
    affine_m = np.array(image.affine, dtype=np.float64)
    affine_m[:3] *= MM_PER_UNIT[image.header.get_xyzt_units()[0]] * METRES_PER_MM
    grid = Geometry(
        as_rows(affine_m), recording.frame_rate_hz, recording.transmit_frequency_hz, recording.sound_speed_m_s
    )
    return density, grid


def true_voxels(
    truth: Truth, recording: Acquisition, grid: Geometry, shape: tuple[int, int, int]
) -> Int[np.ndarray, "m xyz=3"]:
    """List the voxels of a map's grid that the bubbles of a recording pass through, by way of scanner space."""
    position = grid.to_voxel(recording.geometry.to_scanner_m(truth.position_voxel))
    return trajectory_voxels(
        position, truth.track_id, truth.frame, factor=(1, 1, 1), shape=shape, start=0, stop=recording.n_frames
    )


def concentration(truth: Truth, recording: Acquisition) -> dict[str, float | None]:
    """Give the mean number of bubbles in the field of view of a frame, per mm³ of it in 3D and per mm² in 2D.

    Frames without bubbles count. The field of view is the recording's grid; its voxel size along y says nothing about
    the thickness of a 2D slice, hence the area there.
    """
    position = truth.position_voxel
    seen = ((position >= -0.5) & (position < np.asarray(recording.shape[:3]) - 0.5)).all(axis=1)
    seen &= (truth.frame >= 0) & (truth.frame < recording.n_frames)
    per_frame = float(seen.sum()) / recording.n_frames
    x, y, z = np.asarray(recording.shape[:3]) * recording.geometry.voxel_size_m / METRES_PER_MM
    flat = recording.spatial_dims == 2
    return {
        "bubbles_per_frame": per_frame,
        "bubbles_per_mm3": None if flat else per_frame / float(x * y * z),
        "bubbles_per_mm2": per_frame / float(x * z) if flat else None,
    }


def _find_maps(folder: Path) -> dict[str, Path]:
    """Find `NAME/NAME_density.nii.gz`."""
    paths = sorted(folder.glob("*/*_density.nii*")) if folder.is_dir() else []
    maps = {p.parent.name: p for p in paths if p.name.startswith(f"{p.parent.name}_density.nii")}
    if not maps:
        raise UserError(f"{folder}: holds no NAME/NAME_density.nii.gz; wanted the output folder of an inference run.")
    return maps


def _find_truth(
    folder: Path, names: list[str], options: dict[str, Any]
) -> tuple[dict[str, tuple[Acquisition, Truth]], list[str]]:
    """Open the recordings of the maps and read their truth, naming all that lack one; list recordings without a map.

    Recordings whose file name begins no map's name are left alone, for they may need other options.
    """
    paths = find_recordings(folder)
    candidates = [path for path in paths if any(name.startswith(recording_stem(path)) for name in names)]
    recordings = [one for path in candidates for one in open_recordings(path, **options)]
    opened = {one.name: one for one in with_distinct_names(recordings)}
    found, without_truth = {}, []
    for name in names:
        try:
            found[name] = opened[name], truth_of(opened[name])
        except (KeyError, RecordingError) as error:
            without_truth.append(f"{name} ({'no such recording' if isinstance(error, KeyError) else error})")
    if without_truth:
        raise UserError(
            f"{folder}: {len(without_truth)} of {len(names)} maps have no truth: {'; '.join(without_truth)} "
            "Point truth_dir at the simulated recordings, or leave these maps out."
        )
    without_map = {recording_stem(path) for path in paths if path not in candidates} | set(opened) - set(names)
    return found, sorted(without_map)


def _read_labels(folder: Path) -> dict[str, float]:
    """Read the simulated concentrations where the simulation left its summary; recordings without are left out."""
    path = folder / SIMULATION_SUMMARY
    if not path.is_file():
        return {}
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["recordings"]
        return {row["name"]: float(row[LABEL]) for row in rows if row.get(LABEL) is not None}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: is no summary of a simulation ({error!r}); wanted 'recordings' with 'name' and '{LABEL}'. "
            "Simulate again, or remove it to group by the truth."
        ) from error


def _score(path: Path, known: tuple[Acquisition, Truth], *, label: float | None, density_threshold: float) -> ScoredMap:
    """Score one map, and draw it beside its truth."""
    recording, truth = known
    density, grid = read_map(path, recording.geometry)
    predicted = np.argwhere(density > density_threshold)
    x, y, z = density.shape
    true = true_voxels(truth, recording, grid, (x, y, z))
    save_projections(
        path.with_name(f"{recording.name}_comparison.png"),
        density.astype(np.float32),
        grid,
        title=f"{recording.name}: map and truth",
        label="Microbubble density (blocks per voxel)",
        truth=true,
    )
    wavelength_m = recording.geometry.wavelength_m
    counts = {
        ending: overlap_counts(predicted, true, voxel_size_m=grid.voxel_size_m, tolerance_m=tolerance * wavelength_m)
        for ending, tolerance in TOLERANCES.items()
    }
    row = {
        "scope": "recording",
        "name": recording.name,
        "n_recordings": 1,
        LABEL: label,
        **concentration(truth, recording),
        "n_frames": recording.n_frames,
        "wavelength_mm": wavelength_m / METRES_PER_MM,
        **score_columns(counts),
    }
    return ScoredMap(row, counts)
