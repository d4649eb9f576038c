"""From raw tracks to smooth ones: gaps filled, positions averaged, velocities by differences."""

from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.linalg import solveh_banded

from sparse_ulm.acquisition import Geometry
from sparse_ulm.errors import UserError
from sparse_ulm.localisations import Trajectories

FIRST_ACCELERATION_M_S2, LEAST_ACCELERATION_M_S2, N_PASSES = 0.3, 0.05, 2
"""Where `smooth_along_bends` starts from; what even the slowest bubble has, by pulse and by calibre; how often it looks
again."""

LARGEST_DEVIATION_WAVELENGTHS = 0.5
"""Larger ones tell nothing, and a track of them alone would have no solution in double precision."""


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


def smooth_along_bends(
    trajectories: Trajectories,
    deviation_m: Float[np.ndarray, "n xyz=3"],
    geometry: Geometry,
    *,
    bend_radius_m: float,
) -> Trajectories:
    """Smooth every track by the acceleration that its own speed makes in a bend: v^2 / radius.

    One acceleration for all is too much for slow bubbles, whose noise then counts as speed, or too little for fast ones
    in bends. The speed comes from smoothing itself: first by `FIRST_ACCELERATION_M_S2`, then by the mean v^2 of each
    track, `N_PASSES` times (docs/decisions/0007).

    Args:
        trajectories: Raw samples of at least two localisations per track; gaps are filled.
        deviation_m: Standard deviation of each sample along the scanner's axes, above 0.
        geometry: Of the recording.
        bend_radius_m: Radius of a vessel's sharp bend.

    Raises:
        UserError: If the radius is not positive.

    Source: our choice; tuned on simulated recordings of the training vessels.
    """
    if not bend_radius_m > 0:
        raise UserError(f"bend_radius_m is {bend_radius_m}; wanted a positive length, such as 1e-4. Correct it.")
    n_tracks = int(trajectories.track_id[-1]) + 1 if len(trajectories) else 0
    acceleration = np.full(n_tracks, FIRST_ACCELERATION_M_S2)
    for _ in range(N_PASSES):
        smoothed = smooth_by_acceleration(trajectories, deviation_m, geometry, acceleration_m_s2=acceleration)
        squared = np.bincount(smoothed.track_id, np.sum(smoothed.velocity_m_s**2, axis=1), n_tracks)
        length = np.maximum(np.bincount(smoothed.track_id, minlength=n_tracks), 1)
        acceleration = np.maximum(squared / length / bend_radius_m, LEAST_ACCELERATION_M_S2)
    return smooth_by_acceleration(trajectories, deviation_m, geometry, acceleration_m_s2=acceleration)


def smooth_by_acceleration(
    trajectories: Trajectories,
    deviation_m: Float[np.ndarray, "n xyz=3"],
    geometry: Geometry,
    *,
    acceleration_m_s2: float | Float[np.ndarray, " tracks"],
) -> Trajectories:
    """Find the likeliest path of bubbles whose acceleration is random, given where they were seen and how surely.

    Minimises, over the positions x_t of every frame, sum_t (x_t - z_t)^2 / deviation_t^2 over the frames seen, plus
    sum_t (x_(t-1) - 2 x_t + x_(t+1))^2 / (acceleration dt^2)^2. This is the fixed-interval (Rauch-Tung-Striebel)
    smoother of the constant-velocity model; all tracks are one banded system of equations per axis.

    Args:
        trajectories: Raw samples of at least two localisations per track; gaps are filled.
        deviation_m: Standard deviation of each sample along the scanner's axes, above 0.
        geometry: Of the recording.
        acceleration_m_s2: Standard deviation of the acceleration along each axis: of all tracks, or of each by its id.

    Source: our choice, because the right span of a moving average depends on speed, frame rate and noise.
    """
    filled = fill_gaps(trajectories)
    if not len(filled):
        return filled
    is_seen = np.cumsum(np.r_[0, _frames_to_next(trajectories)[:-1]])
    of_each = np.broadcast_to(acceleration_m_s2, (int(filled.track_id[-1]) + 1,))[filled.track_id]
    bending = _bending(filled.track_id, (of_each / geometry.frame_rate_hz**2) ** -2.0)
    deviation_m = np.minimum(deviation_m, LARGEST_DEVIATION_WAVELENGTHS * geometry.wavelength_m)
    seen_m, found_m = geometry.to_scanner_m(trajectories.position_voxel), np.empty((len(filled), 3))
    for axis in range(3):
        weight = deviation_m[:, axis] ** -2.0
        system, target = bending.copy(), np.zeros(len(filled))
        system[2, is_seen] += weight
        target[is_seen] = weight * seen_m[:, axis]
        found_m[:, axis] = solveh_banded(system, target)
    return with_velocity(replace(filled, position_voxel=geometry.to_voxel(found_m)), geometry)


def _bending(track_id: Int[np.ndarray, " n"], stiffness: Float[np.ndarray, " n"]) -> Float[np.ndarray, "3 n"]:
    """Give D^T S D of the second differences D within tracks, S stiffness, in SciPy's upper banded form."""
    n = len(track_id)
    banded = np.zeros((3, n))
    middle = 1 + np.flatnonzero(track_id[2:] == track_id[:-2])
    for row, first in zip((-1, 0, 1), (1.0, -2.0, 1.0), strict=True):
        for column, second in zip((-1, 0, 1), (1.0, -2.0, 1.0), strict=True):
            if column >= row:
                banded[2 - (column - row), middle + column] += first * second * stiffness[middle]
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
