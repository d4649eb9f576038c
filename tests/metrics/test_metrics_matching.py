import itertools

import numpy as np
import pytest

from sparse_ulm.metrics import match_localisations


def brute_force(predicted, truth, gate):
    """Try every one-to-one pairing: most pairs first, then the least sum of squared distances."""
    squared = ((predicted[:, None] - truth[None]) ** 2).sum(-1)
    best = (0, 0.0)
    n = len(predicted)
    for columns in itertools.permutations([*range(len(truth)), *[-1] * n], n):
        pairs = [(i, j) for i, j in enumerate(columns) if j >= 0]
        if all(squared[i, j] <= gate**2 for i, j in pairs):
            best = max(best, (len(pairs), -sum(squared[i, j] for i, j in pairs)))
    return best


def test_matching_by_hand():
    truth = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [9.0, 9.0, 9.0]])
    predicted = np.array([[1.2, 0.0, 0.1], [0.0, 0.3, 0.0], [5.0, 5.0, 5.0], [1.0, 0.0, 0.4]])
    matching = match_localisations(predicted, truth, 0.5)
    assert matching.pairs.tolist() == [[0, 1], [1, 0]]  # the last one is near the second truth too, but farther
    np.testing.assert_allclose(matching.error_m, [[0.2, 0.0, 0.1], [0.0, 0.3, 0.0]])
    assert matching.scores == pytest.approx({"precision": 2 / 4, "recall": 2 / 3, "jaccard": 2 / 5, "f1": 4 / 7})
    assert matching.rmse_m == pytest.approx((0.2 / 2**0.5, 0.3 / 2**0.5, 0.1 / 2**0.5))


def test_the_gate_is_inclusive():
    one, other = np.array([[0.1, 0.0, 0.0]]), np.array([[0.4, 0.0, 0.0]])
    assert len(match_localisations(one, other, 0.3).pairs) == 1
    assert len(match_localisations(one, other, 0.2999).pairs) == 0


def test_a_greedy_pairing_would_lose_a_pair():
    truth = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    predicted = np.array([[0.9, 0.0, 0.0], [1.8, 0.0, 0.0]])  # the first is nearest to truth 1, which only 1.8 can take
    assert match_localisations(predicted, truth, 1.0).pairs.tolist() == [[0, 0], [1, 1]]


@pytest.mark.parametrize("seed", range(25))
def test_agrees_with_brute_force(seed):
    rng = np.random.default_rng(seed)
    predicted, truth = rng.random((rng.integers(1, 5), 3)), rng.random((rng.integers(1, 5), 3))
    matching = match_localisations(predicted, truth, 0.5)
    assert len(set(matching.pairs[:, 0])) == len(set(matching.pairs[:, 1])) == len(matching.pairs)
    n_pairs, negative_sum = brute_force(predicted, truth, 0.5)
    assert len(matching.pairs) == n_pairs
    assert (matching.error_m**2).sum() == pytest.approx(-negative_sum)


def test_matching_laws_and_many_groups():
    rng = np.random.default_rng(0)
    truth = rng.uniform(0, 20, (400, 3))
    predicted = np.concatenate([truth[:300] + rng.normal(0, 0.2, (300, 3)), rng.uniform(0, 20, (50, 3))])
    matching = match_localisations(predicted, truth, 1.0)
    swapped = match_localisations(truth, predicted, 1.0)
    assert as_pairs(swapped.pairs[:, ::-1]) == as_pairs(matching.pairs)
    rows = rng.permutation(len(predicted))
    permuted = match_localisations(predicted[rows], truth, 1.0)
    assert as_pairs(np.column_stack([rows[permuted.pairs[:, 0]], permuted.pairs[:, 1]])) == as_pairs(matching.pairs)
    assert matching.scores["recall"] > 0.7


def as_pairs(table):
    """Rows as a set of pairs."""
    return set(map(tuple, table.tolist()))


def test_matching_of_empty_sets():
    none, one = np.empty((0, 3)), np.zeros((1, 3))
    assert set(match_localisations(none, none, 1.0).scores.values()) == {1.0}
    assert set(match_localisations(one, none, 1.0).scores.values()) == {0.0}
    assert set(match_localisations(none, one, 1.0).scores.values()) == {0.0}
    assert np.isnan(match_localisations(none, one, 1.0).rmse_m).all()
