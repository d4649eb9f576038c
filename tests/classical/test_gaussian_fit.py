"""The Gaussian fit: the least squares that scipy finds, and the scatter that it states."""

import numpy as np
import pytest
from scipy.optimize import curve_fit
from spot_cases import brightest_voxels, peaks_at, spot, spots

from sparse_ulm.classical.detection import window_half_width
from sparse_ulm.classical.gaussian_fit import WIDTH_RANGE, fit_gaussians
from sparse_ulm.classical.windows import cut_windows
from sparse_ulm.psf import FWHM_PER_SIGMA


def fit(magnitude, peaks, fwhm, noise_rms=0.0):
    half_width = window_half_width(tuple(fwhm), magnitude.shape[:3])
    windows = cut_windows(magnitude, peaks.frame, peaks.voxel, half_width)
    return windows, fit_gaussians(windows, fwhm_voxel=np.asarray(fwhm), noise_rms=noise_rms)


def fit_by_scipy(window, is_inside, axes, start):
    """Least squares of one window with numerical derivatives; parameters (A, d, sigma, d, sigma, ...)."""
    places = np.argwhere(is_inside)[:, axes].T - np.array([window.shape[a] // 2 for a in axes])[:, None]

    def model(_, amplitude, *rest):
        exponent = sum((u - d) ** 2 / (2.0 * s**2) for u, d, s in zip(places, rest[::2], rest[1::2], strict=True))
        return amplitude * np.exp(-exponent)

    return curve_fit(model, None, window[is_inside], p0=start, xtol=1e-10, ftol=1e-12)


@pytest.mark.parametrize(("shape", "fwhm"), [((13, 14, 15), (3.4, 3.0, 2.6)), ((13, 1, 15), (3.4, 3.0, 2.6))])
@pytest.mark.parametrize("at_border", [False, True])
def test_equal_to_scipy(shape, fwhm, at_border):
    noise_rms = 0.1
    magnitude, _ = spots(shape, fwhm, n=12, rng=np.random.default_rng(8), noise_rms=noise_rms)
    if at_border:
        magnitude = magnitude[5:].copy()  # the spots' middle is now 1 voxel from the face
    peaks = brightest_voxels(magnitude)
    windows, found = fit(magnitude, peaks, fwhm, noise_rms)
    axes = windows.axes
    for row in range(len(peaks)):
        start = [1.0, *np.ravel([(0.0, fwhm[axis] / FWHM_PER_SIGMA) for axis in axes])]
        best, covariance = fit_by_scipy(windows.samples[row], windows.is_inside[row], axes, start)
        # scipy scales the covariance by the residuals; ours by the noise that is given, if that is more.
        residual = _sum_of_squares(windows, row, axes, best) / (windows.is_inside[row].sum() - len(best))
        deviation = np.sqrt(np.diag(covariance) * max(1.0, noise_rms**2 / 2.0 / residual))[1::2]
        assert found.amplitude[row] == pytest.approx(best[0], rel=1e-4)
        assert found.shift[row, axes] == pytest.approx(best[1::2], abs=1e-4)
        assert found.sigma[row, axes] == pytest.approx(np.abs(best[2::2]), rel=1e-4)
        assert found.deviation[row, axes] == pytest.approx(deviation, rel=1e-2)


def _sum_of_squares(windows, row, axes, parameters):
    size = windows.samples.shape[1:]
    centre, width = np.zeros(3), np.ones(3)
    for place, axis in enumerate(axes):
        centre[axis] = size[axis] // 2 + parameters[1 + 2 * place]
        width[axis] = FWHM_PER_SIGMA * parameters[2 + 2 * place]
    model = spot(size, centre, width, amplitude=parameters[0])
    return ((windows.samples[row] - model)[windows.is_inside[row]] ** 2).sum()


@pytest.mark.parametrize("shape", [(13, 14, 15), (13, 1, 15)])
def test_free_widths_and_amplitude_are_found(shape):
    truth = (3.9, 2.6, 3.2)
    magnitude, _ = spots(shape, truth, n=20, rng=np.random.default_rng(1))
    _, found = fit(3.0 * magnitude, brightest_voxels(magnitude), (3.0, 3.0, 3.0))
    axes = [axis for axis in range(3) if shape[axis] > 1]
    assert found.amplitude == pytest.approx(np.full(20, 3.0), rel=1e-5)
    assert found.sigma[:, axes] * FWHM_PER_SIGMA == pytest.approx(np.tile(np.array(truth)[axes], (20, 1)), rel=1e-5)


@pytest.mark.parametrize(("shape", "fwhm"), [((13, 14, 15), (4.0, 3.0, 2.5)), ((13, 1, 15), (3.0, 3.0, 3.0))])
def test_stated_deviation_is_the_scatter_over_repeats(shape, fwhm):
    noise_rms = 0.05
    rng = np.random.default_rng(21)
    magnitude, truth = spots(shape, fwhm, n=1200, rng=rng, noise_rms=noise_rms, largest_shift=0.3)
    peaks = brightest_voxels(magnitude)
    _, found = fit(magnitude, peaks, fwhm, noise_rms)
    axes = [axis for axis in range(3) if shape[axis] > 1]
    error = (peaks.voxel + found.shift - truth)[:, axes]
    assert np.abs(error.mean(axis=0)).max() < 5.0 * error.std(axis=0).max() / np.sqrt(len(error))
    assert error.std(axis=0) == pytest.approx(np.sqrt((found.deviation[:, axes] ** 2).mean(axis=0)), rel=0.1)


def test_deviation_follows_noise_and_amplitude():
    magnitude, _ = spots((13, 14, 15), (3.0, 3.0, 3.0), n=4, rng=np.random.default_rng(3))
    peaks = brightest_voxels(magnitude)
    plain = fit(magnitude, peaks, (3.0, 3.0, 3.0), noise_rms=0.1)[1].deviation
    assert fit(magnitude, peaks, (3.0, 3.0, 3.0), noise_rms=0.2)[1].deviation == pytest.approx(2.0 * plain)
    assert fit(4.0 * magnitude, peaks, (3.0, 3.0, 3.0), noise_rms=0.1)[1].deviation == pytest.approx(plain / 4.0)


def test_bubble_beside_another_is_known_less_well():
    shape, fwhm = (17, 18, 19), (4.0, 4.0, 4.0)
    alone = spot(shape, (8.1, 8.9, 9.2), fwhm)
    beside = alone + spot(shape, (8.1, 12.4, 9.2), fwhm, amplitude=0.5)
    magnitude = np.stack([alone, beside], axis=-1).astype(np.float32)
    _, found = fit(magnitude, peaks_at(magnitude, [0, 1], [[8, 9, 9], [8, 9, 9]]), fwhm, noise_rms=0.005)
    assert found.deviation[1, 1] > 2.0 * found.deviation[0, 1]


def test_axis_of_one_voxel_has_no_deviation():
    magnitude, _ = spots((13, 1, 15), (3.0, 3.0, 3.0), n=4, rng=np.random.default_rng(3), noise_rms=0.05)
    _, found = fit(magnitude, brightest_voxels(magnitude), (3.0, 3.0, 3.0), noise_rms=0.05)
    assert np.isnan(found.deviation[:, 1]).all()
    assert (found.shift[:, 1] == 0.0).all()


@pytest.mark.parametrize(("factor", "is_bubble"), [(0.3, False), (0.5, True), (2.0, True), (3.5, False)])
def test_spots_unlike_the_psf_are_refused(factor, is_bubble):
    assert 2.0 < WIDTH_RANGE < 1.0 / 0.3
    fwhm = np.array((4.0, 4.2, 4.4))
    magnitude = spot((23, 24, 25), (11.2, 12.1, 11.9), fwhm * [1.0, factor, 1.0]).astype(np.float32)[..., None]
    _, found = fit(magnitude, brightest_voxels(magnitude), fwhm)
    assert np.isfinite(found.shift).all() == is_bubble


def test_flat_window_is_refused():
    magnitude = np.ones((9, 10, 11, 1), np.float32)
    _, found = fit(magnitude, brightest_voxels(magnitude), (3.0, 3.0, 3.0), noise_rms=0.1)
    assert np.isnan(found.shift).all()
