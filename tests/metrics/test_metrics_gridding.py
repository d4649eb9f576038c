import numpy as np
import pytest

from sparse_ulm.metrics.gridding import HARMONICS, NEIGHBOURS, gridding_index_db, mean_gridding_db

INPUT = (5e-5, 6e-5, 4e-5)
STEP = tuple(value / 8 for value in INPUT)
GRID = {"voxel_size_m": STEP, "input_voxel_size_m": INPUT}


def bubbles(seed, *, gridded_axes=(), n=20_000, n_input=(14, 15, 16)):
    """Density of uniform bubbles, drawn to the centres of input voxels along some axes."""
    rng = np.random.default_rng(seed)
    position = rng.uniform(0, n_input, (n, 3))
    for axis in gridded_axes:
        position[:, axis] = np.floor(position[:, axis]) + rng.normal(0.5, 0.15, n)
    index = np.floor(position * 8).astype(int) % (np.array(n_input) * 8)
    volume = np.zeros(np.array(n_input) * 8, np.float32)
    np.add.at(volume, tuple(index.T), 1)
    return volume


def test_an_even_map_has_no_gridding():
    index = [gridding_index_db(bubbles(seed), **GRID) for seed in range(8)]
    assert np.abs(np.mean(index, axis=0)).max() < 5


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_each_axis_is_measured_by_itself(axis):
    # PALA divides the peak along x by itself, so that its x is the same for every map.
    index = np.array(gridding_index_db(bubbles(1, gridded_axes=[axis]), **GRID))
    assert index[axis] > 15
    assert np.delete(index, axis).max() < 6


def test_agrees_with_the_discrete_transform():
    volume = bubbles(3, gridded_axes=[0, 2])
    for axis, n_input in enumerate((14, 15, 16)):
        profile = volume.sum(axis=tuple({0, 1, 2} - {axis}), dtype=float)
        n = len(profile)
        hann = np.sin(np.pi * np.arange(1, n + 1) / (n + 1)) ** 2
        power = np.abs(np.fft.fft((profile - profile.mean()) * hann)) ** 2
        bins = [h * n_input for h in HARMONICS]
        ratios = [power[k] / np.mean([power[k + step] for step in NEIGHBOURS]) for k in bins]
        expected = np.mean(10 * np.log10(ratios))
        assert gridding_index_db(volume, **GRID)[axis] == pytest.approx(expected, abs=1e-6)


def test_stronger_gridding_gives_a_higher_index():
    even, odd = bubbles(4), bubbles(5, gridded_axes=[1])
    index = [gridding_index_db(even + share * odd, **GRID)[1] for share in (0.1, 0.5, 2.0)]
    assert index == sorted(index)
    assert index[2] > index[0] + 10


def test_a_cropped_map_keeps_its_gridding():
    volume = bubbles(6, gridded_axes=[0])
    assert gridding_index_db(volume[3:-2], **GRID)[0] == pytest.approx(gridding_index_db(volume, **GRID)[0], abs=4)


def test_axes_that_cannot_show_a_grid():
    flat = bubbles(7, n_input=(14, 1, 16)).sum(axis=1, keepdims=True)
    index = gridding_index_db(flat, voxel_size_m=(STEP[0], INPUT[1], STEP[2]), input_voxel_size_m=INPUT)
    assert np.isnan(index).tolist() == [False, True, False]
    assert mean_gridding_db(index) == pytest.approx((index[0] + index[2]) / 2)
    assert np.isnan(gridding_index_db(np.zeros((88, 89, 90)), **GRID)).all()
    assert np.isnan(gridding_index_db(bubbles(8, n_input=(10, 9, 8)), **GRID)).all()  # shorter than 11 input voxels
    assert np.isnan(mean_gridding_db((np.nan, np.nan, np.nan)))


def test_a_perfect_comb_stays_finite():
    volume = np.zeros((96, 96, 96))
    volume[4::8] = 1
    index = gridding_index_db(volume, **GRID)
    assert 60 < index[0] < 400
