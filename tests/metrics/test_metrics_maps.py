import numpy as np
import pytest
from scipy import ndimage

from sparse_ulm.acquisition import Geometry
from sparse_ulm.metrics import (
    dice,
    map_scores,
    overlap_counts,
    scores_from_counts,
    tolerant_overlap,
)

NONE = np.empty((0, 3), dtype=np.int64)
SHAPE = (17, 18, 19)


def voxels(*rows):
    """Rows as an index array."""
    return np.array(rows, dtype=np.int64)


def random_sets(seed=0, n_predicted=120, n_truth=150):
    """Two sets of voxels that overlap a little."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, SHAPE, (n_truth, 3))
    predicted = np.concatenate([truth[:30], rng.integers(0, SHAPE, (n_predicted - 30, 3))])
    return predicted, truth


def test_dice_by_hand():
    predicted = voxels([0, 0, 0], [1, 2, 3], [4, 5, 6], [4, 5, 6])  # three voxels, one of them named twice
    truth = voxels([1, 2, 3], [4, 5, 6], [7, 7, 7], [8, 8, 8], [9, 9, 9])
    assert dice(predicted, truth) == pytest.approx(2 * 2 / (3 + 5))


def test_tolerant_overlap_by_hand():
    truth = voxels([0, 0, 0], [10, 0, 0])
    predicted = voxels([1, 0, 0], [0, 0, 1], [5, 0, 0], [10, 0, 0])
    # Steps of 10, 20 and 30 um; a tolerance of 10 um finds one voxel along x and none along z.
    counts = overlap_counts(predicted, truth, voxel_size_m=(1e-5, 2e-5, 3e-5), tolerance_m=1e-5)
    assert counts == (4, 2, 2, 2)
    scores = tolerant_overlap(predicted, truth, voxel_size_m=(1e-5, 2e-5, 3e-5), tolerance_m=1e-5)
    assert scores == pytest.approx({"precision": 0.5, "recall": 1.0, "dice": 2 / 3})


@pytest.mark.parametrize("voxel_size_m", [(1e-5, 1e-5, 1e-5), (1e-5, 2.3e-5, 3.1e-5), (4e-5, 1e-5, 0.7e-5)])
@pytest.mark.parametrize("tolerance_m", [0.0, 0.9e-5, 1.5e-5, 4e-5])
def test_agrees_with_the_distance_transform(voxel_size_m, tolerance_m):
    predicted, truth = random_sets()
    pictures = []
    for index in (predicted, truth):
        picture = np.zeros(SHAPE, bool)
        picture[tuple(index.T)] = True
        pictures.append(picture)
    distances = [ndimage.distance_transform_edt(~picture, sampling=voxel_size_m) for picture in pictures]
    expected = (
        int(pictures[0].sum()),
        int(pictures[1].sum()),
        int((pictures[0] & (distances[1] <= tolerance_m * (1 + 1e-9))).sum()),
        int((pictures[1] & (distances[0] <= tolerance_m * (1 + 1e-9))).sum()),
    )
    assert overlap_counts(predicted, truth, voxel_size_m=voxel_size_m, tolerance_m=tolerance_m) == expected


def test_exact_dice_agrees_with_dense_maps():
    predicted, truth = random_sets(3)
    a, b = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    a[tuple(predicted.T)], b[tuple(truth.T)] = True, True
    assert dice(predicted, truth) == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_laws_symmetry_permutation_translation_and_growth():
    predicted, truth = random_sets(5)
    grid = {"voxel_size_m": (1e-5, 2e-5, 3e-5), "tolerance_m": 2.5e-5}
    scores = tolerant_overlap(predicted, truth, **grid)
    swapped = tolerant_overlap(truth, predicted, **grid)
    assert swapped == pytest.approx(
        {"precision": scores["recall"], "recall": scores["precision"], "dice": scores["dice"]}
    )
    rows = np.random.default_rng(1).permutation(len(truth))
    assert tolerant_overlap(predicted[::-1], truth[rows], **grid) == scores
    shift = np.array([-40, 3, 1000])
    assert tolerant_overlap(predicted + shift, truth + shift, **grid) == scores
    wider = [tolerant_overlap(predicted, truth, **(grid | {"tolerance_m": t}))["dice"] for t in (0.0, 1e-5, 3e-5, 1e-4)]
    assert wider == sorted(wider)
    assert wider[0] == pytest.approx(dice(predicted, truth))
    assert dice(truth, truth) == 1.0


def test_pooling_adds_counts():
    first, second = random_sets(1), random_sets(2)
    apart = 1000
    grid = {"voxel_size_m": (1e-5, 2e-5, 3e-5), "tolerance_m": 2e-5}
    added = np.add(overlap_counts(*first, **grid), overlap_counts(*second, **grid))
    joined = [np.concatenate([a, b + apart]) for a, b in zip(first, second, strict=True)]
    assert scores_from_counts(*added.tolist()) == pytest.approx(tolerant_overlap(*joined, **grid))


def test_empty_maps():
    one = voxels([1, 2, 3])
    grid = {"voxel_size_m": (1e-5, 1e-5, 1e-5), "tolerance_m": 1e-5}
    assert dice(NONE, NONE) == 1.0
    assert dice(one, NONE) == dice(NONE, one) == 0.0
    assert set(tolerant_overlap(NONE, NONE, **grid).values()) == {1.0}
    assert set(tolerant_overlap(one, NONE, **grid).values()) == {0.0}
    assert set(tolerant_overlap(NONE, one, **grid).values()) == {0.0}
    assert set(tolerant_overlap(one, one + 50, **grid).values()) == {0.0}


def test_map_scores_are_exact_and_within_shares_of_the_wavelength():
    geometry = Geometry.from_voxel_size(
        (1e-5, 1e-5, 1.2e-5),
        (0.0, 0.0, 0.0),
        frame_rate_hz=1000.0,
        transmit_frequency_hz=15e6,
        sound_speed_m_s=1500.0,
    )
    truth = voxels([0, 0, 0], [5, 0, 0], [9, 9, 9])
    predicted = voxels([0, 0, 0], [6, 0, 0], [9, 9, 10])  # exact, 10 um aside, 12 um aside
    scores = map_scores(predicted, truth, geometry, geometry.wavelength_m)  # λ/10 is 10 um
    assert scores == pytest.approx(
        {
            "dice": 1 / 3,
            "precision": 1 / 3,
            "recall": 1 / 3,
            "dice_lambda_10": 2 / 3,
            "precision_lambda_10": 2 / 3,
            "recall_lambda_10": 2 / 3,
            "dice_lambda_4": 1.0,  # 25 um
            "precision_lambda_4": 1.0,
            "recall_lambda_4": 1.0,
        }
    )


def test_negative_tolerance_is_refused():
    with pytest.raises(ValueError, match="tolerance_m"):
        overlap_counts(NONE, NONE, voxel_size_m=(1.0, 1.0, 1.0), tolerance_m=-1.0)
