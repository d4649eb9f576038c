"""The point-spread function: nominal, from a file, or measured; and the complex correlation of a block with it.

Recordings as beamformers deliver them carry a fast axial phase, exp(j q z) with q near 0.65 to 1.0 times twice the
wave number (aperture and attenuation lower it). It is the same for every bubble, so it is measured from the recording
itself and taken out first: what remains is smooth, and a nominal PSF is then a real Gaussian.
"""

import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Complex64, Float
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from sparse_ulm.acquisition import Geometry
from sparse_ulm.conventions import IqBlock
from sparse_ulm.errors import UserError
from sparse_ulm.sparse.loops import compiled

PsfKernel = Complex64[Tensor, "kx ky kz"]
"""A PSF sampled on the recording's grid, centred, odd sizes, its phase carrier taken out."""

MAX_PATCHES = 200
"""Isolated bubbles that an estimated PSF is averaged from, at most."""

FWHM_PER_SIGMA = 2.0 * math.sqrt(2.0 * math.log(2.0))


def gaussian_psf(geometry: Geometry, *, fwhm_wavelengths: tuple[float, float, float]) -> PsfKernel:
    """Sample a separable Gaussian PSF on the recording's grid.

    Args:
        geometry: Gives wavelength and voxel size.
        fwhm_wavelengths: Full widths at half maximum of the envelope along x, y and z, in wavelengths; a matrix probe
            at an f-number near 1 has about (2, 2, 1.1).

    Returns:
        Real-valued kernel stored as complex64, cut where the envelope falls below 10 %.
    """
    profiles = []
    for fwhm, voxel_size_m in zip(fwhm_wavelengths, geometry.voxel_size_m, strict=True):
        if not fwhm > 0:
            raise UserError(f"fwhm_wavelengths holds {fwhm}; wanted positive widths in wavelengths.")
        sigma_voxel = fwhm * geometry.wavelength_m / FWHM_PER_SIGMA / voxel_size_m
        # exp(-u^2/2) = 0.1 at u = 2.15; at least one neighbour, at most eight, keeps the window a window.
        half = min(max(1, round(2.15 * sigma_voxel)), 8)
        offset = torch.arange(-half, half + 1, dtype=torch.float32)
        profiles.append(torch.exp(-0.5 * (offset / sigma_voxel) ** 2))
    x, y, z = profiles
    return (x[:, None, None] * y[None, :, None] * z[None, None, :]).to(torch.complex64)


def load_psf(path: str | Path) -> PsfKernel:
    """Read a PSF that was measured or simulated on the recording's grid, carrier taken out.

    Args:
        path: `.npy` with a complex or real (kx, ky, kz) array of odd sizes, centred.

    Raises:
        UserError: If the file is missing, pickled, not 3D, of even size, not finite or all zero.
    """
    try:
        kernel = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"PSF file {path} cannot be read ({error}); wanted a .npy array (kx, ky, kz).") from None
    if kernel.ndim != 3 or any(size % 2 == 0 for size in kernel.shape):
        raise UserError(f"PSF in {path} has shape {kernel.shape}; wanted three odd sizes, the peak in the middle.")
    if not np.isfinite(kernel).all() or not np.abs(kernel).any():
        raise UserError(f"PSF in {path} holds NaN, infinite or only zero samples; wanted a finite kernel.")
    return torch.from_numpy(kernel.astype(np.complex64))


def measure_carrier(iq: IqBlock) -> Float[Tensor, "xyz=3"]:
    """Measure the mean phase step between neighbouring voxels along x, y and z.

    Every bubble has a phase of its own but the same phase *step*, so the lag-one spatial autocorrelation keeps the
    step and averages the rest out, also where bubbles overlap. Amplitudes weigh it towards the bubbles.

    Returns:
        Radians per voxel in (-pi, pi]; 0 along an axis of one voxel.

    Source: our choice (the spatial form of the lag-one autocorrelation estimator), because the carrier depends on
    aperture and attenuation, which recordings do not state.
    """
    lag_one = np.zeros(3, np.complex128)
    _sum_lag_one(iq.numpy(), lag_one)
    return torch.from_numpy(np.angle(lag_one).astype(np.float32))


@compiled
def _sum_lag_one(iq, lag_one):
    """Add up the products of neighbours along x, y and z, in one pass over memory."""
    n_x, n_y, n_z, n_t = iq.shape
    for x in range(n_x):
        for y in range(n_y):
            for z in range(n_z):
                along_x, along_y, along_z = 0.0j, 0.0j, 0.0j
                for t in range(n_t):
                    sample = np.conj(np.complex128(iq[x, y, z, t]))
                    if x + 1 < n_x:
                        along_x += iq[x + 1, y, z, t] * sample
                    if y + 1 < n_y:
                        along_y += iq[x, y + 1, z, t] * sample
                    if z + 1 < n_z:
                        along_z += iq[x, y, z + 1, t] * sample
                lag_one[0] += along_x
                lag_one[1] += along_y
                lag_one[2] += along_z


def demodulate(iq: IqBlock, carrier_rad: Float[Tensor, "xyz=3"]) -> IqBlock:
    """Take the phase carrier exp(j carrier . index) out of a block; magnitudes do not change."""
    x, y, z = (
        step * torch.arange(size, dtype=torch.float64)
        for step, size in zip(carrier_rad.tolist(), iq.shape[:3], strict=True)
    )
    phase = x[:, None, None] + y[:, None] + z
    return iq * torch.polar(torch.ones_like(phase), -phase).to(torch.complex64)[..., None]


def correlate(iq: IqBlock, psf: PsfKernel, *, frames_at_once: int = 16) -> IqBlock:
    """Correlate every frame with the PSF, normalised so that |c| <= 1.

    c(r) = sum_u conj(h(u)) s(r + u) / (|h| sqrt(sum_{u in window} |s(r + u)|^2)), the window being the PSF's support:
    by the Cauchy-Schwarz inequality |c| = 1 exactly where the block looks like the PSF times any complex number.

    Args:
        iq: complex64 (x, y, z, t), carrier taken out.
        psf: Kernel on the same grid.
        frames_at_once: Frames per FFT, which bounds memory.

    Returns:
        complex64 (x, y, z, t); 0 where the window is empty.

    Source: the method takes a complex correlation map as input without publishing how it is computed (Rauby et al.,
    released code); the normalisation is our choice, because thresholds on |c|^2 from 0.01 to 0.5 need |c| <= 1.
    """
    shape = iq.shape[:3]
    padded = [size + kernel - 1 for size, kernel in zip(shape, psf.shape, strict=True)]
    # Correlation = convolution with the conjugate mirrored kernel.
    matched = torch.fft.fftn(psf.conj().flip((0, 1, 2)), s=padded)
    window = torch.fft.rfftn(torch.ones(psf.shape), s=padded)
    crop = tuple(slice(k // 2, k // 2 + size) for k, size in zip(psf.shape, shape, strict=True))
    norm = torch.linalg.vector_norm(psf)
    out = torch.empty_like(iq)
    for start in range(0, iq.shape[3], frames_at_once):
        frames = iq[..., start : start + frames_at_once].permute(3, 0, 1, 2)
        axes = (1, 2, 3)
        signal = torch.fft.ifftn(torch.fft.fftn(frames, s=padded, dim=axes) * matched, dim=axes)[:, *crop]
        power = frames.real**2 + frames.imag**2
        energy = torch.fft.irfftn(torch.fft.rfftn(power, s=padded, dim=axes) * window, s=padded, dim=axes)[:, *crop]
        # FFT rounding leaves about 1e-7 of the block's peak energy where the window is truly empty.
        floor = 1.0e-6 * power.amax()
        scale = torch.where(energy > floor, norm * energy.clamp_min(floor).sqrt(), torch.inf)
        out[..., start : start + frames_at_once] = (signal / scale).permute(1, 2, 3, 0)
    return out


def estimate_psf(
    iq: IqBlock, *, half_size: tuple[int, int, int], noise_rms: float, peak_over_noise: float = 6.0
) -> PsfKernel:
    """Average the recording's own isolated bubbles, each turned to phase zero at its peak.

    A bubble is isolated when its frame holds no other maximum above half of its own within twice the window.

    Args:
        iq: complex64 (x, y, z, t), carrier taken out (`demodulate`).
        half_size: Half widths of the kernel in voxels; 0 along an axis of one voxel.
        noise_rms: RMS of the complex noise (`sparsify.measure_noise_rms`).
        peak_over_noise: Peaks below this many noise rms are not used.

    Returns:
        Kernel of size 2 * half_size + 1 with a peak of 1.

    Raises:
        UserError: If fewer than five isolated bubbles are found.

    Source: our choice; the released code of the method starts from precomputed correlation maps.
    """
    magnitude = iq.abs().numpy()
    half = np.asarray(half_size)
    near = ndimage.maximum_filter(magnitude, size=(*(2 * half + 1), 1))
    peaks = np.argwhere((magnitude == near) & (magnitude > peak_over_noise * noise_rms))
    strongest_first = np.argsort(-magnitude[tuple(peaks.T)], kind="stable")
    h_x, h_y, h_z = half_size
    patches: list[Tensor] = []
    for x, y, z, t in peaks[strongest_first].tolist():
        if len(patches) < MAX_PATCHES and _is_isolated(np.array([x, y, z, t]), peaks, magnitude, half):
            patch = iq[x - h_x : x + h_x + 1, y - h_y : y + h_y + 1, z - h_z : z + h_z + 1, t]
            patches.append(patch / iq[x, y, z, t])
    if len(patches) < 5:
        raise UserError(
            f"found {len(patches)} isolated bubbles; wanted at least 5 to estimate the PSF. "
            "Use psf: geometry, give a PSF file, or estimate on a sparser recording."
        )
    return torch.stack(patches).mean(0).to(torch.complex64)


def _is_isolated(
    peak: NDArray[np.int64], peaks: NDArray[np.int64], magnitude: NDArray[np.float32], half: NDArray[np.int64]
) -> bool:
    """Tell whether the window round a peak lies inside the block and no rival above half its height is near."""
    centre, frame = peak[:3], peak[3]
    if (centre < half).any() or (centre + half >= magnitude.shape[:3]).any():
        return False
    rivals = peaks[(peaks[:, 3] == frame) & (np.abs(peaks[:, :3] - centre) <= 2 * np.maximum(half, 1)).all(axis=1)]
    return int((magnitude[tuple(rivals.T)] > 0.5 * magnitude[tuple(peak)]).sum()) == 1
