import numpy as np
import pytest

from sparse_ulm.metrics.centre_line import centre_line, centre_line_counts
from sparse_ulm.metrics.maps import dice, scores_from_counts

GRID = (1e-5, 1.2e-5, 0.9e-5)
NONE = np.empty((0, 3), dtype=np.int64)


def box(x, y, z):
    """All voxels of a box given by three ranges."""
    return np.stack(np.meshgrid(*(np.arange(*r) for r in (x, y, z)), indexing="ij"), -1).reshape(-1, 3)


def score(predicted, truth, tolerance_m=0.0):
    """Centre-line Dice."""
    return scores_from_counts(*centre_line_counts(predicted, truth, voxel_size_m=GRID, tolerance_m=tolerance_m))["dice"]


def test_a_rod_is_thinned_to_its_axis():
    rod = box((0, 21), (-3, 2), (40, 45))
    line = centre_line(rod, voxel_size_m=GRID)
    assert set(map(tuple, line[:, 1:].tolist())) == {(-1, 42)}
    # Thinning shortens a rod by about its radius at both ends.
    assert 15 <= len(line) <= 21
    assert np.array_equal(np.diff(line[:, 0]), np.ones(len(line) - 1))


def test_width_does_not_matter_but_course_does():
    truth, thick = box((0, 40), (0, 3), (0, 3)), box((0, 40), (-2, 5), (-2, 5))
    assert dice(thick, truth) < 0.32
    assert score(thick, truth) == pytest.approx(1.0)
    away = box((0, 40), (6, 9), (0, 3))
    assert score(away, truth) == 0.0


def test_counts_by_hand():
    line = box((0, 10), (0, 1), (0, 1))
    half = box((5, 10), (0, 1), (0, 1))
    # Lines one voxel wide are their own centre lines.
    assert centre_line_counts(half, line, voxel_size_m=GRID, tolerance_m=0.0) == (5, 10, 5, 5)


def test_one_subvoxel_aside_is_not_fatal_with_a_tolerance():
    line = box((0, 30), (0, 1), (0, 1))
    assert score(line + np.array([0, 0, 1]), line) == 0.0
    assert score(line + np.array([0, 0, 1]), line, tolerance_m=1e-5) == 1.0  # 9 um aside
    assert score(line + np.array([0, 1, 0]), line, tolerance_m=1e-5) == 0.0  # 12 um


def test_threads_of_one_vessel_get_one_centre_line():
    threads = np.concatenate([box((0, 30), (0, 1), (z, z + 1)) for z in (0, 2, 4)])
    assert len(centre_line(threads, voxel_size_m=GRID)) > 80
    closed = centre_line(threads, voxel_size_m=GRID, tolerance_m=1e-5)
    assert len(closed) < 40
    assert set(closed[(closed[:, 0] > 3) & (closed[:, 0] < 26), 2].tolist()) == {2}


def test_laws_symmetry_translation_and_empty_maps():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 12, (200, 3)), rng.integers(0, 12, (150, 3))
    for tolerance_m in (0.0, 1e-5):
        counts = centre_line_counts(a, b, voxel_size_m=GRID, tolerance_m=tolerance_m)
        swapped = centre_line_counts(b, a, voxel_size_m=GRID, tolerance_m=tolerance_m)
        assert swapped == (counts[1], counts[0], counts[3], counts[2])
        shift = np.array([100, -7, 3])
        assert centre_line_counts(a + shift, b + shift, voxel_size_m=GRID, tolerance_m=tolerance_m) == counts
        assert score(a, a, tolerance_m) == 1.0
    assert score(NONE, NONE) == 1.0
    assert score(a, NONE) == score(NONE, a) == 0.0


def test_negative_tolerance_is_refused():
    with pytest.raises(ValueError, match="tolerance_m"):
        score(box((0, 3), (0, 1), (0, 1)), NONE, -1.0)
