import numpy as np
import pytest

from sparse_ulm.metrics.vessel_width import fit_fwhm_m, vessel_width

STEP = np.array([1.0e-5, 1.2e-5, 0.8e-5])
SHAPE = (36, 34, 40)


def tube(direction, sigma_m, *, shape=SHAPE):
    """Gaussian tube through the middle of the map along a direction, and its centre line in voxels."""
    unit = np.array(direction) / np.linalg.norm(direction)
    middle = (np.array(shape) - 1) / 2 * STEP
    away = np.stack(np.indices(shape), -1) * STEP - middle
    squared = (away**2).sum(-1) - (away @ unit) ** 2
    along = np.linspace(-1e-4, 1e-4, 9)[:, None] * unit
    return np.exp(-0.5 * squared / sigma_m**2), (middle + along) / STEP


@pytest.mark.parametrize("direction", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, -2, 0.5)])
@pytest.mark.parametrize("sigma_m", [2e-5, 3.5e-5])
def test_a_gaussian_tube_has_the_width_of_its_gaussian(direction, sigma_m):
    volume, line = tube(direction, sigma_m)
    found = vessel_width(0.3 + 5 * volume, line, voxel_size_m=tuple(STEP.tolist()), half_length_m=2.5 * sigma_m)
    # Linear interpolation widens by at most the variance of a voxel.
    assert found.fwhm_m == pytest.approx(2.3548 * sigma_m, rel=0.06)
    assert (found.n_profiles, found.n_rejected) == (18, 0)
    assert found.standard_deviation_m < 0.05 * found.fwhm_m


def test_a_picture_has_one_normal_per_point():
    volume, line = tube((1, 0, 1), 2e-5)
    flat = volume[:, 17:18]
    found = vessel_width(flat, line * [1, 0, 1], voxel_size_m=tuple(STEP.tolist()), half_length_m=6e-5)
    assert found.n_profiles == 9
    assert found.fwhm_m == pytest.approx(4.71e-5, rel=0.06)


def test_the_confidence_interval_covers_the_truth_and_shrinks_with_n():
    rng = np.random.default_rng(0)
    volume, line = tube((0, 1, 0), 3e-5)
    found = vessel_width(
        rng.poisson(30 * volume).astype(float), line, voxel_size_m=tuple(STEP.tolist()), half_length_m=8e-5
    )
    low, high = found.confidence_m
    assert low < 2.3548 * 3e-5 < high
    # Student's t at 17 degrees of freedom, from its table: 2.110.
    assert high - low == pytest.approx(2 * 2.110 * found.standard_deviation_m / 18**0.5, rel=1e-3)


def test_profiles_without_a_vessel_are_rejected():
    volume, line = tube((1, 0, 0), 2e-5)
    empty = vessel_width(np.zeros(SHAPE), line, voxel_size_m=tuple(STEP.tolist()), half_length_m=6e-5)
    assert (empty.n_profiles, empty.n_rejected) == (0, 18)
    assert np.isnan([empty.fwhm_m, empty.standard_deviation_m, *empty.confidence_m]).all()
    aside = vessel_width(volume, line + np.array([0, 0, 6]), voxel_size_m=tuple(STEP.tolist()), half_length_m=6e-5)
    assert aside.n_rejected >= 9  # all profiles along z have their peak 48 um from the middle of 60


def test_the_fit_by_hand():
    offset = np.linspace(-5e-5, 5e-5, 41)
    profile = 2 + 7 * np.exp(-0.5 * ((offset - 4e-6) / 1.2e-5) ** 2)
    assert fit_fwhm_m(offset, profile) == pytest.approx(2.8258e-5, rel=1e-4)
    assert np.isnan(fit_fwhm_m(offset, np.ones(41)))
    assert np.isnan(fit_fwhm_m(offset, 3 - np.exp(-0.5 * (offset / 1e-5) ** 2)))  # a hole is no vessel


def test_a_centre_line_needs_a_direction():
    for line in (np.zeros((1, 3)), np.zeros((2, 3))):
        with pytest.raises(ValueError, match="two points"):
            vessel_width(np.ones(SHAPE), line, voxel_size_m=tuple(STEP.tolist()), half_length_m=5e-5)
