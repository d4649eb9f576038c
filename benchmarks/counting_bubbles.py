"""Where bubbles and speeds agree with the truth, beside the maps: counts per recording, which may be added.

Positions are those of `NAME_localisations.csv`, matched one to one with the truth of their frame as `evaluate` does it
(`metrics.localisations`). Speeds are those of `NAME_speed.nii.gz`. A method without these files has only its map.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from counting import count_agreement
from referee import Method, config_values, fingerprint, load_json, maps_alone, run_config, save_json
from scipy.spatial import KDTree

from sparse_ulm.acquisition import Acquisition, Geometry
from sparse_ulm.blocks import truth_of, with_distinct_names
from sparse_ulm.classical.smoothing import with_velocity
from sparse_ulm.conventions import METRES_PER_MM
from sparse_ulm.evaluate import read_map
from sparse_ulm.evaluation_inputs import PSF_WIDTH, read_summary
from sparse_ulm.evaluation_localisations import score_localisations
from sparse_ulm.io import find_recordings, open_recordings
from sparse_ulm.io.truth import Truth
from sparse_ulm.localisations import Trajectories
from sparse_ulm.mapping.track_map import TrackMap
from sparse_ulm.metrics.maps import ROUNDING
from sparse_ulm.metrics.matching import Matching

GATES = ("lambda_4", "lambda_2")
SPEED_TOLERANCES = {"exact": 0.0, "lambda_10": 0.1}
"""Distances at which the speeds of two voxels are compared, in wavelengths."""
WIDE = "wide"
"""As lambda_10, in vessels at least as wide as the longest edge of a map's voxel."""

Counts = dict[str, Any]

_warm: set[str] = set()
"""Methods that this process has run: a first run imports and compiles, and its time says nothing."""


def score_bubbles(work: Path, method: Method, recordings: Path) -> dict[str, Any]:
    """Run a method on a folder of recordings and count bubbles, map and speeds, or find that done.

    Args:
        work: Where the result is kept.
        method: The method.
        recordings: Folder of simulated recordings with their truth.

    Returns:
        `seconds` of CPU time that the run took, reading and writing (density and speed) included, and `recordings`:
        the rows of `count_bubbles`.
    """
    asked = ["bubbles", method.config, method.options, config_values(method.config), recordings]
    path = work / "bubbles" / f"{fingerprint(asked)}.json"
    if path.is_file():
        return load_json(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".maps.") as name:
        seconds = timed_run(method, recordings, Path(name), **maps_alone("speed"))
        rows = count_bubbles(Path(name) / "maps", recordings)
    result = {"method": method.name, "seconds": seconds, "recordings": rows}
    save_json(path, result)
    return result


def timed_run(method: Method, recordings: Path, folder: Path, **options: Any) -> float:
    """Run a method on recordings and give the seconds of CPU time; `folder/maps` then holds what it wrote."""
    chosen = method.options | options
    if method.name not in _warm:
        first = find_recordings(recordings)[0]
        run_config(method.config, dataset_dir=first, output_dir=folder / "unmeasured", **chosen)
        _warm.add(method.name)
    started = time.process_time()
    run_config(method.config, dataset_dir=recordings, output_dir=folder / "maps", **chosen)
    return time.process_time() - started


def count_bubbles(maps: Path, recordings: Path) -> list[Counts]:
    """Count the bubbles, voxels and speeds of every recording that agree with its truth.

    Args:
        maps: Folder of what a method wrote, `NAME/NAME_density.nii.gz` and so on.
        recordings: Folder of the recordings with their truth.

    Returns:
        The rows of `counting.count_agreement`, one per recording, and in each `bubbles` (`gate_counts` by `GATES`),
        `neighbours` (`n_truth` and `n_found` by `metrics.localisations.NEIGHBOUR_BINS`, where a simulation says the
        PSF's width) and `speed` (`speed_counts`); None where there is no such thing.
    """
    found = with_distinct_names([one for path in find_recordings(recordings) for one in open_recordings(path)])
    opened, drawn = {one.name: one for one in found}, read_summary(recordings)
    rows = []
    for row in count_agreement(maps, recordings):
        recording, stem = opened[row["name"]], maps / row["name"] / row["name"]
        truth = truth_of(recording)
        score = score_localisations(
            stem,
            recording,
            truth,
            psf_fwhm_m=drawn.get(recording.name, {}).get(PSF_WIDTH),
            margin_wavelengths=0.0,
        )
        bubbles, neighbours = None, None
        if score is not None:
            wavelength_m = recording.geometry.wavelength_m
            bubbles = {gate: gate_counts(score.matchings[f"_{gate}"], wavelength_m) for gate in GATES}
            if score.by_neighbour is not None:
                near = score.by_neighbour
                neighbours = {"n_truth": near.n_truth.tolist(), "n_found": near.n_found.tolist()}
        speed = speed_counts(stem.with_name(f"{stem.name}_speed.nii.gz"), recording, truth)
        rows.append(row | {"bubbles": bubbles, "neighbours": neighbours, "speed": speed})
    return rows


def gate_counts(matching: Matching, wavelength_m: float) -> Counts:
    """Count a matching: bubbles, and per axis the sums of errors (µm) and of their squares (µm², λ²)."""
    error_um = 1e6 * matching.error_m
    return {
        "n_predicted": matching.n_predicted,
        "n_truth": matching.n_truth,
        "n_pairs": len(matching.pairs),
        "error_um": error_um.sum(axis=0).tolist(),
        "squared_um2": (error_um**2).sum(axis=0).tolist(),
        "squared_wavelengths2": ((matching.error_m / wavelength_m) ** 2).sum(axis=0).tolist(),
    }


def speed_counts(path: Path, recording: Acquisition, truth: Truth) -> Counts | None:
    """Compare a map of mean speed with the true one, in its voxels that have a visited true voxel near.

    The true one is `TrackMap` of the true trajectories with velocities by central differences: per voxel the mean over
    bubbles of each one's mean speed inside. A voxel is compared with the nearest visited one of the truth, by
    `SPEED_TOLERANCES`: itself, where both maps visit it, or as near as map and truth have to be for the Dice. Where the
    truth says how wide vessels are, those as wide as a voxel are counted once more, as `WIDE`.

    Returns:
        Per tolerance the number of voxels, and the sums over them of the map's speed v, of the true speed w, of
        |v - w| (mm/s) and of |v - w| / w; None where there is no map of speed.
    """
    if not path.is_file():
        return None
    values, grid = read_map(path, recording.geometry)
    x, y, z = values.shape
    true_m_s, radius_m = true_speed_and_radius(truth, recording, grid, (x, y, z))
    true = true_m_s / METRES_PER_MM
    visited, true_visited = np.argwhere(np.isfinite(values)), np.argwhere(true > 0)
    step_wavelengths = np.asarray(grid.voxel_size_m) / recording.geometry.wavelength_m
    distance, nearest = KDTree(true_visited * step_wavelengths).query(visited * step_wavelengths)
    found = {}
    for name, tolerance in SPEED_TOLERANCES.items():
        near = distance <= tolerance * ROUNDING
        found[name] = _speed_sums(values[tuple(visited[near].T)], true[tuple(true_visited[nearest[near]].T)])
    if radius_m is not None:
        near &= 2 * radius_m[tuple(true_visited[nearest].T)] >= max(grid.voxel_size_m)
        found[WIDE] = _speed_sums(values[tuple(visited[near].T)], true[tuple(true_visited[nearest[near]].T)])
    return found


def _speed_sums(speed: np.ndarray, true: np.ndarray) -> Counts:
    v: np.ndarray = speed.astype(np.float64)
    w: np.ndarray = true.astype(np.float64)
    sums = {"speed": v.sum(), "true": w.sum(), "error": np.abs(v - w).sum(), "share": (np.abs(v - w) / w).sum()}
    return {"n_voxels": len(v)} | {name: float(value) for name, value in sums.items()}


def true_speed_and_radius(
    truth: Truth, recording: Acquisition, grid: Geometry, shape: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Give the true mean speed in every voxel of a map's grid, and the mean radius of its vessels where it is known.

    Both are NaN where no bubble passed. A bubble that was away for a frame is two trajectories, and one that was there
    for one frame has no speed.
    """
    order = np.lexsort((truth.frame, truth.track_id))
    order = order[truth.frame[order] < recording.n_frames]
    track_id, frame = truth.track_id[order], truth.frame[order]
    joined = (np.diff(track_id) == 0) & (np.diff(frame) == 1)
    part = np.cumsum(np.r_[True, ~joined][: len(order)]).astype(np.int64)
    kept = np.bincount(part, minlength=1)[part] > 1
    n = int(kept.sum())
    still = np.zeros((n, 3))
    position = truth.position_voxel[order][kept]
    tracks = Trajectories(part[kept], frame[kept].astype(np.float64), position, still, np.ones(n))
    velocity = with_velocity(tracks, recording.geometry).velocity_m_s
    on_grid = grid.to_voxel(recording.geometry.to_scanner_m(position))

    def mean_length(vector: np.ndarray) -> np.ndarray:
        found = TrackMap(shape, (1, 1, 1), grid)
        found.add(Trajectories(tracks.track_id, tracks.frame, on_grid, vector, tracks.amplitude))
        return found.speed().dense()

    if truth.vessel_radius_m is None:
        return mean_length(velocity), None
    radius = truth.vessel_radius_m[order][kept]
    return mean_length(velocity), mean_length(radius[:, None] * np.array([1.0, 0.0, 0.0]))
