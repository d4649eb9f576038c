"""Tissue: speckle far brighter than bubbles, that moves by less than a voxel and changes slowly."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Complex64, Float
from numpy.typing import NDArray
from scipy import fft

from sparse_ulm.acquisition import Geometry
from sparse_ulm.conventions import Frames
from sparse_ulm.simulation.noise import complex_normal


@dataclass(frozen=True)
class TissueMotion:
    """How tissue moves.

    Attributes:
        amplitude_m: (3,) amplitude of the motion along x, y and z, in metres.
        frequency_hz: Its frequency.
        phase_rad: Its phase in frame 0.
        decorrelation_time_s: Time after which the speckle is entirely another.
    """

    amplitude_m: Float[np.ndarray, " 3"]
    frequency_hz: float
    phase_rad: float
    decorrelation_time_s: float

    def displacement_m(self, time_s: float) -> NDArray[np.float64]:
        """(3,) displacement at a time, in metres."""
        return self.amplitude_m * np.sin(2.0 * np.pi * self.frequency_hz * time_s + self.phase_rad)


def make_tissue(
    rng: np.random.Generator,
    response: Float[np.ndarray, "x y z"],
    carrier_rad_m: Float[np.ndarray, " 3"],
    n_frames: int,
    geometry: Geometry,
    motion: TissueMotion,
    *,
    rms: float,
) -> Frames:
    """Make the echo of moving tissue: two speckle patterns that turn into each other, shifted by phase ramps.

    Args:
        rng: Source of all randomness.
        response: From `noise.baseband_response`.
        carrier_rad_m: (3,) carrier of the PSF, which turns with the motion as for a bubble.
        n_frames: Frames to make.
        geometry: Grid and frame rate.
        motion: How it moves.
        rms: Root of the mean squared magnitude, in the recording's units.

    Returns:
        complex64 (x, y, z, t).
    """
    shape = response.shape
    speckle = [complex_normal(rng, shape) * (np.float32(rms) * response) for _ in range(2)]
    voxel = geometry.voxel_size_m
    wavenumbers = [2.0 * np.pi * fft.fftfreq(n, d) for n, d in zip(shape, voxel, strict=True)]
    carrier_axes = [np.exp(1j * q * d * np.arange(n)) for q, d, n in zip(carrier_rad_m, voxel, shape, strict=True)]
    frames = np.empty((*shape, n_frames), dtype=np.complex64)
    for frame in range(n_frames):
        time_s = frame / geometry.frame_rate_hz
        shift = motion.displacement_m(time_s)
        age = 0.5 * np.pi * time_s / motion.decorrelation_time_s
        pattern = np.cos(age) * speckle[0] + np.sin(age) * speckle[1]
        moved = fft.ifftn(
            pattern * _outer([np.exp(-1j * k * s) for k, s in zip(wavenumbers, shift, strict=True)]), norm="ortho"
        )
        turn = np.exp(-1j * float(carrier_rad_m @ shift))
        frames[..., frame] = moved * _outer(carrier_axes) * turn
    return frames


def _outer(axes: list[NDArray[np.complex128]]) -> Complex64[np.ndarray, "x y z"]:
    """Product of one factor per axis."""
    return np.einsum("x,y,z->xyz", *axes).astype(np.complex64)
