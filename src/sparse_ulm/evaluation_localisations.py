"""Scores of the tables beside a map: localisations against the truth, and what tracks say of resolution and filling."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from sparse_ulm.acquisition import Acquisition, Geometry
from sparse_ulm.classical.smoothing import interpolate
from sparse_ulm.conventions import PositionsVoxel
from sparse_ulm.io.tables import read_localisations, read_tracks
from sparse_ulm.io.truth import Truth
from sparse_ulm.localisations import Trajectories
from sparse_ulm.mapping.track_map import SAMPLE_STEP
from sparse_ulm.metrics.fourier_shell import split_resolution
from sparse_ulm.metrics.localisations import (
    GATES_WAVELENGTHS,
    FoundByNeighbour,
    count_by_neighbour,
    inside,
    match_recording,
    neighbour_distance,
    pool_by_neighbour,
    summarise,
)
from sparse_ulm.metrics.matching import Matching, pool_matchings
from sparse_ulm.metrics.saturation import first_visit_s, fit_saturation, saturation_curve

SATURATION_TOLERANCE = 0.1
"""In wavelengths: a true voxel counts as visited when a track passes that near."""

N_TIMES = 100
"""Points of a saturation curve, evenly over the recording."""

SPLIT_SEED = 0

_SCORES = ("precision", "recall", "jaccard", "f1")
LOCALISATION_COLUMNS = [
    *(f"localisation_{score}{ending}" for ending in GATES_WAVELENGTHS for score in _SCORES),
    *(f"localisation_rmse_{axis}_um" for axis in "xyz"),
]
TRACK_COLUMNS = ["resolution_two_sigma_um", "resolution_half_bit_um", "resolution_one_seventh_um", "saturation_t90_s"]


@dataclass(frozen=True)
class LocalisationScore:
    """Localisations of one recording, or of several pooled, against the truth.

    Attributes:
        source: The table that was scored: "localisations" or "tracks".
        matchings: Per ending of the gates.
        by_neighbour: True and found bubbles (λ/4) by distance to their neighbour; None where no PSF width is known.
    """

    source: str
    matchings: dict[str, Matching]
    by_neighbour: FoundByNeighbour | None

    def columns(self) -> dict[str, Any]:
        """Lay all out: `localisations` with everything, and one number per column of the table."""
        gates = {ending: summarise(matching) for ending, matching in self.matchings.items()}
        whole: dict[str, Any] = {"source": self.source} | {ending[1:]: gate for ending, gate in gates.items()}
        if self.by_neighbour is not None:
            counts = {"n_truth": self.by_neighbour.n_truth.tolist(), "n_found": self.by_neighbour.n_found.tolist()}
            whole["by_neighbour_psf_widths"] = {"recall": self.by_neighbour.recall} | counts
        scores = [gates[ending][score] for ending in GATES_WAVELENGTHS for score in _SCORES]
        values = [*scores, *gates["_lambda_4"]["rmse_um"]]
        return {"localisations": whole} | dict(zip(LOCALISATION_COLUMNS, values, strict=True))


def score_localisations(
    stem: Path,
    recording: Acquisition,
    truth: Truth,
    *,
    psf_fwhm_m: tuple[float, float, float] | None,
    margin_wavelengths: float,
) -> LocalisationScore | None:
    """Score `NAME_localisations.csv`, or, where there is none, the samples of `NAME_tracks.csv` at whole frames.

    Args:
        stem: Path of the tables without their ending, FOLDER/NAME.
        recording: Gives grid, frames and wavelength.
        truth: Its true bubbles.
        psf_fwhm_m: Full widths at half maximum along the grid's axes, for recall by neighbour; None leaves that out.
        margin_wavelengths: Border of the field of view that does not count.

    Returns:
        None where there is neither table.

    Raises:
        RecordingError: If a table cannot be read.
    """
    table = _read_positions(stem, recording.geometry)
    if table is None:
        return None
    source, frame, position = table
    x, y, z, n_frames = recording.shape
    seen, there = (frame >= 0) & (frame < n_frames), truth.frame < n_frames
    field: dict[str, Any] = {
        "voxel_size_m": recording.geometry.voxel_size_m,
        "shape": (x, y, z),
        "margin_m": margin_wavelengths * recording.geometry.wavelength_m,
    }
    true_frame, true_position = truth.frame[there], truth.position_voxel[there]
    matchings = {
        ending: match_recording(
            frame[seen],
            position[seen],
            true_frame,
            true_position,
            gate_m=gate * recording.geometry.wavelength_m,
            **field,
        )
        for ending, gate in GATES_WAVELENGTHS.items()
    }
    found = None
    if psf_fwhm_m is not None:
        # The thickness of a 2D slice says nothing about its neighbours.
        step = np.where(np.array([x, y, z]) > 1, recording.geometry.voxel_size_m, 0.0)
        distance = neighbour_distance(true_frame, true_position * step, psf_fwhm_m)
        found = count_by_neighbour(matchings["_lambda_4"], distance, inside(true_position, **field))
    return LocalisationScore(source, matchings, found)


def pool_localisations(scores: Sequence[LocalisationScore]) -> LocalisationScore | None:
    """Join the scores of several recordings; None of none."""
    if not scores:
        return None
    matchings = {ending: pool_matchings([score.matchings[ending] for score in scores]) for ending in GATES_WAVELENGTHS}
    known = [score.by_neighbour for score in scores if score.by_neighbour is not None]
    sources = " and ".join(sorted({score.source for score in scores}))
    return LocalisationScore(sources, matchings, pool_by_neighbour(known) if known else None)


def score_tracks(
    stem: Path,
    recording: Acquisition,
    grid: Geometry,
    true_voxel: Int[np.ndarray, "m xyz=3"],
    *,
    shape: tuple[int, int, int],
    n_splits: int,
) -> dict[str, Any]:
    """Score `NAME_tracks.csv`: resolution by Fourier shell correlation, halves split by track, and saturation.

    Args:
        stem: Path of the table without its ending, FOLDER/NAME.
        recording: Gives frame rate and wavelength.
        grid: Of the map.
        true_voxel: True map on that grid: the reference of the saturation.
        shape: Size of the map.
        n_splits: Random splits into halves; 0 leaves the resolution out, which takes the longest.

    Returns:
        Numbers for the table and, under `resolution` and `saturation`, everything; empty where there is no table.

    Raises:
        RecordingError: If the table cannot be read.
    """
    path = stem.with_name(f"{stem.name}_tracks.csv")
    if not path.is_file():
        return {}
    voxel, track_id, frame = visits(read_tracks(path, recording.geometry), recording.geometry, grid, shape)
    columns: dict[str, Any] = {}
    if n_splits and max(shape) >= 8:
        found = split_resolution(
            voxel, track_id, shape=shape, voxel_size_m=grid.voxel_size_m, n_splits=n_splits, seed=SPLIT_SEED
        )
        by_threshold = {
            name: {"mean_um": 1e6 * one.mean_m, "standard_deviation_um": 1e6 * one.standard_deviation_m}
            for name, one in found.items()
        }
        columns = {f"resolution_{name}_um": value["mean_um"] for name, value in by_threshold.items()}
        n_tracks = len(np.unique(track_id))
        columns["resolution"] = {"n_splits": n_splits, "n_tracks": n_tracks, "seed": SPLIT_SEED} | by_threshold
    rate_hz, tolerance_m = recording.geometry.frame_rate_hz, SATURATION_TOLERANCE * recording.geometry.wavelength_m
    first = first_visit_s(true_voxel, voxel, frame / rate_hz, voxel_size_m=grid.voxel_size_m, tolerance_m=tolerance_m)
    time_s = np.linspace(0.0, recording.n_frames / rate_hz, N_TIMES)
    share = saturation_curve(first, time_s)
    fit = asdict(fit_saturation(time_s, share)) | {"share_at_end": float(share[-1])}
    return columns | {"saturation": fit, "saturation_t90_s": fit["t90_s"]}


def visits(
    tracks: Trajectories, geometry: Geometry, grid: Geometry, shape: tuple[int, int, int]
) -> tuple[Int[np.ndarray, "n xyz=3"], Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """List the voxels of a map that tracks pass, by way of scanner space, with their track and frame.

    Args:
        tracks: In voxels of the recording, sorted by track and then by time.
        geometry: Of the recording.
        grid: Of the map.
        shape: Size of the map; what lies outside is left out.
    """
    position = grid.to_voxel(geometry.to_scanner_m(tracks.position_voxel))
    on_grid = Trajectories(tracks.track_id, tracks.frame, position, tracks.velocity_m_s, tracks.amplitude)
    length = np.linalg.norm(np.diff(position, axis=0), axis=1)
    steps = np.ones(len(tracks), dtype=np.int64)
    steps[:-1] = np.maximum(np.ceil(length / SAMPLE_STEP), 1).astype(np.int64)
    path = interpolate(on_grid, steps)
    voxel = np.floor(path.position_voxel + 0.5).astype(np.int64)
    within = ((voxel >= 0) & (voxel < np.asarray(shape))).all(axis=1)
    return voxel[within], path.track_id[within], path.frame[within]


def _read_positions(stem: Path, geometry: Geometry) -> tuple[str, Int[np.ndarray, " n"], PositionsVoxel] | None:
    """Read the positions of bubbles frame by frame: table, frames, positions; None where there is no table."""
    localisations, tracks = (stem.with_name(f"{stem.name}_{table}.csv") for table in ("localisations", "tracks"))
    if localisations.is_file():
        found = read_localisations(localisations, geometry)
        return "localisations", found.frame, found.position_voxel
    if tracks.is_file():
        samples = read_tracks(tracks, geometry)
        whole = samples.frame == np.floor(samples.frame)
        return "tracks", samples.frame[whole].astype(np.int64), samples.position_voxel[whole]
    return None
