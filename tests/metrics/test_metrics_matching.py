import itertools

import numpy as np
import pytest

from sparse_ulm.metrics import match_localisations, pala_pairing


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


def test_bias_and_deviation_by_hand():
    truth = np.array([[0.0, 0, 0], [10, 10, 10], [20, 20, 20]])
    matching = match_localisations(truth + np.array([[0.1, 0, 0], [0.3, 0, 0], [0.2, 0.3, 0]]), truth, 1.0)
    assert matching.bias_m == pytest.approx((0.2, 0.1, 0.0))
    assert matching.deviation_m == pytest.approx((0.1, 0.03**0.5, 0.0))
    # The mean square is the squared bias and the (uncorrected) variance.
    squared = np.square(matching.bias_m) + np.square(matching.deviation_m) * 2 / 3
    assert np.square(matching.rmse_m) == pytest.approx(squared)
    one = match_localisations(truth[:1], truth[:1], 1.0)
    assert one.bias_m == (0.0, 0.0, 0.0)
    assert np.isnan(one.deviation_m).all()


@pytest.mark.parametrize("gate_m", [0.0, -1.0, np.nan, np.inf])
def test_a_gate_must_be_a_length(gate_m):
    with pytest.raises(ValueError, match="gate_m"):
        match_localisations(np.zeros((1, 3)), np.zeros((1, 3)), gate_m)


# --- defects of other tools ------------------------------------------------------------------------------------


def test_each_detection_is_paired_once():
    # Two true bubbles within the gate of one detection: pairing each truth with its nearest detection counts 125
    # true positives from 100 detections in such a set; one-to-one cannot exceed either side.
    truth = np.concatenate([np.column_stack([np.arange(100) * 10.0, z, z]) for z in (np.zeros(100), np.full(100, 0.4))])
    predicted = truth[:100] + np.array([0.0, 0.1, 0.1])
    nearest = np.linalg.norm(predicted[None] - truth[:125, None], axis=2).min(axis=1)
    assert (nearest < 1.0).sum() == 125
    matching = match_localisations(predicted, truth[:125], 1.0)
    assert len(matching.pairs) == len(np.unique(matching.pairs[:, 0])) == 100
    assert matching.scores == pytest.approx({"precision": 1.0, "recall": 0.8, "jaccard": 0.8, "f1": 200 / 225})


def test_pala_pairing_agrees_on_sparse_bubbles_and_loses_pairs_where_they_are_dense():
    rng = np.random.default_rng(1)
    sparse = np.arange(20)[:, None] * np.array([3.0, 2.0, 1.0])
    near = rng.permutation(sparse + rng.normal(0, 0.05, sparse.shape))
    assert pala_pairing(near, sparse, 0.5).pairs.tolist() == match_localisations(near, sparse, 0.5).pairs.tolist()
    dense = rng.uniform(0, 4, (100, 3))
    shifted = dense + rng.normal(0, 0.1, dense.shape)
    greedy, best = pala_pairing(shifted, dense, 0.5), match_localisations(shifted, dense, 0.5)
    assert len(best.pairs) > 90
    assert len(greedy.pairs) < 0.75 * len(best.pairs)


def test_pala_pairing_by_hand():
    # Detection 1 comes first (0.1 from truth 1), detection 0 next: truth 0, before truth 1 in order, is gone.
    truth = np.array([[0.0, 0, 0], [1.0, 0, 0]])
    predicted = np.array([[0.6, 0, 0], [0.9, 0, 0]])
    assert pala_pairing(predicted, truth, 2.0).pairs.tolist() == [[0, 0], [1, 1]]
    assert pala_pairing(predicted[::-1] * [1, 0, 0], truth, 0.5).pairs.tolist() == [[0, 1]]
    # Truth 1 is the farther of both from any detection, so that it comes last: whoever takes it first ends the pairing.
    predicted = np.array([[0.98, 0, 0], [0.01, 0, 0]])
    assert match_localisations(predicted, truth, 0.5).pairs.tolist() == [[0, 1], [1, 0]]
    none = np.empty((0, 3))
    assert len(pala_pairing(none, truth, 1.0).pairs) == len(pala_pairing(truth, none, 1.0).pairs) == 0
