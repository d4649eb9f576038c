import numpy as np
import pytest

from sparse_ulm.metrics import match_localisations, pool_matchings
from sparse_ulm.metrics.localisations import (
    NEIGHBOUR_BINS,
    count_by_neighbour,
    inside,
    match_recording,
    neighbour_distance,
    pool_by_neighbour,
    summarise,
)

SHAPE = (10, 11, 12)
STEP = (5e-5, 6e-5, 4e-5)
GRID = {"voxel_size_m": STEP, "shape": SHAPE}


def random_recording(seed, n_frames=6):
    """Truth, and predictions near most of it: frames and positions in voxels of both."""
    rng = np.random.default_rng(seed)
    n = 40 * n_frames
    frame = np.sort(rng.integers(0, n_frames, n))
    truth = rng.uniform(-2, np.array(SHAPE) + 1, (n, 3))
    rows = rng.permutation(n)[: n - 30]
    predicted = truth[rows] + rng.normal(0, 0.3, (len(rows), 3))
    return frame[rows], predicted, frame, truth


def test_all_frames_at_once_agree_with_frame_by_frame():
    found, predicted, frame, truth = random_recording(0)
    everywhere = np.array([100, 100, 100])
    whole = match_recording(
        found, predicted + 50, frame, truth + 50, voxel_size_m=STEP, shape=tuple(everywhere.tolist()), gate_m=5e-5
    )
    n_pairs, squared = 0, 0.0
    for number in range(6):
        one = match_localisations(predicted[found == number] * STEP, truth[frame == number] * STEP, 5e-5)
        n_pairs, squared = n_pairs + len(one.pairs), squared + (one.error_m**2).sum()
    assert len(whole.pairs) == n_pairs > 100
    assert (whole.error_m**2).sum() == pytest.approx(squared)
    assert (found[whole.pairs[:, 0]] == frame[whole.pairs[:, 1]]).all()
    assert (whole.n_predicted, whole.n_truth) == (len(predicted), len(truth))


def test_scores_and_errors_by_hand():
    # Two frames: a hit 10 um aside along x, a miss, and a ghost; then a hit 20 um to the other side along x.
    truth = np.array([[2.0, 3, 4], [7, 7, 7], [2, 3, 4]])
    predicted = np.array([[2.2, 3, 4], [5, 5, 5], [1.6, 3, 4]])
    matching = match_recording(np.array([0, 0, 1]), predicted, np.array([0, 0, 1]), truth, gate_m=2.5e-5, **GRID)
    row = summarise(matching)
    assert (row["n_predicted"], row["n_truth"], row["n_pairs"]) == (3, 3, 2)
    assert (row["precision"], row["recall"], row["jaccard"], row["f1"]) == pytest.approx((2 / 3, 2 / 3, 1 / 2, 2 / 3))
    assert row["bias_um"] == pytest.approx([-5, 0, 0])
    assert row["rmse_um"] == pytest.approx([250**0.5, 0, 0])
    assert row["standard_deviation_um"] == pytest.approx([450**0.5, 0, 0])


def test_a_bubble_of_another_frame_is_no_partner():
    position = np.array([[2.0, 3, 4]])
    matching = match_recording(np.array([3]), position, np.array([4]), position, gate_m=1e-3, **GRID)
    assert len(matching.pairs) == 0


def test_the_border_punishes_nobody():
    # Two bubbles just outside, found just inside; one just inside, found just outside; one far inside; and a ghost.
    truth = np.array([[-0.6, 5, 5], [-0.6, 2, 5], [-0.4, 8, 5], [5.0, 5, 5]])
    predicted = np.array([[-0.4, 5, 5], [-0.4, 2, 5], [-0.6, 8, 5], [5.0, 5, 5], [5.0, 9, 5]])
    frames = np.zeros(5, dtype=np.int64), np.zeros(4, dtype=np.int64)
    matching = match_recording(frames[0], predicted, frames[1], truth, gate_m=2e-5, **GRID)
    assert matching.pairs.tolist() == [[2, 2], [3, 3]]
    assert (matching.n_predicted, matching.n_truth) == (3, 2)
    inner = match_recording(frames[0], predicted, frames[1], truth, gate_m=2e-5, margin_m=6e-5, **GRID)
    assert (inner.n_predicted, inner.n_truth) == (2, 1)


def test_inside_is_the_grid_less_the_margin():
    position = np.array([[-0.5, 0, 0], [9.49, 10, 11], [9.5, 0, 0], [0.49, 5, 5], [0.51, 5, 5]])
    assert inside(position, margin_m=0.0, **GRID).tolist() == [True, True, False, True, True]
    assert inside(position, margin_m=5e-5, **GRID).tolist() == [False, False, False, False, True]
    flat = {"voxel_size_m": STEP, "shape": (10, 1, 12), "margin_m": 5e-5}
    assert inside(np.array([[5.0, 0, 5], [5, 0.6, 5]]), **flat).tolist() == [True, False]


def brute_force_distance(frame, position, fwhm):
    """Nearest other bubble of the frame in FWHM units, by all pairs."""
    scaled = position / np.array(fwhm)
    distance = np.linalg.norm(scaled[:, None] - scaled[None], axis=2)
    distance[frame[:, None] != frame[None]] = np.inf
    np.fill_diagonal(distance, np.inf)
    return distance.min(axis=1)


def test_neighbour_distance_agrees_with_brute_force():
    _, _, frame, truth = random_recording(4)
    fwhm = (2e-4, 2.2e-4, 1.1e-4)
    expected = brute_force_distance(frame, truth * STEP, fwhm)
    distance = neighbour_distance(frame, truth * STEP, fwhm)
    assert 0.1 < np.isfinite(distance).mean() < 1
    np.testing.assert_allclose(distance, np.where(expected < 1, expected, np.inf))
    assert np.isinf(neighbour_distance(np.array([3]), np.ones((1, 3)), fwhm)).all()
    assert neighbour_distance(np.array([3, 3]), np.ones((2, 3)), fwhm).tolist() == [0, 0]


def test_recall_by_neighbour_by_hand():
    # A pair 0.5 PSF widths apart, of which one is found, a lone bubble that is found, and one outside.
    truth = np.array([[2.0, 3, 4], [4, 3, 4], [8, 8, 8], [-3, 8, 8]])
    frame = np.zeros(4, dtype=np.int64)
    matching = match_recording(frame[:2], truth[[0, 2]], frame, truth, gate_m=1e-5, **GRID)
    counts = count_by_neighbour(
        matching, neighbour_distance(frame, truth * STEP, (2e-4, 2e-4, 1e-4)), inside(truth, margin_m=0.0, **GRID)
    )
    assert counts.n_truth.tolist() == [0, 0, 2, 0, 1]
    assert counts.n_found.tolist() == [0, 0, 1, 0, 1]
    assert counts.recall["0.5-0.75"] == 0.5
    assert counts.recall[">=1"] == 1.0
    assert np.isnan(counts.recall["<0.25"])
    twice = pool_by_neighbour([counts, counts])
    assert twice.n_truth.tolist() == [0, 0, 4, 0, 2]
    assert list(twice.recall) == list(NEIGHBOUR_BINS)
    assert pool_by_neighbour([]).n_truth.tolist() == [0] * 5


def test_bins_add_up_to_the_pooled_recall():
    found, predicted, frame, truth = random_recording(2)
    matching = match_recording(found, predicted, frame, truth, gate_m=4e-5, **GRID)
    is_inside = inside(truth, margin_m=0.0, **GRID)
    counts = count_by_neighbour(matching, neighbour_distance(frame, truth * STEP, (3e-4, 3e-4, 2e-4)), is_inside)
    assert counts.n_truth.sum() == matching.n_truth == is_inside.sum()
    assert counts.n_found.sum() / counts.n_truth.sum() == pytest.approx(matching.scores["recall"])


def test_pooled_recordings_are_stacked_tables():
    parts = [random_recording(seed) for seed in (5, 6)]
    single = [match_recording(*part, gate_m=4e-5, **GRID) for part in parts]
    pooled = pool_matchings(single)
    found, predicted, frame, truth = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    second = np.arange(len(found)) >= len(parts[0][0]), np.arange(len(frame)) >= len(parts[0][2])
    stacked = match_recording(found + 100 * second[0], predicted, frame + 100 * second[1], truth, gate_m=4e-5, **GRID)
    assert np.array_equal(pooled.error_m, stacked.error_m)
    assert summarise(pooled) == summarise(stacked)
    assert pool_matchings([]).scores["f1"] == 1.0
