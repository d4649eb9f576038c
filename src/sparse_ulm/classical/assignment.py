"""One-to-one assignment among candidate pairs, solved exactly for each group of candidates that share a member."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

Pairs = Int[np.ndarray, "k 2"]
"""Rows (row, column): a member of the first set and one of the second."""


def pairs_within(first_m: Float[np.ndarray, "n xyz=3"], second_m: Float[np.ndarray, "m xyz=3"], gate_m: float) -> Pairs:
    """List all pairs no farther apart than the gate, by KD-tree.

    Args:
        first_m: Positions of the first set.
        second_m: Positions of the second set.
        gate_m: Largest distance, inclusive.
    """
    if not (len(first_m) and len(second_m)):
        return np.zeros((0, 2), dtype=np.int64)
    near = KDTree(first_m).query_ball_tree(KDTree(second_m), gate_m)
    row = np.repeat(np.arange(len(near)), [len(columns) for columns in near])
    column = np.asarray([column for columns in near for column in columns], dtype=np.int64)
    return np.column_stack([row, column])


def assign(pairs: Pairs, cost: Float[np.ndarray, " k"], *, unlinked_cost: float) -> Int[np.ndarray, "taken 2"]:
    """Choose pairs, each member at most once, with the least sum of (cost - unlinked_cost).

    A pair is therefore taken rather than left when it costs less than `unlinked_cost`; where that exceeds the sum of
    all costs, as many pairs as possible are taken and among those the cheapest.

    Args:
        pairs: Candidates, no pair twice.
        cost: Cost of each.
        unlinked_cost: What leaving one more pair unlinked costs.

    Returns:
        The pairs taken, sorted by row.

    Source: gate by KD-tree and SciPy's `linear_sum_assignment` per connected component (reference notes §5.9: exact,
    and the fastest of six).
    """
    taken = [one for members in _groups(pairs) for one in _solve(pairs[members], cost[members] - unlinked_cost)]
    return np.asarray(sorted(taken), dtype=np.int64).reshape(-1, 2)


def _groups(pairs: Pairs) -> Iterator[NDArray[np.int64]]:
    """Split candidates into groups that share no member: numbers of the candidates of each."""
    if not len(pairs):
        return
    row, column = pairs.T
    n_rows = int(row.max()) + 1
    size = n_rows + int(column.max()) + 1
    graph = csr_array((np.ones(len(row), dtype=bool), (row, column + n_rows)), shape=(size, size))
    group = connected_components(graph, directed=False)[1][row]
    order = np.argsort(group, kind="stable")
    yield from np.split(order, np.flatnonzero(np.diff(group[order])) + 1)


def _solve(pairs: Pairs, gain: Float[np.ndarray, " k"]) -> list[tuple[int, int]]:
    """Solve one group. What is no candidate costs 0, which is what leaving both unlinked costs."""
    if len(pairs) == 1:  # most groups: nobody to compete with
        return [(int(pairs[0, 0]), int(pairs[0, 1]))] if gain[0] < 0 else []
    rows, row = np.unique(pairs[:, 0], return_inverse=True)
    columns, column = np.unique(pairs[:, 1], return_inverse=True)
    cost = np.zeros((len(rows), len(columns)))
    cost[row, column] = np.minimum(gain, 0.0)
    chosen = zip(*linear_sum_assignment(cost), strict=True)
    return [(int(rows[i]), int(columns[j])) for i, j in chosen if cost[i, j] < 0]
