"""Speckle and bubbles that move along known ways: scatterers drawn one by one, so that truth needs no interpolation."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from sparse_ulm.acquisition import Acquisition, Geometry

SHAPE, FRAME_RATE_HZ = (18, 16, 22), 500.0
WAVELENGTH_M = 1540.0 / 10.0e6
STEP_M = np.array([0.5, 0.55, 0.4]) * WAVELENGTH_M
FWHM_M = np.array([2.0, 2.0, 1.1]) * WAVELENGTH_M

Field = Callable[[np.ndarray, int], np.ndarray]
"""(n, 3) places in the reference, in metres from the first voxel, and a frame -> their displacements in metres."""


def geometry(affine: np.ndarray | None = None) -> Geometry:
    if affine is None:
        affine = np.diag([*STEP_M, 1.0])
        affine[:3, 3] = (-1.0e-3, 0.5e-3, 7.0e-3)
    return Geometry(tuple(map(tuple, affine.tolist())), FRAME_RATE_HZ, 10.0e6, 1540.0)


def image(place_m: np.ndarray, amplitude: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Sum of Gaussian point-spread functions with a carrier along z; elevation is ignored in 2D."""
    axes = []
    for axis, size in enumerate(shape):
        way = np.arange(size) * STEP_M[axis] - place_m[:, axis, None]
        one = np.exp(-0.5 * (way * 2.3548 / FWHM_M[axis]) ** 2).astype(np.complex64)
        if axis == 1 and size == 1:
            one[:] = 1.0
        if axis == 2:
            one *= np.exp(4j * np.pi / WAVELENGTH_M * way).astype(np.complex64)
        axes.append(one)
    x, y, z = axes
    plane = (x[:, :, None] * y[:, None, :]).reshape(len(place_m), -1) * amplitude[:, None]
    return (plane.T @ z).reshape(shape)


class Phantom:
    """Tissue of scatterers, on the grid and round it, and bubbles; both go where a field takes them."""

    def __init__(self, field: Field, *, shape: tuple[int, int, int] = SHAPE, seed: int = 3) -> None:
        rng = np.random.default_rng(seed)
        self.field, self.shape = field, shape
        margin_m, size_m = 3 * STEP_M, np.array(shape) * STEP_M
        if shape[1] == 1:
            margin_m[1] = 0.0
        # Enough for speckle: some scatterers in every -6 dB volume, or area.
        per_m3 = 2.0 / np.prod(np.minimum(FWHM_M, size_m))
        n = int(per_m3 * np.prod(size_m + 2 * margin_m))
        self.scatterers_m = rng.uniform(-margin_m, size_m + margin_m, (n, 3))
        self.echo = (rng.normal(size=n) + 1j * rng.normal(size=n)).astype(np.complex64)
        self.rng = rng

    def frames(self, n_frames: int, bubbles: Callable[[int], np.ndarray] | None = None, noise: float = 0.02):
        """IQ of tissue of rms 1, bubbles of amplitude 0.3 at places of the reference, and noise."""
        scale = None
        made = np.empty((*self.shape, n_frames), dtype=np.complex64)
        for frame in range(n_frames):
            tissue = image(self.scatterers_m + self.field(self.scatterers_m, frame), self.echo, self.shape)
            scale = scale or 1.0 / np.sqrt((np.abs(tissue) ** 2).mean())
            one = tissue * scale
            if bubbles is not None:
                places = bubbles(frame)
                one = one + 0.3 * image(
                    places + self.field(places, frame), np.ones(len(places), dtype=np.complex64), self.shape
                )
            random = self.rng.normal(size=(2, *self.shape)) * noise * np.sqrt(0.5)
            made[..., frame] = one + random[0] + 1j * random[1]
        return made


def acquisition(frames: np.ndarray, where: Geometry | None = None, content: str = "iq") -> tuple[Acquisition, list]:
    """A recording of these frames, and the list of what is read of it."""
    read: list[tuple[int, int]] = []

    def reader(start: int, stop: int) -> np.ndarray:
        read.append((start, stop))
        return frames[..., start:stop]

    return Acquisition("rec", Path("rec.npz"), frames.shape, where or geometry(), content, reader), read


def places_m(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """(n, 3) places all over the inner part of the grid, in metres from its first voxel."""
    axes = [np.linspace(0.15, 0.85, 4) * (n - 1) if n > 1 else np.zeros(1) for n in shape]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3) * STEP_M


def error_um(motion, field: Field, frame: int, shape: tuple[int, int, int] = SHAPE) -> float:
    """Root mean square distance between places of the reference and where the motion brings their moved places."""
    places = places_m(shape)
    first, last = motion.reference_frames
    # The reference is the average of its window: truth is taken in its middle.
    middle = (first + last - 1) // 2
    shift = motion.geometry.matrix_m[:3, 3]
    here = places + field(places, frame) + shift
    there = places + field(places, middle) + shift
    back = motion.to_reference(here, np.full(len(places), frame))
    return 1e6 * float(np.sqrt(((back - there) ** 2).sum(axis=1).mean()))


def displaced_um(field: Field, frame: int, reference_frame: int, shape: tuple[int, int, int] = SHAPE) -> float:
    """What an estimate of no motion would leave."""
    places = places_m(shape)
    moved = field(places, frame) - field(places, reference_frame)
    return 1e6 * float(np.sqrt((moved**2).sum(axis=1).mean()))
