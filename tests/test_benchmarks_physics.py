"""Delay-and-sum against a direct sum and by hand; recordings by eSDIva where it is installed."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparse_ulm.blocks import truth_of
from sparse_ulm.evaluate import concentration
from sparse_ulm.io import open_recordings

PHYSICS = Path(__file__).resolve().parents[1] / "benchmarks" / "physics"
HAS_ESDIVA = all(importlib.util.find_spec(name) for name in ("esdiva", "pyvista"))
needs_esdiva = pytest.mark.skipif(not HAS_ESDIVA, reason="needs esdiva 0.3.0 (pip install esdiva==0.3.0)")

SPEED_M_S = 1540.0
FREQUENCY_HZ = 8e6


@pytest.fixture(autouse=True)
def physics_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PHYSICS))


def pulse(time_s: np.ndarray) -> np.ndarray:
    """An analytic pulse of a good cycle."""
    return np.exp(-0.5 * (time_s / 0.1e-6) ** 2 + 2j * np.pi * FREQUENCY_HZ * time_s)


def scene(start_s: float = 3e-6, demodulation_hz: float = FREQUENCY_HZ) -> dict[str, Any]:
    """A bubble before a 5 x 7 array that lacks one element, on 6 x 4 x 9 voxels, after a tilted plane wave."""
    x, y = np.meshgrid((np.arange(5) - 2) * 3e-4, (np.arange(7) - 3) * 3e-4)
    element_m = np.delete(np.column_stack([x.ravel(), y.ravel(), np.zeros(35)]), 11, axis=0)
    bubble_m, tilt = np.array([0.2e-3, -0.1e-3, 4e-3]), np.array([0.08, -0.05])
    axes = [bubble_m[0] + np.arange(-3, 3) * 1e-4, bubble_m[1] + np.arange(-2, 2) * 1e-4]
    axes.append(bubble_m[2] + np.arange(-4, 5) * 0.5e-4)
    time_s = start_s + np.arange(300) / 48e6
    arrival_s = (bubble_m @ direction(tilt) + np.linalg.norm(bubble_m - element_m, axis=1)) / SPEED_M_S
    analytic = pulse(time_s[:, None] - arrival_s)
    return {
        "iq": (analytic * np.exp(-2j * np.pi * demodulation_hz * time_s)[:, None]).astype(np.complex64),
        "start_s": start_s,
        "sampling_rate_hz": 48e6,
        "demodulation_hz": demodulation_hz,
        "element_m": element_m,
        "voxel_m": np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1),
        "tilt_rad": tilt,
        "f_number": 2.5,
        "sound_speed_m_s": SPEED_M_S,
    }


def direction(tilt: np.ndarray) -> np.ndarray:
    """Written out once more, for the plane wave of the scene."""
    return np.array([np.sin(tilt[0]), np.sin(tilt[1]), np.sqrt(1 - np.sin(tilt[0]) ** 2 - np.sin(tilt[1]) ** 2)])


def test_delay_and_sum_of_one_element_by_hand() -> None:
    from delay_and_sum import delay_and_sum

    # Constant baseband: what remains is the phase of the two-way delay, 2 x 1.54 mm / c = 2 us or 16.2 periods.
    image = delay_and_sum(
        np.full((200, 1), 2.0, dtype=np.complex64),
        start_s=1e-6,
        sampling_rate_hz=50e6,
        demodulation_hz=8.1e6,
        element_m=np.zeros((1, 3)),
        voxel_m=np.array([[0.0, 0.0, 1.54e-3], [0.5e-3, 0.0, 1.54e-3], [0.0, 0.8e-3, 1.54e-3], [0.0, 0.0, 5e-3]]),
        tilt_rad=np.zeros(2),
        f_number=1.0,
        sound_speed_m_s=SPEED_M_S,
    )
    assert image[0] == pytest.approx(2.0 * np.exp(2j * np.pi * 0.2), abs=2e-3)
    assert abs(image[1]) == pytest.approx(2.0, abs=1e-5)
    # Beyond half of the depth aside, and beyond the last sample, there is nothing.
    np.testing.assert_array_equal(image[2:], 0)


def test_delay_and_sum_is_the_direct_sum() -> None:
    from delay_and_sum import delay_and_sum

    values = scene()
    image = delay_and_sum(**values)
    voxel_m, element_m = values["voxel_m"], values["element_m"]
    bubble_m = np.array([0.2e-3, -0.1e-3, 4e-3])
    way_m = np.linalg.norm(voxel_m[..., None, :] - element_m, axis=-1)
    arrival_m = bubble_m @ direction(values["tilt_rad"]) + np.linalg.norm(bubble_m - element_m, axis=1)
    delay_s = ((voxel_m @ direction(values["tilt_rad"]))[..., None] + way_m - arrival_m) / SPEED_M_S
    aside = np.abs(voxel_m[..., None, :2] - element_m[:, :2]).max(axis=-1)
    in_aperture = aside <= voxel_m[..., 2:] / 5.0
    assert 0 < in_aperture.sum() < in_aperture.size
    expected = (pulse(delay_s) * in_aperture).sum(axis=-1)
    assert np.unravel_index(np.abs(image).argmax(), image.shape) == (3, 2, 4)
    # Cubic interpolation at six samples per period of the carrier, in baseband.
    np.testing.assert_allclose(image, expected, atol=2e-3 * np.abs(expected).max())


def test_neither_window_nor_demodulation_changes_the_image() -> None:
    from delay_and_sum import delay_and_sum

    image = delay_and_sum(**scene())
    level = np.abs(image).max()
    np.testing.assert_allclose(delay_and_sum(**scene(start_s=2.9e-6)), image, atol=3e-3 * level)
    np.testing.assert_allclose(delay_and_sum(**scene(demodulation_hz=8.7e6)), image, atol=3e-3 * level)


def test_the_carrier_turns_forward_with_depth() -> None:
    from delay_and_sum import delay_and_sum

    # Steps of a quarter of a wavelength would turn by nearly pi: ten times finer ones leave no doubt of the sign.
    values = scene()
    line_m = values["voxel_m"][3, 2, 4] + np.arange(-9, 10)[:, None] * np.array([0.0, 0.0, 5e-6])
    line = delay_and_sum(**(values | {"voxel_m": line_m}))
    slope = np.angle((line[1:] * line[:-1].conj()).sum()) / 5e-6
    assert 0.9 < slope / (4 * np.pi * FREQUENCY_HZ / SPEED_M_S) < 1.0


def test_frames_are_beamformed_alike() -> None:
    from delay_and_sum import delay_and_sum

    values = scene()
    factors = np.array([[1.0, 2j, -0.5], [0.0, 3.0, 1j]], dtype=np.complex64)
    several = delay_and_sum(**(values | {"iq": values["iq"][..., None, None] * factors}))
    one = delay_and_sum(**values)
    np.testing.assert_allclose(several, one[..., None, None] * factors, atol=1e-5 * np.abs(one).max())


def small_probe(**changes: Any) -> Any:
    from matrix_probe import MatrixProbe

    values = {
        "n_elements": (9, 11),
        "blank_rows": (3,),
        "pitch_m": 3e-4,
        "kerf_m": 2e-5,
        "centre_frequency_hz": FREQUENCY_HZ,
        "bandwidth": 0.67,
        "n_cycles": 1,
        "tilts_rad": np.array([[0.05, -0.1]]),
        "f_number": 1.5,
        "attenuation_db_cm_mhz": 0.5,
        "soft_baffle": True,
        "sound_speed_m_s": SPEED_M_S,
    }
    return MatrixProbe(**(values | changes))


def test_probe_pulse_and_blank_rows() -> None:
    probe = small_probe()
    assert probe.position_m.shape == (99, 3)
    assert probe.is_element.sum() == 90
    assert np.unique(probe.position_m[~probe.is_element, 1]) == pytest.approx(-2 * 3e-4)
    for n_cycles in (1, 2):
        two_way = small_probe(n_cycles=n_cycles).pulse()
        assert len(two_way) % 2 == 1
        # A burst of whole cycles is odd about its middle; its envelope is even.
        np.testing.assert_allclose(two_way, -two_way[::-1], atol=1e-6)


def test_phase_screen_has_neither_mean_nor_slope() -> None:
    from matrix_probe import phase_screen_s

    probe = small_probe()
    screen = phase_screen_s(probe, np.random.default_rng(5), rms_s=1e-8, correlation_m=4e-4)
    assert screen.std() == pytest.approx(1e-8)
    assert abs(screen.mean()) < 1e-12
    assert np.abs(probe.position_m.T @ screen).max() < 1e-14
    assert not phase_screen_s(probe, np.random.default_rng(5), rms_s=0.0, correlation_m=4e-4).any()


@needs_esdiva
def test_bubbles_appear_where_they_are() -> None:
    from esdiva_channels import ChannelSimulator
    from matrix_imaging import Imager, measure_point_spread

    from sparse_ulm.simulation.placement import Box

    bubble_m = np.array([0.1e-3, -0.2e-3, 5e-3])
    simulator = ChannelSimulator(small_probe(), Box(bubble_m - 8e-4, bubble_m + 9e-4), np.zeros(99))
    spread = measure_point_spread(simulator, bubble_m)
    # Along z dispersion moves the maximum; aside, the blank row and the plane wave's edges do (35 um were seen).
    assert np.abs(spread.peak_offset_m[2]) < 1e-5
    assert np.abs(spread.peak_offset_m[:2] / spread.fwhm_m[:2]).max() < 0.1
    assert 0.65 < spread.carrier_over_2k0[2] < 1.0
    assert 0.7 < spread.fwhm_m[2] / simulator.probe.wavelength_m < 1.1
    grid = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in (2, 3, 4)), indexing="ij"), axis=-1)
    imager = Imager(simulator, bubble_m + grid * np.array([1e-4, 1e-4, 6e-5]))
    imager.set_levels(bubble_m, np.random.default_rng(1), noise_rms=0.01)
    image = imager.image(bubble_m[None], np.array([2.0]), np.random.default_rng(2))
    assert np.unravel_index(np.abs(image).argmax(), image.shape) == (2, 3, 4)
    assert abs(image[2, 3, 4]) == pytest.approx(2.0, abs=0.05)
    silence = imager.image(np.zeros((0, 3)), np.zeros(0), np.random.default_rng(3))
    assert np.sqrt((np.abs(silence) ** 2).mean()) == pytest.approx(0.01, rel=0.3)


@needs_esdiva
def test_a_folder_of_recordings_is_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import esdiva_recordings
    import matrix_imaging
    from families import Family

    family = Family(small_probe(), (4e-3, 5e-3), 2e-4, (20.0, 20.0), 0.5, 5e-4, -10.0)
    monkeypatch.setitem(esdiva_recordings.FAMILIES, "8mhz", family)
    monkeypatch.setattr(matrix_imaging, "N_CLUTTER_SCATTERERS", 20)
    sizes = "--n_recordings 1 --concentrations 0.05 0.3 --grid_size 7 6 8 --n_frames 3"
    where = ["--family", "8mhz", "--vessels", "synthetic", "--output_dir", str(tmp_path)]
    summary = json.loads(esdiva_recordings.main([*where, *sizes.split()]).read_text())
    assert [row["bubbles_per_psf_volume"] for row in summary["recordings"]] == [0.05, 0.3]
    for row in summary["recordings"]:
        recording = open_recordings(tmp_path / row["file"])[0]
        assert recording.shape == (7, 6, 8, 3)
        assert concentration(truth_of(recording), recording)["bubbles_per_frame"] == row["n_bubbles"]
        assert np.isfinite(recording.frames(0, 3)).all()
