"""Electronic noise as beamforming leaves it: coloured by the point-spread function, with a white share."""

import numpy as np
from jaxtyping import Complex64, Float
from numpy.typing import NDArray
from scipy import fft

from sparse_ulm.acquisition import Geometry
from sparse_ulm.conventions import Frames
from sparse_ulm.simulation.imaging import Psf, carrier_phasor, render
from sparse_ulm.simulation.tracks import Tracks


def baseband_response(psf: Psf, shape: tuple[int, int, int], geometry: Geometry) -> NDArray[np.float32]:
    """Give (x, y, z) magnitudes of the PSF's spectrum on the grid without its carrier, of unit mean square.

    The carrier is left out as it is often beyond the grid's Nyquist frequency: shifts by phase ramps need baseband.
    """
    middle = ((np.asarray(shape) - 1) // 2).astype(np.float64)
    centre_m = geometry.to_scanner_m(middle[None])
    one = Tracks(np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64), centre_m, np.ones(1), np.zeros(1))
    image = render(one, psf, shape, 1, geometry)[..., 0]
    image = image * carrier_phasor(psf.carrier_rad_m, shape, geometry.voxel_size_m).conj()
    magnitude = np.abs(fft.fftn(image))
    return (magnitude / np.sqrt((magnitude**2).mean())).astype(np.float32)


def complex_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Complex64[np.ndarray, "..."]:
    """Draw complex normal numbers of unit mean square."""
    parts = rng.standard_normal(size=(*shape, 2), dtype=np.float32)
    return (parts * np.float32(np.sqrt(0.5))).view(np.complex64)[..., 0]


def make_noise(
    rng: np.random.Generator,
    response: Float[np.ndarray, "x y z"],
    carrier: Complex64[np.ndarray, "x y z"],
    n_frames: int,
    *,
    rms: float,
    white_share: float,
) -> Frames:
    """Make noise, independent from frame to frame.

    Args:
        rng: Source of all randomness.
        response: From `baseband_response`.
        carrier: The PSF's carrier on the grid, from `carrier_phasor`.
        n_frames: Frames to make.
        rms: Root of the mean squared magnitude, in the recording's units.
        white_share: Share of the power that is white over voxels, 0 to 1.

    Returns:
        complex64 (x, y, z, t).
    """
    noise = np.empty((*response.shape, n_frames), dtype=np.complex64)
    colour = np.float32(rms * np.sqrt(1.0 - white_share)) * response
    white = np.float32(rms * np.sqrt(white_share))
    for frame in range(n_frames):
        # The transform of white noise is white noise: drawing in k-space saves one transform.
        coloured = fft.ifftn(complex_normal(rng, response.shape) * colour, norm="ortho") * carrier
        noise[..., frame] = coloured + white * complex_normal(rng, response.shape)
    return noise
