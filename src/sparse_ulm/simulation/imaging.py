"""From tracks to beamformed IQ: every bubble becomes a point-spread function with its carrier.

A bubble at r_m of amplitude A and phase phi adds A exp(j phi) g(r - r_m) exp(j q.(r - r_m)) to the voxel at r.
q is the carrier that beamforming leaves in the image: q_z is 0.65 to 1.0 of 2 k0, as oblique receive paths and the
pulse's spectrum make it (measured against two physics simulators), and not 2 k0. Recordings keep it, as laboratories
deliver them; `remove_carrier` takes the nominal one out.
"""

from dataclasses import dataclass
from typing import no_type_check

import numpy as np
from jaxtyping import Complex64, Float
from numba import njit
from numpy.typing import NDArray

from sparse_ulm.acquisition import Geometry
from sparse_ulm.conventions import Frames
from sparse_ulm.simulation.tracks import Tracks

FWHM_PER_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))
GAUSSIAN_REACH_SIGMAS = 3.3
"""Where a Gaussian is cut: exp(-3.3^2 / 2) is -47 dB, below the noise of every draw."""

NOMINAL_CARRIER = 0.8
"""Nominal axial carrier as a share of 2 k0: the middle of the 0.68 to 0.85 measured with physics simulators."""


@dataclass(frozen=True)
class GaussianPsf:
    """A Gaussian with a carrier.

    Attributes:
        fwhm_m: Full width at half maximum (-6 dB) along x, y and z, in metres.
        tilt: (2,) slope of the axial ridge along x and y: the centre moves axially by tilt times the lateral distance.
        carrier_rad_m: (3,) q in radians per metre.
    """

    fwhm_m: Float[np.ndarray, " 3"]
    tilt: Float[np.ndarray, " 2"]
    carrier_rad_m: Float[np.ndarray, " 3"]


@dataclass(frozen=True)
class TabulatedPsf:
    """A point-spread function on a fine grid, its carrier taken out so that it can be interpolated.

    Attributes:
        fwhm_m: Measured full width at half maximum along x, y and z.
        carrier_rad_m: (3,) q in radians per metre.
        envelope: Complex envelope, odd sizes, the bubble at the middle sample, where it is about 1.
        step_m: (3,) grid step.
    """

    fwhm_m: Float[np.ndarray, " 3"]
    carrier_rad_m: Float[np.ndarray, " 3"]
    envelope: Complex64[np.ndarray, "px py pz"]
    step_m: Float[np.ndarray, " 3"]


Psf = GaussianPsf | TabulatedPsf


def psf_volume_m3(psf: Psf, spatial_dims: int) -> float:
    """Volume of the -6 dB ellipsoid, pi/6 times the three widths; in 2D its area in the plane, pi/4 times two (m^2)."""
    x, y, z = psf.fwhm_m
    return float(np.pi / 6.0 * x * y * z) if spatial_dims == 3 else float(np.pi / 4.0 * x * z)


def render(tracks: Tracks, psf: Psf, shape: tuple[int, int, int], n_frames: int, geometry: Geometry) -> Frames:
    """Image every bubble of every frame; echoes add.

    Args:
        tracks: Bubbles; those outside of the grid add what of their image reaches into it.
        psf: How one bubble looks.
        shape: Voxels along x, y and z; one along y for a 2D recording.
        n_frames: Frames to make; rows of later frames are refused by the array's bounds.
        geometry: Where voxels lie; axes along the scanner's.

    Returns:
        complex64 (x, y, z, t).
    """
    frames = np.zeros((n_frames, *shape), dtype=np.complex64)
    voxel = np.asarray(geometry.voxel_size_m)
    offset_m = geometry.to_voxel(tracks.position_m) * voxel
    echo = tracks.amplitude * np.exp(1j * tracks.phase_rad)
    keep = (tracks.frame >= 0) & (tracks.frame < n_frames)
    rows = (tracks.frame[keep], offset_m[keep], echo[keep])
    if isinstance(psf, GaussianPsf):
        sigma = psf.fwhm_m / FWHM_PER_SIGMA
        _add_gaussians(frames, *rows, voxel, sigma, psf.tilt, psf.carrier_rad_m, GAUSSIAN_REACH_SIGMAS)
    else:
        _add_tables(frames, *rows, voxel, psf.envelope, psf.step_m, psf.carrier_rad_m)
    return np.ascontiguousarray(np.moveaxis(frames, 0, -1))


def carrier_phasor(
    carrier_rad_m: Float[np.ndarray, " 3"], shape: tuple[int, int, int], voxel_size_m: tuple[float, float, float]
) -> Complex64[np.ndarray, "x y z"]:
    """Give exp(j q.r) on the grid, with phase 0 at the first voxel."""
    axes = [np.exp(1j * q * d * np.arange(n)) for q, d, n in zip(carrier_rad_m, voxel_size_m, shape, strict=True)]
    return np.einsum("x,y,z->xyz", *axes).astype(np.complex64)


def nominal_carrier_rad_m(geometry: Geometry) -> NDArray[np.float64]:
    """Give the nominal carrier, 0.8 times 2 k0 along z."""
    return np.array([0.0, 0.0, NOMINAL_CARRIER * 4.0 * np.pi / geometry.wavelength_m])


def remove_carrier(frames: Frames, geometry: Geometry) -> Frames:
    """Demodulate frames by the nominal carrier, counted from the first voxel."""
    x, y, z, _ = frames.shape
    phasor = carrier_phasor(nominal_carrier_rad_m(geometry), (x, y, z), geometry.voxel_size_m)
    return frames * phasor.conj()[..., None]


@njit(cache=True)
@no_type_check
def _phasors(carrier, voxel, first, last, centre):
    """exp(j q (r - r_m)) along one axis, for voxels first ... last - 1."""
    out = np.empty(max(last - first, 0), dtype=np.complex128)
    for i in range(first, last):
        out[i - first] = np.exp(1j * carrier * (i * voxel - centre))
    return out


@njit(cache=True)
@no_type_check
def _window(centre, reach, voxel, n):
    """Voxels within reach of a centre, cut to the grid."""
    return max(0, int(np.ceil((centre - reach) / voxel))), min(n, int(np.floor((centre + reach) / voxel)) + 1)


@njit(cache=True)
@no_type_check
def _add_gaussians(frames, frame, centre, echo, voxel, sigma, tilt, carrier, reach_sigmas):
    _, n_x, n_y, n_z = frames.shape
    # A tilted ridge reaches further along z than its own width.
    reach_z = reach_sigmas * (sigma[2] + abs(tilt[0]) * sigma[0] + abs(tilt[1]) * sigma[1])
    step_z = voxel[2] / sigma[2]
    ratio_step = np.exp(-step_z * step_z)
    for row in range(len(frame)):
        x0, x1 = _window(centre[row, 0], reach_sigmas * sigma[0], voxel[0], n_x)
        y0, y1 = _window(centre[row, 1], reach_sigmas * sigma[1], voxel[1], n_y)
        z0, z1 = _window(centre[row, 2], reach_z, voxel[2], n_z)
        if x1 <= x0 or y1 <= y0 or z1 <= z0:
            continue
        phasor_x = _phasors(carrier[0], voxel[0], x0, x1, centre[row, 0])
        phasor_y = _phasors(carrier[1], voxel[1], y0, y1, centre[row, 1])
        phasor_z = _phasors(carrier[2], voxel[2], z0, z1, centre[row, 2])
        volume = frames[frame[row]]
        for x in range(x0, x1):
            dx = x * voxel[0] - centre[row, 0]
            for y in range(y0, y1):
                dy = y * voxel[1] - centre[row, 1]
                lateral = (dx / sigma[0]) ** 2 + (dy / sigma[1]) ** 2
                phasor_xy = echo[row] * phasor_x[x - x0] * phasor_y[y - y0]
                ridge = tilt[0] * dx + tilt[1] * dy
                dz = (z0 * voxel[2] - centre[row, 2] - ridge) / sigma[2]
                # From sample to sample a Gaussian changes by a factor that itself changes by a constant factor.
                value = np.exp(-0.5 * (lateral + dz * dz))
                ratio = np.exp(-step_z * (dz + 0.5 * step_z))
                for z in range(z0, z1):
                    volume[x, y, z] += value * phasor_xy * phasor_z[z - z0]
                    value *= ratio
                    ratio *= ratio_step


@njit(cache=True)
@no_type_check
def _add_tables(frames, frame, centre, echo, voxel, envelope, step, carrier):
    _, n_x, n_y, n_z = frames.shape
    p_x, p_y, p_z = envelope.shape
    m_x, m_y, m_z = p_x // 2, p_y // 2, p_z // 2
    for row in range(len(frame)):
        x0, x1 = _window(centre[row, 0], (m_x - 1e-9) * step[0], voxel[0], n_x)
        y0, y1 = _window(centre[row, 1], (m_y - 1e-9) * step[1], voxel[1], n_y)
        z0, z1 = _window(centre[row, 2], (m_z - 1e-9) * step[2], voxel[2], n_z)
        if x1 <= x0 or y1 <= y0 or z1 <= z0:
            continue
        phasor_x = _phasors(carrier[0], voxel[0], x0, x1, centre[row, 0])
        phasor_y = _phasors(carrier[1], voxel[1], y0, y1, centre[row, 1])
        phasor_z = _phasors(carrier[2], voxel[2], z0, z1, centre[row, 2])
        volume = frames[frame[row]]
        for x in range(x0, x1):
            fx = (x * voxel[0] - centre[row, 0]) / step[0] + m_x
            i = min(int(fx), p_x - 2)
            wx = fx - i
            for y in range(y0, y1):
                fy = (y * voxel[1] - centre[row, 1]) / step[1] + m_y
                j = min(int(fy), p_y - 2)
                wy = fy - j
                phasor_xy = echo[row] * phasor_x[x - x0] * phasor_y[y - y0]
                for z in range(z0, z1):
                    fz = (z * voxel[2] - centre[row, 2]) / step[2] + m_z
                    k = min(int(fz), p_z - 2)
                    wz = fz - k
                    near = (1 - wx) * (1 - wy) * envelope[i, j, k] + wx * (1 - wy) * envelope[i + 1, j, k]
                    near += (1 - wx) * wy * envelope[i, j + 1, k] + wx * wy * envelope[i + 1, j + 1, k]
                    far = (1 - wx) * (1 - wy) * envelope[i, j, k + 1] + wx * (1 - wy) * envelope[i + 1, j, k + 1]
                    far += (1 - wx) * wy * envelope[i, j + 1, k + 1] + wx * wy * envelope[i + 1, j + 1, k + 1]
                    volume[x, y, z] += ((1 - wz) * near + wz * far) * phasor_xy * phasor_z[z - z0]
