"""The PSF, its carrier, and the normalised correlation."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from sparse_ulm.acquisition import Geometry
from sparse_ulm.errors import UserError
from sparse_ulm.psf import FWHM_PER_SIGMA, correlate, demodulate, estimate_psf, gaussian_psf, load_psf, measure_carrier
from sparse_ulm.site_correlation import correlate_at

GEOMETRY = Geometry.from_voxel_size(
    (5.0e-5, 6.0e-5, 4.0e-5), (0.0, 0.0, 0.0), frame_rate_hz=500.0, transmit_frequency_hz=15e6, sound_speed_m_s=1540.0
)
FWHM = (2.0, 2.2, 1.1)


def bubbles(shape: tuple[int, int, int, int], centres: list[tuple[float, float, float]]) -> torch.Tensor:
    """One bubble a frame, Gaussian with the widths of FWHM, random phases."""
    generator = np.random.default_rng(5)
    sigma = [f * GEOMETRY.wavelength_m / FWHM_PER_SIGMA / v for f, v in zip(FWHM, GEOMETRY.voxel_size_m, strict=True)]
    grid = np.meshgrid(*(np.arange(n) for n in shape[:3]), indexing="ij")
    iq = np.zeros(shape, np.complex64)
    for t in range(shape[3]):
        centre = centres[t % len(centres)]
        exponent = sum(((g - c) / s) ** 2 for g, c, s in zip(grid, centre, sigma, strict=True))
        iq[..., t] = np.exp(-0.5 * exponent) * np.exp(1j * generator.uniform(0, 2 * np.pi))
    return torch.from_numpy(iq)


def test_gaussian_has_the_asked_widths() -> None:
    kernel = gaussian_psf(GEOMETRY, fwhm_wavelengths=FWHM).real
    centre = tuple(size // 2 for size in kernel.shape)
    for axis, (fwhm, voxel) in enumerate(zip(FWHM, GEOMETRY.voxel_size_m, strict=True)):
        one_off = list(centre)
        one_off[axis] += 1
        expected = math.exp(-4 * math.log(2) * (voxel / (fwhm * GEOMETRY.wavelength_m)) ** 2)
        assert float(kernel[tuple(one_off)]) == pytest.approx(expected, rel=1e-5)
    assert all(size % 2 == 1 for size in kernel.shape)


def test_correlation_by_hand_and_by_loops() -> None:
    generator = torch.Generator().manual_seed(1)
    iq = torch.randn(7, 6, 8, 3, generator=generator, dtype=torch.complex64)
    psf = torch.randn(3, 5, 3, generator=generator, dtype=torch.complex64)
    found = correlate(iq, psf, frames_at_once=2)
    padded = torch.nn.functional.pad(torch.view_as_real(iq), (0, 0, 0, 0, 1, 1, 2, 2, 1, 1))
    padded = torch.view_as_complex(padded.contiguous())
    for x, y, z, t in [(0, 0, 0, 0), (3, 2, 4, 1), (6, 5, 7, 2), (2, 5, 0, 2)]:
        window = padded[x : x + 3, y : y + 5, z : z + 3, t]
        expected = (psf.conj() * window).sum() / (torch.linalg.vector_norm(psf) * torch.linalg.vector_norm(window))
        assert abs(complex(found[x, y, z, t]) - complex(expected)) < 1e-5


def test_correlation_is_one_on_the_psf_itself_whatever_gain_and_phase() -> None:
    psf = gaussian_psf(GEOMETRY, fwhm_wavelengths=FWHM)
    size = [n + 6 for n in psf.shape]
    iq = torch.zeros(*size, 1, dtype=torch.complex64)
    iq[3:-3, 3:-3, 3:-3, 0] = psf * (300.0 * complex(math.cos(1.0), math.sin(1.0)))
    c = correlate(iq, psf)[..., 0]
    centre = tuple(n // 2 for n in size)
    assert abs(complex(c[centre])) == pytest.approx(1.0, abs=1e-4)
    assert math.atan2(c[centre].imag, c[centre].real) == pytest.approx(1.0, abs=1e-3)
    assert float(c.abs().max()) <= 1.0 + 1e-4


def test_correlation_at_sites_is_the_dense_one_there() -> None:
    generator = torch.Generator().manual_seed(1)
    iq = torch.randn(7, 6, 8, 3, generator=generator, dtype=torch.complex64)
    iq[:4, :, :, 1] = 0.0
    every = torch.ones(7, 6, 8, 3).nonzero().int()
    for sizes in ((3, 5, 3), (1, 1, 7), (7, 3, 1)):
        psf = torch.randn(*sizes, generator=generator, dtype=torch.complex64)
        found = correlate_at(iq, psf, every)
        torch.testing.assert_close(found, correlate(iq, psf).flatten(), atol=2e-6, rtol=1e-5)
        some = every[::13].contiguous()
        assert torch.equal(correlate_at(iq, psf, some), found[::13])
    assert len(correlate_at(iq, psf, every[:0])) == 0


def test_empty_windows_correlate_to_zero() -> None:
    iq = torch.zeros(6, 7, 8, 2, dtype=torch.complex64)
    iq[0, 0, 0, 0] = 1.0
    c = correlate(iq, torch.ones(3, 3, 3, dtype=torch.complex64))
    assert torch.isfinite(c.abs()).all()
    assert not c[..., 1].any()
    assert not c[3:, 3:, 3:, 0].any()


def test_carrier_is_measured_and_taken_out() -> None:
    iq = bubbles((16, 15, 17, 6), [(7.3, 6.8, 8.1), (5.0, 8.2, 9.4)])
    carrier = torch.tensor([0.2, -0.3, 2.5])
    index = [torch.arange(n, dtype=torch.float32) for n in iq.shape[:3]]
    phase = carrier[0] * index[0][:, None, None] + carrier[1] * index[1][None, :, None] + carrier[2] * index[2]
    modulated = iq * torch.polar(torch.ones_like(phase), phase)[..., None]
    torch.testing.assert_close(measure_carrier(modulated), carrier, atol=0.01, rtol=0)
    torch.testing.assert_close(demodulate(modulated, carrier), iq, atol=1e-5, rtol=0)


def test_a_2d_recording_has_no_carrier_along_y() -> None:
    iq = torch.ones(5, 1, 6, 2, dtype=torch.complex64)
    assert measure_carrier(iq)[1] == 0


def test_psf_is_estimated_from_isolated_bubbles() -> None:
    iq = bubbles((19, 18, 20, 12), [(8.0, 9.0, 10.0), (9.0, 8.0, 9.0)])
    kernel = estimate_psf(iq, half_size=(4, 3, 3), noise_rms=0.01)
    truth = gaussian_psf(GEOMETRY, fwhm_wavelengths=FWHM)
    centre = [n // 2 for n in truth.shape]
    truth = truth[centre[0] - 4 : centre[0] + 5, centre[1] - 3 : centre[1] + 4, centre[2] - 3 : centre[2] + 4]
    likeness = (kernel.conj() * truth).sum().abs() / (kernel.norm() * truth.norm())
    assert float(likeness) > 0.999


def test_too_few_isolated_bubbles_is_an_error() -> None:
    with pytest.raises(UserError, match="isolated bubbles"):
        estimate_psf(torch.zeros(9, 8, 7, 3, dtype=torch.complex64), half_size=(1, 1, 1), noise_rms=1.0)


def test_psf_file_round_trip_and_errors(tmp_path: Path) -> None:
    kernel = np.random.default_rng(0).normal(size=(3, 5, 7)) + 1j
    np.save(tmp_path / "psf.npy", kernel)
    np.testing.assert_allclose(load_psf(tmp_path / "psf.npy").numpy(), kernel, rtol=1e-6)
    np.save(tmp_path / "even.npy", kernel[:2])
    np.save(tmp_path / "zero.npy", np.zeros((3, 3, 3)))
    np.save(tmp_path / "pickle.npy", np.array([{}], dtype=object))
    for name in ("even.npy", "zero.npy", "pickle.npy", "missing.npy"):
        with pytest.raises(UserError, match="wanted"):
            load_psf(tmp_path / name)
