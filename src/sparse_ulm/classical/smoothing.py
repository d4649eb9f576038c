"""From raw tracks to smooth ones: gaps filled, positions averaged, velocities by differences."""

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from sparse_ulm.acquisition import Geometry
from sparse_ulm.localisations import Trajectories


def fill_gaps(trajectories: Trajectories) -> Trajectories:
    """Add a sample, by linear interpolation, in every frame that a track skips.

    Args:
        trajectories: Whole frames, sorted by track and then by time.

    Returns:
        The same with every track in consecutive frames.
    """
    steps = np.ones(len(trajectories), dtype=np.int64)
    joined = _is_joined(trajectories.track_id)
    steps[:-1][joined] = np.diff(trajectories.frame)[joined].astype(np.int64)
    return interpolate(trajectories, steps)


def interpolate(trajectories: Trajectories, n_steps: Int[np.ndarray, " n"]) -> Trajectories:
    """Cut the way from each sample to the next of its track into equal steps.

    Args:
        trajectories: Sorted by track and then by time.
        n_steps: Steps from each sample to its successor, at least 1; without effect at the end of a track.

    Returns:
        All samples and those between, everything interpolated linearly.
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
    )


def smooth(trajectories: Trajectories, geometry: Geometry, *, span: int) -> Trajectories:
    """Average positions over `span` samples of a track, and take the velocity from the averages.

    Near an end the window shrinks on both sides, so that it stays centred; the first and the last sample stay where
    they are. An even span is made odd by taking one off.

    Args:
        trajectories: Consecutive frames (`fill_gaps`), sorted by track and then by time.
        geometry: Of the recording.
        span: Samples per average, at least 1; 1 changes no position.

    Source: MATLAB's `smooth` as PALA uses it, with a span of 20 that acts as 19 (reference notes §5.6).
    """
    if span < 1:
        raise ValueError(f"span is {span}; wanted at least 1.")
    first, last = _bounds(trajectories.track_id)
    row = np.arange(len(trajectories))
    half = np.minimum(np.minimum(row - first, last - row), (span - 1) // 2)
    total = np.vstack([np.zeros((1, 3)), np.cumsum(trajectories.position_voxel, axis=0)])
    mean = (total[row + half + 1] - total[row - half]) / (2 * half + 1)[:, None]
    smoothed = Trajectories(
        trajectories.track_id, trajectories.frame, mean, trajectories.velocity_m_s, trajectories.amplitude
    )
    return with_velocity(smoothed, geometry)


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
    with np.errstate(invalid="ignore"):  # 0 / 0 where a track is a single sample
        velocity = (position_m[after] - position_m[before]) / interval_s[:, None]
    return Trajectories(
        trajectories.track_id, trajectories.frame, trajectories.position_voxel, velocity, trajectories.amplitude
    )


def path_length_m(trajectories: Trajectories, geometry: Geometry) -> Float[np.ndarray, " n"]:
    """Give the distance from each sample to the next of its track; 0 at the end of a track."""
    position_m = geometry.to_scanner_m(trajectories.position_voxel)
    length = np.zeros(len(trajectories))
    joined = _is_joined(trajectories.track_id)
    length[:-1][joined] = np.linalg.norm(np.diff(position_m, axis=0), axis=1)[joined]
    return length


def _is_joined(track_id: Int[np.ndarray, " n"]) -> NDArray[np.bool_]:
    """Tell for each row but the last whether the next one is of the same track."""
    return np.asarray(track_id[1:] == track_id[:-1])


def _bounds(track_id: Int[np.ndarray, " n"]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Give, for each row, the first and the last row of its track."""
    starts = np.flatnonzero(np.r_[True, ~_is_joined(track_id)][: len(track_id)])
    length = np.diff(np.r_[starts, len(track_id)])
    return np.repeat(starts, length), np.repeat(starts + length - 1, length)
