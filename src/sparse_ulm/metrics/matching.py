"""One-to-one pairs of predicted and true bubble positions, in one frame or over all frames of a recording.

As many pairs as the gate allows, and among those the ones with the least sum of squared distances (our choice: greedy
pairing, as PALA's, loses pairs where bubbles are close, and pairing without one-to-one counts a detection several
times). The assignment problem is solved for each connected group of candidates, which is exact.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from sparse_ulm.metrics.maps import ROUNDING, scores_from_counts


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
        return self._per_axis(np.sqrt(np.mean(self.error_m**2, axis=0))) if len(self.pairs) else self._unknown

    @property
    def bias_m(self) -> tuple[float, float, float]:
        """Mean error of the pairs along x, y and z; NaN without pairs."""
        return self._per_axis(np.mean(self.error_m, axis=0)) if len(self.pairs) else self._unknown

    @property
    def deviation_m(self) -> tuple[float, float, float]:
        """Standard deviation of the error (with n - 1) along x, y and z; NaN with fewer than two pairs."""
        return self._per_axis(np.std(self.error_m, axis=0, ddof=1)) if len(self.pairs) > 1 else self._unknown

    _unknown = (np.nan, np.nan, np.nan)

    @staticmethod
    def _per_axis(values: NDArray[np.float64]) -> tuple[float, float, float]:
        """Unpack three numbers."""
        x, y, z = values
        return float(x), float(y), float(z)


def match_localisations(
    predicted_m: Float[np.ndarray, "n xyz=3"], truth_m: Float[np.ndarray, "m xyz=3"], gate_m: float
) -> Matching:
    """Pair predicted and true positions of one frame one-to-one within a gate.

    Args:
        predicted_m: Predicted positions.
        truth_m: True positions.
        gate_m: Largest distance of a pair, inclusive: λ/4 for a true positive and λ/2 for a pair in PALA.
    """
    every_frame = np.zeros(len(predicted_m), dtype=np.int64), np.zeros(len(truth_m), dtype=np.int64)
    return match_frames(every_frame[0], predicted_m, every_frame[1], truth_m, gate_m=gate_m)


def match_frames(
    predicted_frame: Int[np.ndarray, " n"],
    predicted_m: Float[np.ndarray, "n xyz=3"],
    truth_frame: Int[np.ndarray, " m"],
    truth_m: Float[np.ndarray, "m xyz=3"],
    *,
    gate_m: float,
) -> Matching:
    """Pair the positions of all frames at once, each only with those of its own frame; counts are pooled.

    Args:
        predicted_frame: Frame of each predicted position.
        predicted_m: Predicted positions.
        truth_frame: Frame of each true position.
        truth_m: True positions, in the same axes.
        gate_m: Largest distance of a pair, inclusive.

    Returns:
        Pairs that number rows of both tables.

    Raises:
        ValueError: If the gate is not positive and finite.
    """
    if not (np.isfinite(gate_m) and gate_m > 0):
        raise ValueError(f"gate_m is {gate_m}; wanted a positive length in metres.")
    row, column = _candidates(predicted_frame, predicted_m, truth_frame, truth_m, gate_m)
    squared = np.sum((predicted_m[row] - truth_m[column]) ** 2, axis=1)
    # Most bubbles have one candidate that has no other: these pairs are settled without an assignment problem.
    alone = (np.bincount(row, minlength=1)[row] == 1) & (np.bincount(column, minlength=1)[column] == 1)
    groups = _groups(row[~alone], column[~alone], len(predicted_m), len(truth_m))
    pairs = [pair for group in groups for pair in _assign(*group, squared[~alone], gate_m)]
    table = np.concatenate([np.column_stack([row[alone], column[alone]]), np.reshape(pairs, (-1, 2)).astype(np.int64)])
    table = table[np.argsort(table[:, 0], kind="stable")]
    return Matching(table, predicted_m[table[:, 0]] - truth_m[table[:, 1]], len(predicted_m), len(truth_m))


def inside_only(
    matching: Matching, *, predicted_inside: Bool[np.ndarray, " n"], truth_inside: Bool[np.ndarray, " m"]
) -> Matching:
    """Leave out what lies outside of a region, without punishing pairs that its border cuts.

    A pair belongs to where its truth is; a position without partner to where it is itself. A bubble just outside that
    was rightly found is so neither a true nor a false positive.

    Returns:
        Matching with the pairs left, numbered as before, and the counts of what belongs inside.
    """
    keep = truth_inside[matching.pairs[:, 1]]
    belongs = predicted_inside.copy()
    belongs[matching.pairs[:, 0]] = keep
    return Matching(matching.pairs[keep], matching.error_m[keep], int(belongs.sum()), int(truth_inside.sum()))


def pool_matchings(matchings: Sequence[Matching]) -> Matching:
    """Join the matchings of several recordings: counts add, errors are pooled.

    Rows of `pairs` go on numbering the tables of the recording that they come from.
    """
    return Matching(
        np.concatenate([np.empty((0, 2), dtype=np.int64), *(m.pairs for m in matchings)]),
        np.concatenate([np.empty((0, 3)), *(m.error_m for m in matchings)]),
        sum(m.n_predicted for m in matchings),
        sum(m.n_truth for m in matchings),
    )


def pala_pairing(
    predicted_m: Float[np.ndarray, "n xyz=3"], truth_m: Float[np.ndarray, "m xyz=3"], gate_m: float
) -> Matching:
    """Pair the positions of one frame as PALA does: greedily. For comparison with published numbers only.

    Both sets are ordered by the distance to their nearest partner. Each prediction in turn takes the nearest of the
    true positions that come *after* the one taken last: those before it are lost, though free. Pairs beyond the gate
    (exclusive) are dropped at the end and not offered to others.

    Source: PALA's pairing as the reference notes describe it; written anew.
    """
    if not len(predicted_m) or not len(truth_m):
        return Matching(np.empty((0, 2), dtype=np.int64), np.empty((0, 3)), len(predicted_m), len(truth_m))
    distance = np.linalg.norm(predicted_m[:, None] - truth_m[None], axis=2)
    truth_order = np.argsort(distance.min(axis=0), kind="stable")
    pairs: list[tuple[int, int]] = []
    first = 0
    for i in np.argsort(distance.min(axis=1), kind="stable"):
        if first == len(truth_order):
            break
        taken = first + int(np.argmin(distance[i, truth_order[first:]]))
        if distance[i, truth_order[taken]] < gate_m:
            pairs.append((int(i), int(truth_order[taken])))
        first = taken + 1
    table = np.asarray(sorted(pairs), dtype=np.int64).reshape(-1, 2)
    return Matching(table, predicted_m[table[:, 0]] - truth_m[table[:, 1]], len(predicted_m), len(truth_m))


def with_frame_axis(
    frame: NDArray[np.integer], position: NDArray[np.floating], spacing: float
) -> Float[np.ndarray, "n xyzt=4"]:
    """Append the frame as a fourth coordinate, `spacing` apart: one tree over all frames then keeps them apart."""
    return np.column_stack([position, frame * spacing]).astype(np.float64)


def _candidates(
    predicted_frame: NDArray[np.integer],
    predicted_m: NDArray[np.floating],
    truth_frame: NDArray[np.integer],
    truth_m: NDArray[np.floating],
    gate_m: float,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """List all (predicted, truth) of one frame within the gate."""
    if not len(predicted_m) or not len(truth_m):
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    trees = (
        KDTree(with_frame_axis(frame, position, 2 * gate_m))
        for frame, position in ((predicted_frame, predicted_m), (truth_frame, truth_m))
    )
    near = next(trees).sparse_distance_matrix(next(trees), gate_m * ROUNDING, output_type="ndarray")
    return near["i"].astype(np.int64), near["j"].astype(np.int64)


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
    cost[local_row, local_column] = squared_m2[candidates] / gate_m**2
    return [(int(rows[i]), int(columns[j])) for i, j in zip(*linear_sum_assignment(cost), strict=True) if allowed[i, j]]
