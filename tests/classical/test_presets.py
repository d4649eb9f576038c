"""Presets: complete, changeable by name, and their limits of speed."""

from dataclasses import fields

import pytest

from sparse_ulm.classical.presets import GAUSSIAN_KALMAN, PRESETS, Preset, changed, find_preset
from sparse_ulm.errors import UserError


def test_the_numbers_of_the_field_s_tools():
    """Reference notes §5: PALA keeps tracks longer than 15 and averages 19 samples where it says 20."""
    rat, volume = find_preset("pala_rat"), find_preset("open3dulm")
    assert (rat.n_brightest, rat.n_local_maxima, rat.min_length, rat.smooth_span) == (90, 3, 16, 19)
    assert rat.max_speed(frame_rate_hz=1000.0, wavelength_m=98.6e-6) == pytest.approx(0.1972)
    assert (volume.n_brightest, volume.local_contrast_db, volume.min_length) == (900, 9.0, 9)
    assert volume.max_speed(frame_rate_hz=1000.0, wavelength_m=98.6e-6) == 0.03


def test_changes_by_name_and_none_keeps():
    changed = find_preset("pala_rat", n_brightest=7, min_length=None, max_speed_m_s=0.01)
    assert (changed.n_brightest, changed.min_length) == (7, 16)
    assert changed.max_speed(frame_rate_hz=1000.0, wavelength_m=1e-4) == 0.01  # the smaller of both limits
    assert changed.max_speed(frame_rate_hz=10.0, wavelength_m=1e-4) == pytest.approx(0.002)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_says_how_far_to_link_and_how_to_smooth(name):
    preset = PRESETS[name]
    assert preset.max_speed(frame_rate_hz=500.0, wavelength_m=1e-4) > 0
    assert preset.smooth_span is not None or preset.bend_radius_m is not None
    assert preset.noise_factor is not None or preset.n_brightest is not None
    assert {field.name for field in fields(Preset)} == set(vars(preset))


def test_a_network_changes_some_settings_of_our_preset():
    assert find_preset("gaussian_kalman") == GAUSSIAN_KALMAN
    wanted = find_preset("gaussian_kalman", min_length=9)
    assert changed(GAUSSIAN_KALMAN, min_length=9, max_gap_frames=None) == wanted != GAUSSIAN_KALMAN


def test_unknown_names_are_refused():
    with pytest.raises(UserError, match=r"preset is 'pala'; wanted one of gaussian_kalman, pala_rat"):
        find_preset("pala")
    with pytest.raises(UserError, match="speed: no such setting"):
        find_preset("pala_rat", speed=3.0)
    bare = find_preset("open3dulm").__class__(**(vars(find_preset("open3dulm")) | {"max_speed_m_s": None}))
    with pytest.raises(UserError, match="both null"):
        bare.max_speed(frame_rate_hz=500.0, wavelength_m=1e-4)
