"""Matrix-array kernels: against a direct sum over elements and frequencies, and a physics simulator's widths."""

from dataclasses import replace

import numpy as np
import pytest

from sparse_ulm.simulation.imaging import TabulatedPsf
from sparse_ulm.simulation.sidelobes import Probe, matrix_array_psf, pulse_spectrum

# 32 x 32 elements of 300 um at 8 MHz. The simulator's pulse chain (transducer, one-cycle burst, IQ filter) left an
# axial width of 199 um, which is that of a Gaussian spectrum of 45 % bandwidth.
PROBE = Probe(
    n_elements=(32, 32),
    pitch_m=300e-6,
    kerf_m=25e-6,
    centre_frequency_hz=8e6,
    fractional_bandwidth=0.45,
    pulse_cycles=0.0,
    f_number=1.0,
    edge_wave_gain=1.0,
    tilts_rad=np.zeros((1, 2)),
    aberration_rad=np.zeros(6),
    attenuation_db_m_hz=0.5e-4,
    sound_speed_m_s=1540.0,
)
WAVENUMBER_2K0 = 4 * np.pi * 8e6 / 1540.0
STEP_M = np.array([48e-6, 48e-6, 16e-6])


def kernel(probe: Probe = PROBE, bubble_m: tuple[float, float, float] = (0.0, 0.0, 8e-3)) -> TabulatedPsf:
    return matrix_array_psf(probe, np.array(bubble_m), half_width_m=np.array([0.7e-3, 0.7e-3, 0.6e-3]), step_m=STEP_M)


@pytest.fixture(scope="module")
def on_axis() -> TabulatedPsf:
    return kernel()


@pytest.mark.parametrize(
    ("bubble_m", "widths_um", "slope", "lateral_slopes"),
    [
        ((0.0, 0.0, 8e-3), (330, 330, 199), 0.79, (0.0, 0.0)),
        ((3e-3, 2e-3, 10e-3), (457, 405, 196), 0.76, (0.04, 0.03)),
        ((4e-3, 4e-3, 14e-3), (554, 554, 196), 0.79, (0.07, 0.07)),
    ],
)
def test_widths_and_carriers_are_those_of_a_physics_simulator(bubble_m, widths_um, slope, lateral_slopes) -> None:
    """simus3 and delay-and-sum, measured in the project's reference (8 MHz, one plane wave, F-number 1)."""
    psf = kernel(bubble_m=bubble_m)
    np.testing.assert_allclose(psf.fwhm_m * 1e6, widths_um, rtol=0.1)
    np.testing.assert_allclose(psf.carrier_rad_m / WAVENUMBER_2K0, [*lateral_slopes, slope], atol=0.12)
    np.testing.assert_allclose(psf.carrier_rad_m[:2] / WAVENUMBER_2K0, lateral_slopes, atol=0.015)


def test_kernel_of_a_bubble_on_the_axis_is_symmetric(on_axis: TabulatedPsf) -> None:
    table = on_axis.envelope
    np.testing.assert_allclose(table, table[::-1], atol=2e-4)
    np.testing.assert_allclose(table, table[:, ::-1], atol=2e-4)
    np.testing.assert_allclose(table, table.transpose(1, 0, 2), atol=2e-4)


def test_bubble_is_at_the_middle_sample_with_magnitude_one(on_axis: TabulatedPsf) -> None:
    middle = tuple(n // 2 for n in on_axis.envelope.shape)
    assert on_axis.envelope[middle] == pytest.approx(1.0, abs=1e-5)
    peak = np.unravel_index(np.abs(on_axis.envelope).argmax(), on_axis.envelope.shape)
    np.testing.assert_allclose(peak, middle, atol=1)
    rim = np.abs(on_axis.envelope[[0, -1]])
    assert rim.max() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("tilt", [(0.0, 0.0), (0.05, -0.03)])
def test_against_the_direct_sum_over_elements_and_frequencies(tilt: tuple[float, float]) -> None:
    """The formula as written, with every element and no shortcut in time."""
    bubble = np.array([1e-3, -0.5e-3, 9e-3])
    probe = replace(PROBE, tilts_rad=np.array([tilt]), fractional_bandwidth=0.6)
    psf = kernel(probe, tuple(bubble))
    middle = np.array([n // 2 for n in psf.envelope.shape])
    offsets = np.array([[0, 0, 0], [3, 0, 0], [-2, 3, 4], [0, -5, -6], [6, 1, 2], [0, 0, 12], [1, 2, -9]])
    direct = _direct_sum(probe, bubble, bubble + offsets * STEP_M, tilt)
    carrier = np.exp(1j * (offsets * STEP_M) @ psf.carrier_rad_m)
    ours = np.array([psf.envelope[tuple(middle + o)] for o in offsets]) * carrier
    np.testing.assert_allclose(ours, direct / direct[0], atol=0.03)


def _direct_sum(probe: Probe, bubble: np.ndarray, points: np.ndarray, tilt: tuple[float, float]) -> np.ndarray:
    c, f_all = probe.sound_speed_m_s, np.linspace(0.1, 2.2, 400) * probe.centre_frequency_hz
    line = (np.arange(32) - 15.5) * probe.pitch_m
    elements = np.array([[x, y, 0.0] for x in line for y in line])
    direction = np.array([np.sin(tilt[0]), np.sin(tilt[1]), np.sqrt(1 - np.sin(tilt[0]) ** 2 - np.sin(tilt[1]) ** 2)])
    way = bubble - elements
    distance = np.linalg.norm(way, axis=1)
    receives = (np.abs(way[:, :2]) <= bubble[2] / 2 / probe.f_number).all(axis=1)
    total = np.zeros(len(points), dtype=complex)
    spectrum = np.exp(-4 * np.log(2) * ((f_all / probe.centre_frequency_hz - 1) / probe.fractional_bandwidth) ** 2)
    for f, s in zip(f_all, spectrum, strict=True):
        width = (probe.pitch_m - probe.kerf_m) * f / c
        gain = np.sinc(width * way[:, 0] / distance) * np.sinc(width * way[:, 1] / distance) * way[:, 2] / distance**2
        gain = gain * 10 ** (-probe.attenuation_db_m_hz * f * distance / 20)
        fired = 1j * f * (gain * np.exp(-2j * np.pi * f / c * (distance + elements @ direction))).sum()
        delays = np.linalg.norm(points[:, None] - elements[None, receives], axis=2) - distance[receives]
        heard = (gain[receives] * np.exp(2j * np.pi * f / c * delays)).sum(axis=1)
        total += s * fired * np.exp(2j * np.pi * f / c * (points @ direction)) * heard
    return total


def test_edge_waves_grow_with_their_gain_and_arrive_late() -> None:
    """What they add is in proportion to the gain, and lies below the bubble, as they travel further."""
    bubble = (1.5e-3, 0.0, 6e-3)
    none, half, full = (
        kernel(replace(PROBE, edge_wave_gain=gain, fractional_bandwidth=0.6), bubble) for gain in (0.0, 0.5, 1.0)
    )
    added = np.abs(full.envelope) - np.abs(none.envelope)
    middle = full.envelope.shape[2] // 2
    deeper, shallower = np.abs(added[..., middle + 8 :]).sum(), np.abs(added[..., : middle - 7]).sum()
    assert deeper > 2 * shallower
    added_half = np.abs(np.abs(half.envelope) - np.abs(none.envelope)).sum()
    assert added_half / np.abs(added).sum() == pytest.approx(0.5, abs=0.15)


def test_burst_narrows_the_spectrum_and_widens_the_pulse() -> None:
    frequency, spectrum = pulse_spectrum(replace(PROBE, pulse_cycles=1.0, fractional_bandwidth=10.0))
    half = np.interp(0.5, spectrum[frequency <= 8e6], frequency[frequency <= 8e6])
    assert (8e6 - half) / 8e6 == pytest.approx(0.6034, abs=0.02)
    assert kernel(replace(PROBE, pulse_cycles=2.0)).fwhm_m[2] > 1.15 * kernel().fwhm_m[2]


def test_larger_f_number_widens_laterally_only(on_axis: TabulatedPsf) -> None:
    wide = kernel(replace(PROBE, f_number=1.5))
    np.testing.assert_allclose(wide.fwhm_m[:2] / on_axis.fwhm_m[:2], 1.4, atol=0.15)
    assert wide.fwhm_m[2] == pytest.approx(on_axis.fwhm_m[2], rel=0.1)


def test_aberration_raises_side_lobes(on_axis: TabulatedPsf) -> None:
    bent = kernel(replace(PROBE, aberration_rad=np.array([0.8, -0.5, 0.6, 0.0, 0.4, 0.0])))
    beyond = np.abs(np.arange(-15, 16)) * 48e-6 > 0.4e-3
    middle = on_axis.envelope.shape[2] // 2
    assert _energy(bent, beyond, middle) > 1.2 * _energy(on_axis, beyond, middle)


def _energy(psf: TabulatedPsf, beyond: np.ndarray, middle: int) -> float:
    plane = np.abs(psf.envelope[: len(beyond), : len(beyond), middle]) ** 2
    return float(plane[beyond].sum() / plane.sum())
