"""How well a map or a set of positions agrees with the truth.

Maps are compared as sets of visited voxels. Dice is 2 |A ∩ B| / (|A| + |B|) on the maps of a whole recording, voxel
exact, as Rauby et al.'s released code computes it. At an eighth of a voxel that is harsh: a vessel drawn one
sub-voxel aside scores 0. The tolerant scores therefore count a voxel as found when the other map has one within a
distance, by default a tenth of the wavelength; precision is the share of predicted voxels that are found so, recall
the share of true ones, and the tolerant Dice is their harmonic mean. With a tolerance of 0 they are the exact ones.

Conventions for empty maps: both empty is full agreement, all scores 1; only one empty is none, all scores 0.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from sparse_ulm.acquisition import Geometry

ROUNDING = 1.0 + 1.0e-9
"""Distances equal to the tolerance count as within; this factor keeps rounding from deciding."""


def dice(predicted: Int[np.ndarray, "n xyz=3"], truth: Int[np.ndarray, "m xyz=3"]) -> float:
    """Give the voxel-exact Dice of two sets of voxels, in [0, 1]; rows may repeat and come in any order."""
    return scores_from_counts(*overlap_counts(predicted, truth, voxel_size_m=(1.0, 1.0, 1.0), tolerance_m=0.0))["dice"]


def tolerant_overlap(
    predicted: Int[np.ndarray, "n xyz=3"],
    truth: Int[np.ndarray, "m xyz=3"],
    *,
    voxel_size_m: tuple[float, float, float],
    tolerance_m: float,
) -> dict[str, float]:
    """Compare two sets of voxels within a distance.

    Args:
        predicted: Voxels of the predicted map.
        truth: Voxels of the true map, on the same grid.
        voxel_size_m: Grid step along x, y and z; distances are between voxel centres.
        tolerance_m: Largest distance that counts as found, inclusive; 0 for voxel exact.

    Returns:
        `precision`, `recall` and `dice` (their harmonic mean), each in [0, 1].
    """
    return scores_from_counts(*overlap_counts(predicted, truth, voxel_size_m=voxel_size_m, tolerance_m=tolerance_m))


def overlap_counts(
    predicted: Int[np.ndarray, "n xyz=3"],
    truth: Int[np.ndarray, "m xyz=3"],
    *,
    voxel_size_m: tuple[float, float, float],
    tolerance_m: float,
) -> tuple[int, int, int, int]:
    """Count what `scores_from_counts` needs; counts of several maps may be added to pool them.

    Returns:
        Predicted voxels, true voxels, predicted voxels with a true one within the tolerance, true voxels with a
        predicted one.

    Raises:
        ValueError: If the tolerance is negative.
    """
    if tolerance_m < 0:
        raise ValueError(f"tolerance_m is {tolerance_m}; wanted 0 or more.")
    (key_predicted, key_truth), (predicted, truth) = _without_repeats(predicted, truth)
    found_predicted = np.isin(key_predicted, key_truth)
    found_truth = np.isin(key_truth, key_predicted)
    if tolerance_m * ROUNDING >= min(voxel_size_m) and len(predicted) and len(truth):
        step = np.asarray(voxel_size_m)
        found_predicted[~found_predicted] = _near(predicted[~found_predicted] * step, truth * step, tolerance_m)
        found_truth[~found_truth] = _near(truth[~found_truth] * step, predicted * step, tolerance_m)
    return len(predicted), len(truth), int(found_predicted.sum()), int(found_truth.sum())


def scores_from_counts(
    n_predicted: int | float, n_truth: int | float, n_predicted_found: int | float, n_truth_found: int | float
) -> dict[str, float]:
    """Turn (pooled) counts into `precision`, `recall` and `dice`, their harmonic mean.

    >>> scores_from_counts(4, 2, 2, 2)
    {'precision': 0.5, 'recall': 1.0, 'dice': 0.6666666666666666}
    """
    if not n_predicted or not n_truth:
        score = float(n_predicted == n_truth)
        return {"precision": score, "recall": score, "dice": score}
    precision, recall = n_predicted_found / n_predicted, n_truth_found / n_truth
    both = precision + recall
    return {"precision": precision, "recall": recall, "dice": 2 * precision * recall / both if both else 0.0}


def map_scores(
    predicted: Int[np.ndarray, "n xyz=3"],
    truth: Int[np.ndarray, "m xyz=3"],
    geometry_refined: Geometry,
    wavelength_m: float,
) -> dict[str, float]:
    """Score a map voxel exact and within a tenth of the wavelength.

    Args:
        predicted: Voxels of the predicted map.
        truth: Voxels of the true map.
        geometry_refined: The grid of both. Where its steps exceed the tolerance, both kinds of score are the same.
        wavelength_m: Sound speed over transmit frequency.

    Returns:
        `dice`, `precision`, `recall`, and the same with the ending `_lambda_10`.
    """
    scores: dict[str, float] = {}
    for ending, tolerance_m in (("", 0.0), ("_lambda_10", wavelength_m / 10)):
        found = tolerant_overlap(predicted, truth, voxel_size_m=geometry_refined.voxel_size_m, tolerance_m=tolerance_m)
        scores |= {f"{name}{ending}": found[name] for name in ("dice", "precision", "recall")}
    return scores


@dataclass(frozen=True)
class Matching:
    """One-to-one pairs of predicted and true positions, and the scores that follow.

    Attributes:
        pairs: Rows (predicted, truth), sorted by predicted.
        error_m: Predicted minus true position of each pair, along x, y and z.
        n_predicted: Number of predicted positions.
        n_truth: Number of true positions.
    """

    pairs: Int[np.ndarray, "k 2"]
    error_m: Float[np.ndarray, "k xyz=3"]
    n_predicted: int
    n_truth: int

    @property
    def scores(self) -> dict[str, float]:
        """Precision, recall, Jaccard = TP / (TP + FP + FN) and F1; 1 when both sets are empty, 0 when one is."""
        n_pairs = len(self.pairs)
        overlap = scores_from_counts(self.n_predicted, self.n_truth, n_pairs, n_pairs)
        union = self.n_predicted + self.n_truth - n_pairs
        return {
            "precision": overlap["precision"],
            "recall": overlap["recall"],
            "jaccard": n_pairs / union if union else 1.0,
            "f1": overlap["dice"],
        }

    @property
    def rmse_m(self) -> tuple[float, float, float]:
        """Root mean square error of the pairs along x, y and z; NaN without pairs."""
        if not len(self.pairs):
            return (np.nan, np.nan, np.nan)
        x, y, z = np.sqrt(np.mean(self.error_m**2, axis=0))
        return float(x), float(y), float(z)


def match_localisations(
    predicted_m: Float[np.ndarray, "n xyz=3"], truth_m: Float[np.ndarray, "m xyz=3"], gate_m: float
) -> Matching:
    """Pair predicted and true positions of one frame one-to-one within a gate.

    As many pairs as the gate allows, and among those the ones with the least sum of squared distances (our choice:
    greedy pairing, as PALA's, loses pairs where bubbles are close, and pairing without one-to-one counts a detection
    several times). The assignment problem is solved for each connected group of candidates, which is exact.

    Args:
        predicted_m: Predicted positions.
        truth_m: True positions.
        gate_m: Largest distance of a pair, inclusive: λ/4 for a true positive and λ/2 for a pair in PALA.
    """
    n_predicted, n_truth = len(predicted_m), len(truth_m)
    near = KDTree(predicted_m).query_ball_tree(KDTree(truth_m), gate_m * ROUNDING) if n_predicted and n_truth else []
    row = np.repeat(np.arange(len(near)), [len(candidates) for candidates in near])
    column = np.asarray([candidate for candidates in near for candidate in candidates], dtype=np.int64)
    squared = np.sum((predicted_m[row] - truth_m[column]) ** 2, axis=1)
    pairs = [pair for group in _groups(row, column, n_predicted, n_truth) for pair in _assign(*group, squared, gate_m)]
    table = np.asarray(sorted(pairs), dtype=np.int64).reshape(-1, 2)
    return Matching(table, predicted_m[table[:, 0]] - truth_m[table[:, 1]], n_predicted, n_truth)


def _groups(
    row: NDArray[np.int64], column: NDArray[np.int64], n_rows: int, n_columns: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
    """Split candidate pairs into groups that share no position: rows, columns and numbers of the candidates of each."""
    if not len(row):
        return
    size = n_rows + n_columns
    graph = csr_array((np.ones(len(row), dtype=bool), (row, column + n_rows)), shape=(size, size))
    group = connected_components(graph, directed=False)[1][row]
    order = np.argsort(group, kind="stable")
    for candidates in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        yield row[candidates], column[candidates], candidates


def _assign(
    row: NDArray[np.int64],
    column: NDArray[np.int64],
    candidates: NDArray[np.int64],
    squared_m2: NDArray[np.float64],
    gate_m: float,
) -> list[tuple[int, int]]:
    """Solve one group; a forbidden pair costs more than all allowed ones together, so that it is the last resort."""
    rows, local_row = np.unique(row, return_inverse=True)
    columns, local_column = np.unique(column, return_inverse=True)
    allowed = np.zeros((len(rows), len(columns)), dtype=bool)
    allowed[local_row, local_column] = True
    cost = np.full(allowed.shape, 2.0 * (min(allowed.shape) + 1))
    cost[local_row, local_column] = squared_m2[candidates] / max(gate_m, np.finfo(float).tiny) ** 2
    return [(int(rows[i]), int(columns[j])) for i, j in zip(*linear_sum_assignment(cost), strict=True) if allowed[i, j]]


def _near(position_m: NDArray[np.float64], others_m: NDArray[np.float64], tolerance_m: float) -> NDArray[np.bool_]:
    """Tell which positions have one of the others within the tolerance."""
    if not len(position_m):
        return np.zeros(0, dtype=bool)
    distance, _ = KDTree(others_m).query(position_m, distance_upper_bound=tolerance_m * ROUNDING)
    return np.isfinite(distance)


def _without_repeats(
    *voxels: NDArray[np.integer],
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.integer]]]:
    """Number the voxels of two sets alike, and drop repeats: numbers, then voxels."""
    every = np.concatenate(voxels).astype(np.int64)
    low, high = (every.min(axis=0), every.max(axis=0)) if len(every) else (np.zeros(3, int), np.zeros(3, int))
    keys, kept = [], []
    for index in voxels:
        key, first = np.unique(np.ravel_multi_index(tuple((index - low).T), tuple(high - low + 1)), return_index=True)
        keys.append(key.astype(np.int64))
        kept.append(index[first])
    return keys, kept
