"""Sub-voxel positions: unbiased where a method can be, the same along every axis, clipped at the border."""

import numpy as np
import pytest
from spot_cases import brightest_voxels, peaks_at, spot, spots

from sparse_ulm.classical.localisation import METHODS, localise, weighted_average
from sparse_ulm.classical.windows import cut_windows
from sparse_ulm.errors import UserError

# Where each method has no bias of its own. The weighted average wants a window of more than 3 sigma to either side, so
# that it is told of a PSF three times as wide as the spot.
WIDE_WINDOW = {"weighted_average": 3.0, "radial_symmetry": 1.0, "gaussian_fit": 1.0, "parabolic": 1.0}
SCENES = {
    "3D": ((17, 18, 19), (3.0, 3.0, 3.0)),
    "2D": ((17, 1, 19), (3.0, 3.0, 3.0)),
    "flat PSF": ((21, 20, 19), (4.8, 4.0, 2.5)),
}


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("method", WIDE_WINDOW)
def test_positions_have_no_bias(method, scene):
    shape, fwhm = SCENES[scene]
    magnitude, truth = spots(shape, fwhm, n=60, rng=np.random.default_rng(2))
    widths = tuple(WIDE_WINDOW[method] * width for width in fwhm)
    found = localise(magnitude, brightest_voxels(magnitude), method=method, psf_fwhm_voxel=widths, noise_rms=0.0)
    assert len(found) == 60
    assert np.abs(found.position_voxel - truth).max() < 0.02


def test_no_method_gives_the_voxel():
    magnitude, _ = spots((11, 12, 13), (3.0, 3.0, 3.0), n=5, rng=np.random.default_rng(0))
    peaks = brightest_voxels(magnitude)
    found = localise(magnitude, peaks, method="none", psf_fwhm_voxel=(3.0, 3.0, 3.0), noise_rms=0.1)
    assert (found.position_voxel == peaks.voxel).all()
    assert (found.amplitude == peaks.amplitude).all()
    assert np.isnan(found.deviation_voxel).all()


def test_weighted_average_by_hand():
    magnitude = np.full((5, 1, 5, 1), 1.0, np.float32)
    magnitude[2, 0, 2], magnitude[3, 0, 2], magnitude[2, 0, 4] = 7.0, 4.0, 2.0
    windows = cut_windows(magnitude, np.array([0]), np.array([[2, 0, 2]]), np.array([2, 0, 2]))
    assert weighted_average(windows).tolist() == [[0.3, 0.0, 0.2]]  # above 1: 6 at 0, 3 at x = 1, 1 at z = 2


def test_weighted_average_is_drawn_to_the_voxel_by_a_short_window():
    shape, fwhm = SCENES["3D"]
    magnitude, truth = spots(shape, fwhm, n=60, rng=np.random.default_rng(2))
    peaks = brightest_voxels(magnitude)
    found = localise(magnitude, peaks, method="weighted_average", psf_fwhm_voxel=fwhm, noise_rms=0.0)
    slope = np.polyfit((truth - peaks.voxel).ravel(), (found.position_voxel - peaks.voxel).ravel(), 1)[0]
    assert slope == pytest.approx(0.79, abs=0.03)  # a fifth of every shift is lost: gridding


def parabola(magnitude, voxel):
    found = localise(
        magnitude, peaks_at(magnitude, [0], voxel), method="parabolic", psf_fwhm_voxel=(3.0, 3.0, 3.0), noise_rms=0.0
    )
    return found.position_voxel[0].tolist()


def test_parabola_by_hand():
    magnitude = np.full((5, 6, 7, 1), 0.5, np.float32)
    magnitude[2, 2, 2:5, 0] = np.exp([-4.0, 0.0, -2.0])
    magnitude[1, 2, 3, 0], magnitude[3, 2, 3, 0] = 1.0, np.exp(-3.0)  # a plateau: the summit lies half-way
    assert parabola(magnitude, [2, 2, 3]) == pytest.approx([1.5, 2.0, 3.0 + 0.5 * 2.0 / 6.0], abs=1e-6)


def test_parabola_stays_within_half_a_voxel():
    magnitude = np.full((5, 6, 7, 1), 0.5, np.float32)
    magnitude[2, 2, 2:5, 0] = np.exp([0.0, 1.0, 1.2])  # no maximum: the summit would lie 0.75 away
    assert parabola(magnitude, [2, 2, 3]) == [2.0, 2.0, 3.5]


def test_parabola_needs_both_neighbours():
    magnitude = np.full((5, 6, 7, 1), 0.5, np.float32)
    magnitude[0, 2, 3, 0] = 1.0
    assert parabola(magnitude, [0, 2, 3]) == [0.0, 2.0, 3.0]


@pytest.mark.parametrize("method", ["gaussian_fit", "parabolic", "radial_symmetry"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_windows_are_clipped_at_the_border(method, axis):
    """One voxel from the face; of the parabola nothing is cut off there, of the others a part."""
    shape, fwhm = (14, 15, 16), (3.0, 3.4, 3.8)
    for at_end in (False, True):
        truth = np.array(shape) / 2.0 + 0.1
        truth[axis] = shape[axis] - 1 - 1.2 if at_end else 1.2
        magnitude = spot(shape, truth, fwhm).astype(np.float32)[..., None]
        found = localise(magnitude, brightest_voxels(magnitude), method=method, psf_fwhm_voxel=fwhm, noise_rms=0.0)
        assert found.position_voxel[0] == pytest.approx(truth, abs=0.02)


@pytest.mark.parametrize("method", METHODS)
def test_peaks_on_corners_and_edges_pass(method):
    magnitude = np.zeros((8, 9, 10, 1), np.float32)
    magnitude[:, :, :, 0] = spot((8, 9, 10), (0.0, 8.0, 4.2), (3.0, 3.0, 3.0))
    found = localise(
        magnitude, peaks_at(magnitude, [0], [0, 8, 4]), method=method, psf_fwhm_voxel=(3.0, 3.0, 3.0), noise_rms=0.1
    )
    assert len(found) <= 1
    assert np.isfinite(found.position_voxel).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("mirrored", [0, 2])
def test_axes_may_be_swapped_and_mirrored(method, order, mirrored):
    shape, fwhm = (13, 14, 15), np.array((4.0, 3.0, 2.5))
    magnitude, _ = spots(shape, fwhm, n=30, rng=np.random.default_rng(6), noise_rms=0.1)
    turned = np.flip(magnitude.transpose(*order, 3), axis=mirrored).copy()
    plain, other = (
        localise(m, brightest_voxels(m), method=method, psf_fwhm_voxel=tuple(w), noise_rms=0.1)
        for m, w in ((magnitude, fwhm), (turned, fwhm[list(order)]))
    )
    position, deviation = other.position_voxel.copy(), other.deviation_voxel
    position[:, mirrored] = turned.shape[mirrored] - 1 - position[:, mirrored]
    back = np.argsort(order)
    assert other.frame.tolist() == plain.frame.tolist()
    np.testing.assert_allclose(position[:, back], plain.position_voxel, atol=1e-4)  # tolerance of the iteration
    np.testing.assert_allclose(deviation[:, back], plain.deviation_voxel, rtol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_gain_of_the_recording_does_not_matter(method):
    magnitude, _ = spots((13, 14, 15), (3.0, 3.0, 3.0), n=8, rng=np.random.default_rng(4), noise_rms=0.1)
    gain = np.float32(2.0**-70)
    settings = {"method": method, "psf_fwhm_voxel": (3.0, 3.0, 3.0)}
    loud = localise(magnitude, brightest_voxels(magnitude), **settings, noise_rms=0.1)
    faint = localise(gain * magnitude, brightest_voxels(gain * magnitude), **settings, noise_rms=0.1 * float(gain))
    np.testing.assert_allclose(faint.position_voxel, loud.position_voxel, rtol=1e-12)
    np.testing.assert_allclose(faint.deviation_voxel, loud.deviation_voxel, rtol=1e-9)
    np.testing.assert_allclose(faint.amplitude / float(gain), loud.amplitude, rtol=1e-9)


def test_bubbles_far_from_their_peak_are_dropped():
    """Next to the peak, a plateau as high: the centroid lies more than half a width away along x."""
    magnitude = np.zeros((11, 12, 13, 2), np.float32)
    magnitude[5, 6, 6] = 1.0
    magnitude[6:8, 5:8, 5:8, 1] = 0.9
    peaks = peaks_at(magnitude, [0, 1], [[5, 6, 6], [5, 6, 6]])
    found = localise(magnitude, peaks, method="weighted_average", psf_fwhm_voxel=(2.6, 4.0, 4.0), noise_rms=0.0)
    assert found.frame.tolist() == [0, 1]  # the window is one voxel to either side: at most 1 away
    found = localise(magnitude, peaks, method="weighted_average", psf_fwhm_voxel=(3.0, 4.0, 4.0), noise_rms=0.0)
    # (9 * 0.9 * 1 + 9 * 0.9 * 2) / (1 + 18 * 0.9) = 1.41 < 1.5 remains; without the peak itself it is 1.5 and more.
    assert found.position_voxel[1] == pytest.approx([5.0 + 24.3 / 17.2, 6.0, 6.0], abs=1e-6)
    magnitude[7, 5:8, 5:8, 1] = 5.0
    found = localise(magnitude, peaks, method="weighted_average", psf_fwhm_voxel=(3.0, 4.0, 4.0), noise_rms=0.0)
    assert found.frame.tolist() == [0]


@pytest.mark.parametrize("method", METHODS)
def test_many_batches_are_as_one(method, monkeypatch):
    magnitude, _ = spots((11, 12, 13), (3.0, 3.0, 2.5), n=23, rng=np.random.default_rng(9), noise_rms=0.05)
    settings = {"method": method, "psf_fwhm_voxel": (3.0, 3.0, 2.5), "noise_rms": 0.05}
    whole = localise(magnitude, brightest_voxels(magnitude), **settings)
    monkeypatch.setattr("sparse_ulm.classical.localisation.BUBBLES_AT_ONCE", 7)
    parts = localise(magnitude, brightest_voxels(magnitude), **settings)
    np.testing.assert_array_equal(parts.position_voxel, whole.position_voxel)


@pytest.mark.parametrize("method", METHODS)
def test_no_peaks_give_no_bubbles(method):
    magnitude = np.zeros((6, 7, 8, 2), np.float32)
    found = localise(
        magnitude, peaks_at(magnitude, [], []), method=method, psf_fwhm_voxel=(3.0, 3.0, 3.0), noise_rms=1.0
    )
    assert len(found) == 0
    assert found.position_voxel.shape == found.deviation_voxel.shape == (0, 3)


def test_unknown_method_is_refused():
    magnitude = np.zeros((6, 7, 8, 2), np.float32)
    with pytest.raises(UserError, match="wanted one of"):
        localise(magnitude, peaks_at(magnitude, [], []), method="gauss", psf_fwhm_voxel=(3.0, 3.0, 3.0), noise_rms=1.0)
    with pytest.raises(UserError, match="wanted three positive widths"):
        localise(magnitude, peaks_at(magnitude, [], []), method="none", psf_fwhm_voxel=(3.0, 0.0, 3.0), noise_rms=1.0)
