"""An acquisition: where and when its samples lie (`Geometry`), and its frames, read on demand."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sparse_ulm.conventions import METRES_PER_MM, Frames, refined_position
from sparse_ulm.errors import RecordingError

Content = Literal["iq", "correlation", "envelope"]


@dataclass(frozen=True)
class Geometry:
    """Where voxels lie in scanner space and how the recording was made. Nothing has a default: it is read or demanded.

    Attributes:
        affine_m: 4x4, voxel index (x, y, z) to scanner position in metres, of voxel centres.
        frame_rate_hz: Volumes per second, after compounding.
        transmit_frequency_hz: Centre frequency of the transmitted pulse.
        sound_speed_m_s: Sound speed used in beamforming.
    """

    affine_m: tuple[tuple[float, ...], ...]
    frame_rate_hz: float
    transmit_frequency_hz: float
    sound_speed_m_s: float

    @classmethod
    def from_voxel_size(
        cls,
        voxel_size_m: tuple[float, float, float],
        origin_m: tuple[float, float, float],
        *,
        frame_rate_hz: float,
        transmit_frequency_hz: float,
        sound_speed_m_s: float,
    ) -> "Geometry":
        """Build a geometry whose axes follow the scanner's, with the first voxel's centre at `origin_m`."""
        affine = np.diag([*map(float, voxel_size_m), 1.0])
        affine[:3, 3] = origin_m
        return cls(as_rows(affine), frame_rate_hz, transmit_frequency_hz, sound_speed_m_s)

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be a geometry.

        Raises:
            RecordingError: If the affine is singular or not finite, or a rate, frequency or speed is not positive.
        """
        affine = np.asarray(self.affine_m, dtype=float)
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) == 0.0:
            raise RecordingError(
                f"affine is {affine.tolist()}; wanted a finite, invertible 4x4 from voxels to metres. "
                "Check the voxel size and the file's orientation."
            )
        for name in ("frame_rate_hz", "transmit_frequency_hz", "sound_speed_m_s"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise RecordingError(f"{name} is {value}; wanted a positive number. Correct it in the sidecar.")

    @property
    def matrix_m(self) -> NDArray[np.float64]:
        """The affine as a 4x4 array, in metres."""
        return np.asarray(self.affine_m, dtype=np.float64)

    @property
    def affine_mm(self) -> NDArray[np.float64]:
        """The affine as NIfTI wants it: voxel index to millimetres."""
        affine = self.matrix_m.copy()
        affine[:3] /= METRES_PER_MM
        return affine

    @property
    def voxel_size_m(self) -> tuple[float, float, float]:
        """Grid step along x, y and z, in metres."""
        x, y, z = np.linalg.norm(self.matrix_m[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def wavelength_m(self) -> float:
        """Sound speed over transmit frequency, in metres."""
        return self.sound_speed_m_s / self.transmit_frequency_hz

    def refined(self, factor: tuple[int, int, int]) -> "Geometry":
        """Give the geometry of the grid refined by `factor` per axis: smaller steps *and* its first centre shifted.

        The shift is -7/16 of an input voxel for a factor of 8, and none along an axis whose factor is 1.
        """
        refined = self.matrix_m.copy()
        first_centre_voxel = refined_position(np.zeros(3, dtype=np.int64), factor)
        refined[:3, 3] += refined[:3, :3] @ first_centre_voxel
        refined[:3, :3] /= np.asarray(factor, dtype=float)
        return Geometry(as_rows(refined), self.frame_rate_hz, self.transmit_frequency_hz, self.sound_speed_m_s)

    def to_scanner_m(self, position_voxel: NDArray[np.floating]) -> NDArray[np.float64]:
        """Turn (n, 3) positions in voxels into (n, 3) scanner positions in metres."""
        return np.asarray(position_voxel, dtype=float) @ self.matrix_m[:3, :3].T + self.matrix_m[:3, 3]

    def to_voxel(self, position_m: NDArray[np.floating]) -> NDArray[np.float64]:
        """Turn (n, 3) scanner positions in metres into (n, 3) positions in voxels."""
        shifted = np.asarray(position_m, dtype=float) - self.matrix_m[:3, 3]
        return np.asarray(np.linalg.solve(self.matrix_m[:3, :3], shifted.T).T, dtype=np.float64)


def as_rows(affine: NDArray[np.floating]) -> tuple[tuple[float, ...], ...]:
    """Turn a matrix into the nested tuple that a frozen `Geometry` holds."""
    return tuple(tuple(float(v) for v in row) for row in affine)


@dataclass(frozen=True)
class Acquisition:
    """One recording: its geometry, its size, and `frames(start, stop)` that reads just those frames.

    Attributes:
        name: Name for outputs; the file's stem (plus the group in an HDF5 of several samples).
        path: The file that was opened.
        shape: (x, y, z, t); y is 1 for a 2D recording.
        geometry: Where and when the samples lie.
        content: "iq" for beamformed IQ, "correlation" for a stored complex PSF correlation map, "envelope" for
            amplitudes without phase, which the conventional pipeline alone can use.
        read: (start, stop) -> complex64 (x, y, z, stop - start), given by the reader.
        details: What else the file says, for `validate` and provenance.
    """

    name: str
    path: Path
    shape: tuple[int, int, int, int]
    geometry: Geometry
    content: Content
    read: Callable[[int, int], Frames] = field(repr=False)
    details: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def n_frames(self) -> int:
        """Number of frames in the recording."""
        return self.shape[3]

    @property
    def spatial_dims(self) -> int:
        """2 when the recording is one voxel thick along y, else 3."""
        return 2 if self.shape[1] == 1 else 3

    def frames(self, start: int, stop: int) -> Frames:
        """Read frames start ... stop - 1, and refuse samples that are not finite.

        Args:
            start: First frame, 0 <= start < stop.
            stop: One past the last frame, at most `n_frames`.

        Returns:
            complex64 (x, y, z, stop - start).

        Raises:
            RecordingError: If the range is not inside the recording, or a sample is NaN or infinite.
        """
        if not 0 <= start < stop <= self.n_frames:
            raise RecordingError(
                f"{self.path.name}: frames {start}:{stop} asked for, but it holds 0:{self.n_frames}. Ask inside."
            )
        frames = self.read(start, stop)
        bad = ~np.isfinite(frames)
        if bad.any():
            first = tuple(int(i) for i in np.argwhere(bad)[0])
            raise RecordingError(
                f"{self.path.name}: {int(bad.sum())} NaN or infinite samples in frames {start}:{stop}, the first at "
                f"(x, y, z, t) = {(*first[:3], first[3] + start)}; wanted finite IQ. Mask or re-beamform them."
            )
        return frames


def block_ranges(n_frames: int, block_frames: int) -> list[tuple[int, int]]:
    """Cut a recording into blocks of `block_frames` frames; the last one is shorter when it does not divide.

    A recording shorter than a block is one short block: the networks pad in time with empty sites.

    >>> block_ranges(300, 128)
    [(0, 128), (128, 256), (256, 300)]
    """
    if block_frames < 1:
        raise RecordingError(f"block_frames is {block_frames}; wanted at least 1. Set it in the config.")
    return [(start, min(start + block_frames, n_frames)) for start in range(0, n_frames, block_frames)]


BYTES_PER_SAMPLE = 8
"""complex64."""

LEAST_RUN_FRAMES = 5
"""Below it noise cannot be told by differences of frames (`sparsify.measure_noise_rms`)."""


def memory_runs(start: int, stop: int, *, n_bytes: float | int, shape: tuple[int, int, int]) -> list[tuple[int, int]]:
    """Divide frames into runs of about equal length whose samples take no more memory than this, or few frames.

    >>> memory_runs(100, 228, n_bytes=1e9, shape=(128, 128, 128))
    [(100, 143), (143, 186), (186, 228)]
    """
    x, y, z = shape
    most = max(LEAST_RUN_FRAMES, int(n_bytes // (BYTES_PER_SAMPLE * x * y * z)))
    n_frames = stop - start
    n_runs = max(1, -(-n_frames // most))
    bounds = [start + -(-i * n_frames // n_runs) for i in range(n_runs + 1)]
    return list(pairwise(bounds))
