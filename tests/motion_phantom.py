"""The phantom of benchmarks/physics on one small grid, and how far an estimate of its motion is from the truth."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sparse_ulm.acquisition import Acquisition, Geometry

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from physics import moving_tissue
from physics.moving_tissue import Field, Imaging

SHAPE, FRAME_RATE_HZ = (18, 16, 22), 500.0
WAVELENGTH_M = 1540.0 / 10.0e6
STEP_M = np.array([0.5, 0.55, 0.4]) * WAVELENGTH_M
FWHM_M = np.array([2.0, 2.0, 1.1]) * WAVELENGTH_M
BUBBLE = np.complex64(0.3)
"""Against tissue of rms 1."""


def geometry(affine: np.ndarray | None = None) -> Geometry:
    if affine is None:
        affine = np.diag([*STEP_M, 1.0])
        affine[:3, 3] = (-1.0e-3, 0.5e-3, 7.0e-3)
    return Geometry(tuple(map(tuple, affine.tolist())), FRAME_RATE_HZ, 10.0e6, 1540.0)


class Phantom(moving_tissue.Phantom):
    """With bubbles that are all alike."""

    def __init__(self, field: Field, *, shape: tuple[int, int, int] = SHAPE, seed: int = 3) -> None:
        super().__init__(field, Imaging(shape, STEP_M, FWHM_M, WAVELENGTH_M), seed=seed)

    def frames(self, n_frames: int, bubbles: Callable[[int], np.ndarray] | None = None, noise: float = 0.02):
        def echoes(frame: int):
            places = bubbles(frame)
            return places, np.full(len(places), BUBBLE)

        return super().frames(n_frames, None if bubbles is None else echoes, noise=noise)


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
