"""One-to-one assignment, against all permutations."""

from itertools import combinations

import numpy as np
import pytest

from sparse_ulm.classical.assignment import assign, pairs_within


def best_by_force(pairs, cost, unlinked_cost):
    """The cheapest set of candidates in which nobody is twice, by trying all of them."""
    best, chosen = 0.0, ()
    for size in range(1, len(pairs) + 1):
        for some in combinations(range(len(pairs)), size):
            rows, columns = pairs[list(some)].T
            if len(set(rows)) == len(set(columns)) == size:
                total = sum(cost[i] - unlinked_cost for i in some)
                if total < best - 1e-12:
                    best, chosen = total, some
    return best, {tuple(pairs[i]) for i in chosen}


@pytest.mark.parametrize("unlinked_cost", [0.4, 1.0, 50.0])
@pytest.mark.parametrize("seed", range(8))
def test_the_cheapest_of_all_assignments_is_found(seed, unlinked_cost):
    rng = np.random.default_rng(seed)
    every = np.array([(i, j) for i in range(5) for j in range(6)])
    pairs = every[rng.random(len(every)) < 0.4][:12]
    cost = rng.random(len(pairs))
    taken = assign(pairs, cost, unlinked_cost=unlinked_cost)
    assert {tuple(pair) for pair in taken} == best_by_force(pairs, cost, unlinked_cost)[1]


def test_many_pairs_are_worth_more_than_near_ones_where_leaving_is_dear():
    pairs, cost = np.array([[0, 0], [0, 1], [1, 0]]), np.array([0.0, 0.9, 0.9])
    assert assign(pairs, cost, unlinked_cost=10.0).tolist() == [[0, 1], [1, 0]]
    assert assign(pairs, cost, unlinked_cost=1.0).tolist() == [[0, 0]]


def test_no_candidates_no_pairs():
    none = np.zeros((0, 2), dtype=np.int64)
    assert assign(none, np.zeros(0), unlinked_cost=1.0).shape == (0, 2)
    assert pairs_within(np.zeros((0, 3)), np.zeros((2, 3)), 1.0).shape == (0, 2)


def test_pairs_within_are_those_of_all_distances():
    rng = np.random.default_rng(3)
    first, second = rng.random((7, 3)), rng.random((9, 3))
    near = np.argwhere(np.linalg.norm(first[:, None] - second[None], axis=2) <= 0.5)
    found = pairs_within(first, second, 0.5)
    assert 0 < len(near) < 63
    assert {tuple(pair) for pair in found} == {tuple(pair) for pair in near}
