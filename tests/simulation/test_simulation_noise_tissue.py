"""Noise and tissue: levels, spectra, motion."""

import numpy as np
import pytest
from simulation_cases import make_geometry

from sparse_ulm.simulation.imaging import GaussianPsf, carrier_phasor
from sparse_ulm.simulation.noise import baseband_response, complex_normal, make_noise
from sparse_ulm.simulation.tissue import TissueMotion, make_tissue

SHAPE = (16, 18, 20)
PSF = GaussianPsf(np.array([200e-6, 230e-6, 140e-6]), np.zeros(2), np.array([2e3, 0.0, 90e3]))
GEOMETRY = make_geometry()
RESPONSE = baseband_response(PSF, SHAPE, GEOMETRY)
CARRIER = carrier_phasor(PSF.carrier_rad_m, SHAPE, GEOMETRY.voxel_size_m)


def rms(frames: np.ndarray) -> float:
    return float(np.sqrt((np.abs(frames) ** 2).mean()))


def correlation(a: np.ndarray, b: np.ndarray) -> complex:
    return complex((a * b.conj()).sum() / np.sqrt((np.abs(a) ** 2).sum() * (np.abs(b) ** 2).sum()))


def test_complex_normal_has_unit_power_in_independent_parts() -> None:
    z = complex_normal(np.random.default_rng(0), (40, 50, 60))
    assert z.dtype == np.complex64
    assert rms(z) == pytest.approx(1.0, abs=0.01)
    assert abs((z**2).mean()) < 0.02


@pytest.mark.parametrize("white_share", [0.0, 0.4, 1.0])
def test_noise_rms_is_as_asked(white_share: float) -> None:
    noise = make_noise(np.random.default_rng(1), RESPONSE, CARRIER, 30, rms=0.07, white_share=white_share)
    assert noise.shape == (*SHAPE, 30)
    assert rms(noise) == pytest.approx(0.07, rel=0.03)


def test_coloured_noise_has_the_psf_spectrum_and_carrier() -> None:
    """Neighbours along x correlate as the PSF with itself: a Gaussian sqrt(2) wider, turned by the carrier."""
    noise = make_noise(np.random.default_rng(2), RESPONSE, CARRIER, 60, rms=1.0, white_share=0.0)
    for axis in (0, 2):
        step = GEOMETRY.voxel_size_m[axis]
        ahead, here = np.take(noise, range(1, SHAPE[axis]), axis), np.take(noise, range(SHAPE[axis] - 1), axis)
        sigma = np.sqrt(2) * PSF.fwhm_m[axis] / 2.3548
        expected = np.exp(-0.5 * (step / sigma) ** 2) * np.exp(1j * PSF.carrier_rad_m[axis] * step)
        assert correlation(ahead, here) == pytest.approx(expected, abs=0.03)


def test_noise_is_white_over_frames_and_over_voxels_where_asked() -> None:
    noise = make_noise(np.random.default_rng(3), RESPONSE, CARRIER, 40, rms=1.0, white_share=1.0)
    assert abs(correlation(noise[..., 1:], noise[..., :-1])) < 0.01
    assert abs(correlation(noise[1:], noise[:-1])) < 0.01


def still(**changes: object) -> TissueMotion:
    values = {"amplitude_m": np.zeros(3), "frequency_hz": 2.0, "phase_rad": 0.0, "decorrelation_time_s": 1e9}
    return TissueMotion(**(values | changes))


def tissue(motion: TissueMotion, n_frames: int = 10, seed: int = 4) -> np.ndarray:
    return make_tissue(np.random.default_rng(seed), RESPONSE, PSF.carrier_rad_m, n_frames, GEOMETRY, motion, rms=30.0)


def test_tissue_rms_is_as_asked() -> None:
    levels = [rms(tissue(still(), 1, seed)) for seed in range(12)]
    assert np.sqrt(np.mean(np.square(levels))) == pytest.approx(30.0, rel=0.05)


def test_tissue_without_motion_stands_still() -> None:
    frames = tissue(still())
    np.testing.assert_allclose(frames[..., 9], frames[..., 0], atol=1e-3)


def test_tissue_moves_as_asked_by_a_whole_voxel_and_its_carrier_turns() -> None:
    """A quarter period into the motion the shift is the amplitude: one voxel along x, and 10 um along z."""
    quarter_s = 5 / GEOMETRY.frame_rate_hz
    along_x = still(amplitude_m=np.array([50e-6, 0.0, 0.0]), frequency_hz=0.25 / quarter_s)
    frames = tissue(along_x, 6)
    np.testing.assert_allclose(frames[1:, :, :, 5], frames[:-1, :, :, 0], atol=2e-2)
    along_z = still(amplitude_m=np.array([0.0, 0.0, 10e-6]), frequency_hz=0.25 / quarter_s)
    frames = tissue(along_z, 6)
    turned = correlation(frames[..., 5], frames[..., 0])
    assert np.angle(turned) == pytest.approx(-90e3 * 10e-6, abs=0.05)
    assert abs(turned) > 0.97


def test_tissue_becomes_another_in_the_decorrelation_time() -> None:
    frames = tissue(still(decorrelation_time_s=10 / GEOMETRY.frame_rate_hz), 11)
    assert abs(correlation(frames[..., 10], frames[..., 0])) < 0.35
    assert abs(correlation(frames[..., 5], frames[..., 0])) == pytest.approx(np.sqrt(0.5), abs=0.2)
    assert rms(frames[..., 5]) == pytest.approx(30.0, rel=0.25)
