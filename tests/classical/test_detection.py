"""Detection: what is a bubble, what is noise, a side lobe, a crowd or the border."""

import numpy as np
import pytest
from spot_cases import spot, spots

from sparse_ulm.classical.detection import find_bubbles, local_contrast, window_half_width
from sparse_ulm.classical.regional_maxima import frames_first
from sparse_ulm.errors import UserError

FWHM = (3.0, 3.0, 3.0)
EVERYTHING = {
    "psf_fwhm_voxel": FWHM,
    "noise_rms": 0.0,
    "noise_factor": 0.0,
    "n_brightest": None,
    "side_lobe_ratio": 0.0,
    "local_contrast_db": None,
}


def points(values, shape=(20, 21, 22), n_frames=1):
    """Single bright voxels on nothing, {(x, y, z, t): magnitude}."""
    magnitude = np.zeros((*shape, n_frames), np.float32)
    for voxel, value in values.items():
        magnitude[voxel] = value
    return magnitude


def found_at(magnitude, **changes):
    peaks = find_bubbles(magnitude, **(EVERYTHING | changes))
    return [tuple(row) for row in np.column_stack([peaks.voxel, peaks.frame]).tolist()]


def test_peaks_are_sorted_by_frame_and_hold_their_magnitudes():
    magnitude = points({(5, 6, 7, 1): 3.0, (2, 9, 4, 1): 2.0, (8, 8, 8, 0): 1.0}, n_frames=3)
    peaks = find_bubbles(magnitude, **EVERYTHING)
    assert peaks.frame.tolist() == [0, 1, 1]
    assert peaks.voxel.tolist() == [[8, 8, 8], [2, 9, 4], [5, 6, 7]]
    assert peaks.amplitude.tolist() == [1.0, 2.0, 3.0]


def test_threshold_is_in_units_of_the_noise():
    magnitude = points({(5, 5, 5, 0): 2.9, (15, 15, 15, 0): 3.1})
    assert found_at(magnitude, noise_factor=6.0, noise_rms=0.5) == [(15, 15, 15, 0)]


def test_noise_alone_passes_as_often_as_theory_says():
    rng = np.random.default_rng(3)
    noise = rng.standard_normal((40, 41, 42, 10)) + 1j * rng.standard_normal((40, 41, 42, 10))
    magnitude = np.abs(2.0 * noise / np.sqrt(2.0)).astype(np.float32)
    n_found = len(find_bubbles(magnitude, **(EVERYTHING | {"noise_factor": 2.8, "noise_rms": 2.0})))
    assert n_found == pytest.approx(magnitude.size * np.exp(-(2.8**2)), rel=0.15)  # few of them touch


def test_brightest_are_those_strictly_above_the_next():
    values = {(4, 4, 4, 0): 5.0, (4, 4, 12, 0): 4.0, (4, 12, 4, 0): 3.0, (12, 4, 4, 0): 3.0, (12, 12, 12, 1): 1.0}
    magnitude = points(values, n_frames=2)
    two = [(4, 4, 4, 0), (4, 4, 12, 0), (12, 12, 12, 1)]
    assert found_at(magnitude, n_brightest=2) == two
    assert found_at(magnitude, n_brightest=3) == two  # the third and fourth are equal: neither is above the other
    assert len(found_at(magnitude, n_brightest=4)) == 5


def test_side_lobes_are_judged_by_what_is_near():
    magnitude = points({(10, 10, 10, 0): 10.0, (10, 10, 16, 0): 2.0, (10, 10, 2, 0): 2.0, (10, 16, 10, 0): 4.0})
    kept = found_at(magnitude, side_lobe_ratio=0.3, side_lobe_window_fwhm=2.0)  # 6 voxels to either side
    assert kept == [(10, 10, 2, 0), (10, 10, 10, 0), (10, 16, 10, 0)]
    assert len(found_at(magnitude, side_lobe_ratio=0.3, side_lobe_window_fwhm=3.0)) == 2
    assert len(found_at(magnitude, side_lobe_ratio=0.15, side_lobe_window_fwhm=3.0)) == 4


def test_side_lobe_window_follows_the_width_of_each_axis():
    magnitude = points({(10, 10, 10, 0): 10.0, (15, 10, 10, 0): 1.0, (10, 10, 15, 0): 1.0})
    kept = found_at(magnitude, side_lobe_ratio=0.3, side_lobe_window_fwhm=1.0, psf_fwhm_voxel=(5.0, 3.0, 2.0))
    assert kept == [(10, 10, 10, 0), (10, 10, 15, 0)]


def test_bubble_in_the_border_still_shows_its_side_lobes():
    magnitude = points({(1, 10, 10, 0): 10.0, (5, 10, 10, 0): 1.0})
    assert found_at(magnitude, side_lobe_ratio=0.3, drop_border=True) == []


def test_border_is_a_window_and_one_voxel():
    magnitude = points({(x, 10, 10, 0): 1.0 for x in (0, 2, 4, 15, 17, 19)})
    assert [x for x, *_ in found_at(magnitude, drop_border=True)] == [4, 15]  # 3 of 20 at either side
    assert len(found_at(magnitude)) == 6


def test_axis_of_one_voxel_has_no_border():
    magnitude = points({(9, 0, 8, 0): 1.0}, shape=(20, 1, 22))
    assert found_at(magnitude, drop_border=True) == [(9, 0, 8, 0)]


def test_slope_at_the_border_is_no_bubble():
    """PALA sets the border to zero first, and then finds a maximum where the slope is cut."""
    magnitude = points({})
    magnitude[..., 0] = np.linspace(5.0, 1.0, 20)[:, None, None]
    magnitude[..., 0] -= 0.01 * np.abs(np.arange(21) - 10)[None, :, None]
    magnitude[..., 0] -= 0.01 * np.abs(np.arange(22) - 11)[None, None, :]
    assert found_at(magnitude, drop_border=True) == []


def test_local_contrast_by_hand():
    magnitude = np.full((9, 10, 11, 1), 2.0, np.float32)
    magnitude[4, 5, 5] = 8.0
    magnitude[5, 5, 5] = 4.0  # a next neighbour, of weight 0.2
    peaks = find_bubbles(magnitude, **EVERYTHING)
    mean = (0.2 * (25 * 2.0 + 4.0) + (343 - 27) * 2.0) / (0.2 * 26 + 343 - 27)
    assert local_contrast(frames_first(magnitude), peaks) == pytest.approx([20.0 * np.log10(8.0 / mean)])


def test_local_contrast_keeps_what_stands_out():
    magnitude = np.full((20, 21, 22, 1), 1.0, np.float32)
    magnitude[5, 5, 5], magnitude[14, 14, 14] = 2.5, 3.0  # 8.0 and 9.5 dB
    assert found_at(magnitude, local_contrast_db=9.0) == [(14, 14, 14, 0)]


def test_crowded_windows_are_dropped():
    crowd = {(5, 5, 5, 0): 3.0, (7, 5, 5, 0): 2.0, (5, 7, 5, 0): 2.0, (5, 5, 7, 0): 2.0}
    magnitude = points({**crowd, (15, 15, 15, 0): 1.0, (5, 5, 5, 1): 1.0}, n_frames=2)
    # The window of the first holds all four, that of (7, 5, 5) too: it reaches 2 voxels.
    assert found_at(magnitude, n_local_maxima=3) == [(15, 15, 15, 0), (5, 5, 5, 1)]
    assert len(found_at(magnitude, n_local_maxima=4)) == 6


@pytest.mark.parametrize(("fwhm", "half"), [(1.0, 1), (2.9, 1), (3.0, 2), (4.9, 2), (5.0, 3), (7.0, 4)])
def test_half_widths_round_halves_up(fwhm, half):
    assert window_half_width((fwhm, fwhm, 3.0), (9, 1, 9)).tolist() == [half, 0, 2]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("mirrored", [0, 1, 2])
def test_axes_may_be_swapped_and_mirrored(order, mirrored):
    rng = np.random.default_rng(11)
    shape, fwhm = np.array((13, 16, 19)), np.array((4.0, 3.0, 2.0))
    magnitude, _ = spots(tuple(shape), fwhm, n=4, rng=rng, noise_rms=0.2)
    settings = EVERYTHING | {
        "noise_rms": 0.2,
        "noise_factor": 1.0,
        "side_lobe_ratio": 0.3,
        "side_lobe_window_fwhm": 1.0,
        "local_contrast_db": 3.0,
        "n_brightest": 20,
        "n_local_maxima": 2,
    }
    plain = find_bubbles(magnitude, **(settings | {"psf_fwhm_voxel": tuple(fwhm)}))
    turned = np.flip(magnitude.transpose(*order, 3), axis=mirrored).copy()
    other = find_bubbles(turned, **(settings | {"psf_fwhm_voxel": tuple(fwhm[list(order)])}))
    voxel = other.voxel.copy()
    voxel[:, mirrored] = turned.shape[mirrored] - 1 - voxel[:, mirrored]
    back = np.column_stack([other.frame, voxel[:, np.argsort(order)]])
    wanted = np.column_stack([plain.frame, plain.voxel])
    assert 10 < len(plain) < 80
    assert {tuple(row) for row in back.tolist()} == {tuple(row) for row in wanted.tolist()}


def test_gain_of_the_recording_does_not_matter():
    magnitude, _ = spots((14, 15, 16), FWHM, n=3, rng=np.random.default_rng(1), noise_rms=0.1)
    settings = {"noise_factor": 2.0, "side_lobe_ratio": 0.3, "local_contrast_db": 6.0}
    faint = np.float32(2.0**-70) * magnitude
    assert found_at(magnitude, noise_rms=0.1, **settings) == found_at(faint, noise_rms=0.1 * 2.0**-70, **settings)


def test_nothing_is_found_in_nothing():
    peaks = find_bubbles(
        np.zeros((6, 7, 8, 3), np.float32),
        **(EVERYTHING | {"n_brightest": 5, "side_lobe_ratio": 0.3, "local_contrast_db": 9.0, "n_local_maxima": 3}),
    )
    assert len(peaks) == 0
    assert peaks.voxel.shape == (0, 3)


def test_two_spots_are_two_bubbles():
    image = spot((20, 21, 22), (6.3, 8.6, 9.1), FWHM) + spot((20, 21, 22), (12.4, 11.9, 13.2), FWHM, amplitude=0.6)
    assert found_at(image.astype(np.float32)[..., None]) == [(6, 9, 9, 0), (12, 12, 13, 0)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noise_factor": None}, "both None"),
        ({"noise_factor": -1.0}, "noise_factor is -1.0"),
        ({"n_brightest": 0}, "n_brightest is 0"),
        ({"side_lobe_ratio": 1.0}, "side_lobe_ratio is 1.0"),
        ({"side_lobe_window_fwhm": 0.0}, "side_lobe_window_fwhm is 0.0"),
        ({"psf_fwhm_voxel": (3.0, float("nan"), 3.0)}, "wanted three positive widths"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        found_at(points({}), **changes)
