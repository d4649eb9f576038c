import numpy as np
import pytest

from sparse_ulm.metrics.saturation import (
    first_visit_s,
    fit_saturation,
    model,
    saturation_curve,
    time_to_share_s,
)

STEP = (1e-5, 1.3e-5, 0.8e-5)


@pytest.mark.parametrize("tolerance_m", [0.0, 1.1e-5, 2e-5])
def test_first_visits_agree_with_brute_force(tolerance_m):
    rng = np.random.default_rng(0)
    reference = np.unique(rng.integers(0, 9, (80, 3)), axis=0)
    visited, time_s = rng.integers(0, 9, (150, 3)), rng.uniform(0, 3, 150)
    expected = []
    for voxel in reference:
        near = np.linalg.norm((visited - voxel) * STEP, axis=1) <= tolerance_m + 1e-9
        expected.append(time_s[near].min() if near.any() else np.inf)
    found = first_visit_s(reference, visited, time_s, voxel_size_m=STEP, tolerance_m=tolerance_m)
    assert np.array_equal(found, expected)


def test_the_curve_by_hand():
    first = np.array([0.5, np.inf, 0.1, 0.5])
    assert saturation_curve(first, np.array([0.0, 0.1, 0.4, 0.5, 9.0])).tolist() == [0, 0.25, 0.25, 0.75, 0.75]
    assert saturation_curve(np.empty(0), np.array([1.0])).tolist() == [0]


def test_nothing_visited():
    none = np.empty((0, 3), dtype=np.int64)
    one = np.array([[1, 2, 3]])
    assert first_visit_s(one, none, np.empty(0), voxel_size_m=STEP, tolerance_m=0.0).tolist() == [np.inf]
    assert len(first_visit_s(none, one, np.ones(1), voxel_size_m=STEP, tolerance_m=0.0)) == 0


@pytest.mark.parametrize(("plateau", "constant_s"), [(0.8, 0.5), (0.3, 4.0), (1.0, 1.7), (0.05, 0.06)])
def test_the_fit_recovers_the_model(plateau, constant_s):
    time_s = np.linspace(0, 6, 60)
    fit = fit_saturation(time_s, plateau * (1 - np.exp(-time_s / constant_s)))
    assert (fit.plateau_share, fit.time_constant_s) == pytest.approx((plateau, constant_s), rel=1e-3)
    assert fit.t90_s == pytest.approx(constant_s * np.log(10), rel=1e-3)
    assert fit.rms_residual < 1e-4
    assert model(np.array([fit.t90_s]), plateau, constant_s)[0] == pytest.approx(0.9 * plateau, rel=1e-3)


def test_random_visits_saturate_with_their_own_time_constant():
    # Each of 2,000 voxels is visited as a Poisson process of 1 / 0.7 s; a quarter of them lies where nothing flows.
    rng = np.random.default_rng(1)
    first = np.where(np.arange(2000) < 1500, rng.exponential(0.7, 2000), np.inf)
    time_s = np.linspace(0, 3, 50)
    fit = fit_saturation(time_s, saturation_curve(first, time_s))
    assert fit.plateau_share == pytest.approx(0.75, abs=0.02)
    assert fit.t90_s == pytest.approx(0.7 * np.log(10), rel=0.06)
    assert fit.rms_residual < 0.02


def test_a_straight_curve_has_a_time_constant_beyond_the_recording():
    time_s = np.linspace(0, 1, 20)
    fit = fit_saturation(time_s, 0.05 * time_s)
    assert fit.plateau_share <= 1
    assert fit.t90_s > 10


@pytest.mark.parametrize("share", [np.zeros(9), np.array([0.0, 0.5])])
def test_nothing_to_fit(share):
    fit = fit_saturation(np.linspace(0, 1, len(share)), share)
    assert np.isnan([fit.plateau_share, fit.time_constant_s, fit.t90_s, fit.rms_residual]).all()


def test_time_to_a_share_by_hand():
    first = np.array([4.0, 1.0, np.inf, 2.0])
    shares = (0.25, 0.26, 0.5, 0.75, 0.76, 1.0)
    assert [time_to_share_s(first, share) for share in shares] == [1, 2, 2, 4, np.inf, np.inf]
    assert time_to_share_s(np.empty(0), 0.5) == np.inf
    # 0.3 of 10 voxels are 3 voxels, though 0.1 + 0.2 > 0.3 in binary.
    assert time_to_share_s(np.arange(10.0), 0.1 + 0.2) == 2
    with pytest.raises(ValueError, match="share"):
        time_to_share_s(first, 0.0)
