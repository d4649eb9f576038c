"""Score a folder of maps against the known truth of simulated recordings, by concentration.

Sound speed, frequency, frame rate and field of view come from the recording itself, which lies beside its truth: any
map on any grid can then be scored, whoever made it, and no file of our own has to say where it came from.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from jaxtyping import Int
from nibabel.filebasedimages import ImageFileError

from sparse_ulm import __version__
from sparse_ulm.acquisition import Acquisition, Geometry, as_rows
from sparse_ulm.conventions import METRES_PER_MM
from sparse_ulm.errors import UserError
from sparse_ulm.evaluation_inputs import PSF_WIDTH, find_maps, find_truth, read_summary
from sparse_ulm.evaluation_localisations import score_localisations, score_tracks
from sparse_ulm.evaluation_table import (
    CENTRE_LINE_TOLERANCE,
    LABEL,
    TOLERANCES,
    ScoredMap,
    by_concentration,
    pool,
    score_columns,
    write_csv,
    write_json,
)
from sparse_ulm.io.nifti import MM_PER_UNIT
from sparse_ulm.io.truth import Truth
from sparse_ulm.mapping.figure import save_projections
from sparse_ulm.mapping.sparse_map import SparseMap
from sparse_ulm.mapping.truth_map import trajectory_voxels
from sparse_ulm.metrics import overlap_counts
from sparse_ulm.metrics.centre_line import centre_line_counts
from sparse_ulm.metrics.gridding import gridding_index_db, mean_gridding_db


@dataclass(frozen=True)
class Scoring:
    """How maps and tables are scored; as `evaluate_folder` takes them."""

    density_threshold: float
    margin_wavelengths: float
    psf_fwhm_wavelengths: tuple[float, float, float] | None
    n_splits: int


def evaluate_folder(
    prediction_dir: str | Path,
    truth_dir: str | Path,
    output_dir: str | Path,
    *,
    density_threshold: float = 0.0,
    margin_wavelengths: float = 0.0,
    psf_fwhm_wavelengths: Sequence[float] | None = None,
    n_splits: int = 3,
    geometry: dict[str, Any] | None = None,
) -> Path:
    """Score all maps of a folder and write `metrics.json`, `metrics.csv` and beside each map `NAME_comparison.png`.

    A voxel is predicted where the density exceeds the threshold. The true map is the union of the bubbles'
    trajectories on the map's own grid, over all frames of the recording. Scores are voxel exact, within a tenth of
    the wavelength (`_lambda_10`) and within a quarter (`_lambda_4`), and of the centre lines; of several recordings
    they come from added counts, and the spread over recordings stands beside them. Where `NAME_localisations.csv` or
    `NAME_tracks.csv` lie beside the map, bubbles are scored one by one, and tracks give resolution and saturation.

    Args:
        prediction_dir: Folder that holds `NAME/NAME_density.nii.gz` for each recording.
        truth_dir: Folder that holds each recording NAME with `NAME_truth.csv` beside it. A `simulation.json` there
            gives the concentrations to group by; without it recordings are grouped by what their truth shows.
        output_dir: Where to write.
        density_threshold: Highest density that does not count as visited.
        margin_wavelengths: Border of the field of view where localisations do not count.
        psf_fwhm_wavelengths: Full widths at half maximum along x, y and z, for recall by distance to the nearest
            neighbour; None takes them from `simulation.json`, and leaves that out where it has none.
        n_splits: Random halves of the tracks that the resolution is averaged over; 0 leaves it out.
        geometry: Keyword overrides for `io.open_recording`; None values are left out.

    Returns:
        Path of `metrics.json`.

    Raises:
        UserError: If there are no maps, or recordings or truth are missing for some (all are named), or a map is no 3D
            NIfTI file.
    """
    maps = find_maps(Path(prediction_dir))
    options = {key: value for key, value in (geometry or {}).items() if value is not None}
    recordings, without_map = find_truth(Path(truth_dir), list(maps), options)
    scoring = Scoring(density_threshold, margin_wavelengths, _three(psf_fwhm_wavelengths), n_splits)
    drawn = read_summary(Path(truth_dir))
    scored = [_score(maps[name], recordings[name], drawn.get(name, {}), scoring) for name in maps]
    groups = [pool("concentration", name, members) for name, members in by_concentration(scored)]
    total = pool("total", "all", scored)
    folder = Path(output_dir)
    write_json(
        folder / "metrics.json",
        {
            "density_threshold": density_threshold,
            "tolerances_wavelengths": {f"dice{ending}": tolerance for ending, tolerance in TOLERANCES.items()},
            "margin_wavelengths": margin_wavelengths,
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


def _three(values: Sequence[float] | None) -> tuple[float, float, float] | None:
    """Take three positive widths from a config.

    Raises:
        UserError: If they are not.
    """
    if values is None:
        return None
    if len(values) != 3 or not all(isinstance(v, int | float) and v > 0 for v in values):
        raise UserError(f"psf_fwhm_wavelengths is {values}; wanted three positive widths [x, y, z], or null.")
    return float(values[0]), float(values[1]), float(values[2])


def _score(path: Path, known: tuple[Acquisition, Truth], drawn: dict[str, Any], scoring: Scoring) -> ScoredMap:
    """Score one map and the tables beside it, and draw it beside its truth."""
    recording, truth = known
    density, grid = read_map(path, recording.geometry)
    predicted = np.argwhere(density > scoring.density_threshold)
    x, y, z = density.shape
    true = true_voxels(truth, recording, grid, (x, y, z))
    save_projections(
        path.with_name(f"{recording.name}_comparison.png"),
        SparseMap.of(density),
        grid,
        title=f"{recording.name}: map and truth",
        label="Microbubble density (count per voxel)",
        truth=true,
    )
    wavelength_m = recording.geometry.wavelength_m
    counts = {
        ending: overlap_counts(predicted, true, voxel_size_m=grid.voxel_size_m, tolerance_m=tolerance * wavelength_m)
        for ending, tolerance in TOLERANCES.items()
    }
    centre_line = centre_line_counts(
        predicted, true, voxel_size_m=grid.voxel_size_m, tolerance_m=CENTRE_LINE_TOLERANCE * wavelength_m
    )
    stem = path.with_name(recording.name)
    localisations = score_localisations(
        stem,
        recording,
        truth,
        psf_fwhm_m=_psf_fwhm_m(drawn, wavelength_m, scoring),
        margin_wavelengths=scoring.margin_wavelengths,
    )
    row = {
        "scope": "recording",
        "name": recording.name,
        "n_recordings": 1,
        LABEL: drawn.get(LABEL),
        **concentration(truth, recording),
        "n_frames": recording.n_frames,
        "wavelength_mm": wavelength_m / METRES_PER_MM,
        **score_columns(counts, centre_line),
        **({} if localisations is None else localisations.columns()),
        **_gridding(density, grid, recording.geometry),
        **score_tracks(stem, recording, grid, true, shape=(x, y, z), n_splits=scoring.n_splits),
    }
    return ScoredMap(row, counts, centre_line, localisations)


def _psf_fwhm_m(drawn: dict[str, Any], wavelength_m: float, scoring: Scoring) -> tuple[float, float, float] | None:
    """Take the width of the point-spread function from the config or the simulation."""
    if scoring.psf_fwhm_wavelengths is None:
        return drawn.get(PSF_WIDTH)
    x, y, z = scoring.psf_fwhm_wavelengths
    return x * wavelength_m, y * wavelength_m, z * wavelength_m


def _gridding(density: np.ndarray, grid: Geometry, recording: Geometry) -> dict[str, Any]:
    """Measure how far the map repeats with the recording's grid; NaN where their axes are not parallel."""
    own, other = (g.matrix_m[:3, :3] / g.voxel_size_m for g in (grid, recording))
    if not np.allclose(own, other, atol=1.0e-3):
        return {"gridding_index_db": float("nan")}
    per_axis = gridding_index_db(
        density.astype(np.float32), voxel_size_m=grid.voxel_size_m, input_voxel_size_m=recording.voxel_size_m
    )
    return {"gridding_index_db": mean_gridding_db(per_axis), "gridding_index_per_axis_db": list(per_axis)}
