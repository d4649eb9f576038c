"""From raw tracks to smooth ones: gaps filled, positions averaged, velocities by differences."""

from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.linalg import solveh_banded

from sparse_ulm.acquisition import Geometry
from sparse_ulm.errors import UserError
from sparse_ulm.localisations import Trajectories


def fill_gaps(trajectories: Trajectories) -> Trajectories:
    """Add a sample, by linear interpolation, in every frame that a track skips.

    Args:
        trajectories: Whole frames, sorted by track and then by time.

    Returns:
        The same with every track in consecutive frames.
    """
    return interpolate(trajectories, _frames_to_next(trajectories))


def interpolate(trajectories: Trajectories, n_steps: Int[np.ndarray, " n"]) -> Trajectories:
    """Cut the way from each sample to the next of its track into equal steps.

    Args:
        trajectories: Sorted by track and then by time.
        n_steps: Steps from each sample to its successor, at least 1; without effect at the end of a track.

    Returns:
        All samples and those between, everything interpolated linearly; those between have no deviation.
    """
    is_last = np.r_[~_is_joined(trajectories.track_id), np.ones(min(1, len(trajectories)), dtype=bool)]
    n_samples = np.where(is_last, 1, n_steps)
    row = np.repeat(np.arange(len(trajectories)), n_samples)
    first = np.cumsum(n_samples) - n_samples
    fraction = (np.arange(len(row)) - first[row]) / n_samples[row]
    after = np.minimum(row + 1, max(len(trajectories) - 1, 0))

    def between(values: NDArray[np.floating]) -> NDArray[np.float64]:
        share = fraction.reshape(-1, *(1,) * (values.ndim - 1))
        # A sample itself is copied: 0 times NaN of a successor is NaN.
        return np.where(share > 0, values[row] + share * (values[after] - values[row]), values[row])

    return Trajectories(
        trajectories.track_id[row],
        between(trajectories.frame),
        between(trajectories.position_voxel),
        between(trajectories.velocity_m_s),
        between(trajectories.amplitude),
        np.where((fraction > 0)[:, None], np.nan, trajectories.deviation_voxel[row]),
    )


def smooth(trajectories: Trajectories, geometry: Geometry, *, span: int) -> Trajectories:
    """Average positions over `span` samples of a track, and take the velocity from the averages.

    Near an end the window shrinks on both sides, so that it stays centred; the first and the last sample stay where
    they are. An even span is made odd by taking one off.

    Args:
        trajectories: Consecutive frames (`fill_gaps`), sorted by track and then by time.
        geometry: Of the recording.
        span: Samples per average, at least 1; 1 changes no position.

    Raises:
        UserError: If the span is below 1.

    Source: MATLAB's `smooth` as PALA uses it, with a span of 20 that acts as 19 (reference notes §5.6).
    """
    if span < 1:
        raise UserError(f"smooth_span is {span}; wanted at least 1. Correct it.")
    first, last = _bounds(trajectories.track_id)
    row = np.arange(len(trajectories))
    half = np.minimum(np.minimum(row - first, last - row), (span - 1) // 2)
    total = np.vstack([np.zeros((1, 3)), np.cumsum(trajectories.position_voxel, axis=0)])
    mean = (total[row + half + 1] - total[row - half]) / (2 * half + 1)[:, None]
    return with_velocity(replace(trajectories, position_voxel=mean), geometry)


def smooth_by_acceleration(
    trajectories: Trajectories,
    deviation_m: Float[np.ndarray, "n xyz=3"],
    geometry: Geometry,
    *,
    acceleration_m_s2: float,
) -> Trajectories:
    """Find the likeliest path of bubbles whose acceleration is random, given where they were seen and how surely.

    Minimises, over the positions x_t of every frame, sum_t (x_t - z_t)^2 / deviation_t^2 over the frames seen, plus
    sum_t (x_(t-1) - 2 x_t + x_(t+1))^2 / (acceleration dt^2)^2. This is the fixed-interval (Rauch-Tung-Striebel)
    smoother of the constant-velocity model; all tracks are one banded system of equations per axis.

    Args:
        trajectories: Raw samples of at least two localisations per track; gaps are filled.
        deviation_m: Standard deviation of each sample along the scanner's axes, above 0.
        geometry: Of the recording.
        acceleration_m_s2: Standard deviation of the acceleration along each axis.

    Source: our choice, because the right span of a moving average depends on speed, frame rate and noise.
    """
    filled = fill_gaps(trajectories)
    if not len(filled):
        return filled
    is_seen = np.cumsum(np.r_[0, _frames_to_next(trajectories)[:-1]])
    stiffness = (acceleration_m_s2 / geometry.frame_rate_hz**2) ** -2
    bending = _bending(filled.track_id) * stiffness
    seen_m, found_m = geometry.to_scanner_m(trajectories.position_voxel), np.empty((len(filled), 3))
    for axis in range(3):
        weight = deviation_m[:, axis] ** -2.0
        system, target = bending.copy(), np.zeros(len(filled))
        system[2, is_seen] += weight
        target[is_seen] = weight * seen_m[:, axis]
        found_m[:, axis] = solveh_banded(system, target)
    return with_velocity(replace(filled, position_voxel=geometry.to_voxel(found_m)), geometry)


def _bending(track_id: Int[np.ndarray, " n"]) -> Float[np.ndarray, "3 n"]:
    """Give D^T D of the second differences D within tracks, in SciPy's upper banded form."""
    n = len(track_id)
    banded = np.zeros((3, n))
    middle = 1 + np.flatnonzero(track_id[2:] == track_id[:-2])
    for row, first in zip((-1, 0, 1), (1.0, -2.0, 1.0), strict=True):
        for column, second in zip((-1, 0, 1), (1.0, -2.0, 1.0), strict=True):
            if column >= row:
                banded[2 - (column - row), middle + column] += first * second
    return banded


def with_velocity(trajectories: Trajectories, geometry: Geometry) -> Trajectories:
    """Set velocities from the positions: central differences, one-sided at the ends, NaN for a track of one sample.

    Args:
        trajectories: Sorted by track and then by time.
        geometry: Turns voxels per frame into metres per second along the scanner's axes.
    """
    first, last = _bounds(trajectories.track_id)
    row = np.arange(len(trajectories))
    before, after = np.maximum(row - 1, first), np.minimum(row + 1, last)
    interval_s = (trajectories.frame[after] - trajectories.frame[before]) / geometry.frame_rate_hz
    position_m = geometry.to_scanner_m(trajectories.position_voxel)
    with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0 where a track is a single sample
        velocity = (position_m[after] - position_m[before]) / interval_s[:, None]
    return replace(trajectories, velocity_m_s=velocity)


def _frames_to_next(trajectories: Trajectories) -> NDArray[np.int64]:
    """Count the frames from each sample to the next of its track; 1 at the end of a track."""
    steps = np.ones(len(trajectories), dtype=np.int64)
    joined = _is_joined(trajectories.track_id)
    steps[:-1][joined] = np.diff(trajectories.frame)[joined].astype(np.int64)
    return steps


def _is_joined(track_id: Int[np.ndarray, " n"]) -> NDArray[np.bool_]:
    """Tell for each row but the last whether the next one is of the same track."""
    return np.asarray(track_id[1:] == track_id[:-1])


def _bounds(track_id: Int[np.ndarray, " n"]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Give, for each row, the first and the last row of its track."""
    starts = np.flatnonzero(np.r_[True, ~_is_joined(track_id)][: len(track_id)])
    length = np.diff(np.r_[starts, len(track_id)])
    return np.repeat(starts, length), np.repeat(starts + length - 1, length)
