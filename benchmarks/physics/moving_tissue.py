"""Speckle and bubbles that move along known ways: scatterers drawn one by one, so that truth needs no interpolation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Field = Callable[[NDArray[np.float64], int], NDArray[np.float64]]
"""(n, 3) places in the reference, in metres from the first voxel, and a frame -> their displacements in metres."""

SCATTERERS = 2.0
"""In every volume of full width at half maximum, or area: enough for speckle."""

MARGIN_VOXELS = 3


@dataclass(frozen=True)
class Imaging:
    """Gaussian point-spread functions with a carrier along z.

    Attributes:
        shape: Voxels along x, y and z; y is 1 in 2D, where elevation is ignored.
        step_m: Their size.
        fwhm_m: Full widths at half maximum.
        wavelength_m: Of the carrier.
    """

    shape: tuple[int, int, int]
    step_m: NDArray[np.float64]
    fwhm_m: NDArray[np.float64]
    wavelength_m: float

    def image(self, place_m: NDArray[np.float64], amplitude: NDArray[np.complexfloating]) -> NDArray[np.complex64]:
        """Add up the echoes of scatterers at (n, 3) places from the first voxel."""
        axes = []
        for axis, size in enumerate(self.shape):
            way = np.arange(size) * self.step_m[axis] - place_m[:, axis, None]
            one = np.exp(-0.5 * (way * 2.3548 / self.fwhm_m[axis]) ** 2).astype(np.complex64)
            if axis == 1 and size == 1:
                one[:] = 1.0
            if axis == 2:
                one *= np.exp(4j * np.pi / self.wavelength_m * way).astype(np.complex64)
            axes.append(one)
        x, y, z = axes
        plane = (x[:, :, None] * y[:, None, :]).reshape(len(place_m), -1) * amplitude[:, None]
        return (plane.T @ z).reshape(self.shape)


class Phantom:
    """Tissue of scatterers, on the grid and round it, and bubbles; both go where a field takes them."""

    def __init__(self, field: Field, imaging: Imaging, *, seed: int) -> None:
        """Draw the scatterers."""
        self.rng = np.random.default_rng(seed)
        self.field, self.imaging = field, imaging
        margin_m, size_m = MARGIN_VOXELS * imaging.step_m, np.array(imaging.shape) * imaging.step_m
        if imaging.shape[1] == 1:
            margin_m[1] = 0.0
        per_m3 = SCATTERERS / np.prod(np.minimum(imaging.fwhm_m, size_m))
        n = int(per_m3 * np.prod(size_m + 2 * margin_m))
        self.scatterers_m = self.rng.uniform(-margin_m, size_m + margin_m, (n, 3))
        self.echo = (self.rng.normal(size=n) + 1j * self.rng.normal(size=n)).astype(np.complex64)

    def frames(
        self,
        n_frames: int,
        bubbles: Callable[[int], tuple[NDArray[np.float64], NDArray[np.complexfloating]]] | None = None,
        *,
        noise: float,
    ) -> NDArray[np.complex64]:
        """Make IQ.

        Args:
            n_frames: Frames.
            bubbles: Places in the reference and amplitudes in a frame; tissue has an rms of 1 in the first frame.
            noise: RMS of complex noise.
        """
        scale = None
        made = np.empty((*self.imaging.shape, n_frames), dtype=np.complex64)
        for frame in range(n_frames):
            moved = self.scatterers_m + self.field(self.scatterers_m, frame)
            tissue = self.imaging.image(moved, self.echo)
            scale = scale or 1.0 / np.sqrt((np.abs(tissue) ** 2).mean())
            one = tissue * scale
            if bubbles is not None:
                places, amplitude = bubbles(frame)
                one = one + self.imaging.image(places + self.field(places, frame), amplitude)
            random = self.rng.normal(size=(2, *self.imaging.shape)) * noise * np.sqrt(0.5)
            made[..., frame] = one + random[0] + 1j * random[1]
        return made


def still(place_m: NDArray[np.float64], frame: int) -> NDArray[np.float64]:
    """Move nothing."""
    return np.zeros_like(place_m)


def breath(
    rate_hz: float,
    *,
    shift_m: Sequence[float],
    turn_rad: float,
    centre_m: Sequence[float],
    bulge_m: float,
    breaths_hz: float,
) -> Field:
    """Make tissue that rests, and is pushed and turned in every breath, while a bulge round the centre swells along z.

    Args:
        rate_hz: Of the frames.
        shift_m: Along x, y and z, at its largest.
        turn_rad: About y, at its largest.
        centre_m: About which it turns, and round which it bulges.
        bulge_m: Along z at the centre, at its largest.
        breaths_hz: Of the breaths; half of each is rest.
    """
    centre, shift = np.asarray(centre_m), np.asarray(shift_m)

    def field(place_m: NDArray[np.float64], frame: int) -> NDArray[np.float64]:
        strength = max(0.0, -np.cos(2.0 * np.pi * breaths_hz * frame / rate_hz)) ** 2
        way = place_m - centre
        angle = strength * turn_rad
        turned = np.column_stack(
            [
                np.cos(angle) * way[:, 0] + np.sin(angle) * way[:, 2],
                way[:, 1],
                np.cos(angle) * way[:, 2] - np.sin(angle) * way[:, 0],
            ]
        )
        moved = turned - way + strength * shift
        width = 0.5 * centre
        inside = np.exp(-0.5 * ((way / np.where(width > 0, width, 1.0)) ** 2).sum(axis=1))
        moved[:, 2] += strength * bulge_m * inside
        return moved

    return field
