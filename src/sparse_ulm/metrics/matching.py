"""One-to-one pairs of predicted and true bubble positions."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
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
