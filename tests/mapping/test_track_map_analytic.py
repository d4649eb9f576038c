"""Motions whose speed and direction are known in every voxel: straight, accelerating, crossing, circling, leaving.

Each is compared with the mean over the time that the motion spends in the voxel, found by sampling its formula ten
thousand times as finely as the map; the tracks have one position per frame.
"""

import numpy as np
import pytest
from track_map_cases import FRAME_RATE_HZ, GEOMETRY, map_of, oblique, tracks_of

from sparse_ulm.conventions import refined_index

STEP_M = 0.1e-3
N_FINE = 200_001


def means_of(position_of, velocity_of, n_frames, geometry, shape):
    """Speed and velocity of a motion in each voxel, as means over time, and the share of a frame spent there."""
    frame = np.linspace(0, n_frames - 1, N_FINE)
    index = refined_index(position_of(frame), 8)
    inside = ((index >= 0) & (index < np.asarray(shape))).all(axis=1)
    key = np.ravel_multi_index(tuple(index[inside].T), shape)
    velocity = velocity_of(frame)[inside]
    time = np.bincount(key, minlength=np.prod(shape))
    with np.errstate(invalid="ignore"):
        means = [np.bincount(key, w, len(time)) / time for w in (np.linalg.norm(velocity, axis=1), *velocity.T)]
    speed, *vectors = [mean.reshape(shape) for mean in means]
    return speed, np.stack(vectors, axis=-1), time.reshape(shape) * (n_frames - 1) / N_FINE


def compare(position_of, velocity_of, n_frames, *, tolerance, geometry=GEOMETRY, shape=(40, 48, 56), least_share=0.02):
    """Check every voxel that the motion is in for more than a sliver; gives the map and those voxels."""
    path = position_of(np.arange(float(n_frames)))
    grid = map_of(tracks_of(path, geometry=geometry), shape=shape, geometry=geometry)
    speed, velocity, time = means_of(position_of, velocity_of, n_frames, geometry, shape)
    seen = (grid.density().dense() > 0) & (time > least_share * np.median(time[time > 0]))
    assert seen.sum() > 0.8 * (time > 0).sum()
    scale = np.maximum(speed[seen], 1e-12)
    assert (np.abs(grid.speed().dense()[seen] - speed[seen]) / scale).max() < tolerance
    assert (np.linalg.norm(grid.velocity().dense()[seen] - velocity[seen], axis=1) / scale).max() < tolerance
    return grid, seen


def test_a_straight_track_has_one_velocity_everywhere():
    geometry, step = oblique(), np.array([0.11, 0.05, -0.03])
    velocity = geometry.matrix_m[:3, :3] @ step * FRAME_RATE_HZ
    grid, seen = compare(
        lambda t: [1.0, 1.2, 4.0] + t[:, None] * step, lambda t: np.tile(velocity, (len(t), 1)), 25, geometry=geometry,
        tolerance=1e-6,
    )  # fmt: skip
    assert seen.sum() > 25
    unit = velocity / np.linalg.norm(velocity)
    np.testing.assert_allclose(grid.direction().dense()[seen], np.tile(unit, (seen.sum(), 1)), atol=1e-6)


@pytest.mark.parametrize("direction", [1, -1])
def test_an_accelerating_track_has_its_speed_in_every_voxel(direction):
    """1 to 10 mm/s along one row. PALA sorts the voxels but not the speeds: off by 3.5 mm/s in the mean, backwards."""
    n_frames, slow, fast = 61, 1e-3, 10e-3
    acceleration = (fast - slow) / ((n_frames - 1) / FRAME_RATE_HZ)
    start = 0.3 if direction > 0 else 4.2

    def position_of(frame):
        time_s = frame / FRAME_RATE_HZ
        way = direction * (slow * time_s + acceleration * time_s**2 / 2) / STEP_M
        return np.column_stack([start + way, np.full(len(frame), 2.03), np.full(len(frame), 3.03)])

    def velocity_of(frame):
        return np.outer(slow + acceleration * frame / FRAME_RATE_HZ, [direction, 0, 0])

    grid, seen = compare(position_of, velocity_of, n_frames, tolerance=0.01)
    assert seen.sum() > 20
    along = grid.speed().dense()[seen][::direction]
    assert (np.diff(along) > 0).all()
    # The largest and the smallest mean are those of the ends, not of the track as a whole.
    assert along[0] < 1.6e-3
    assert along[-1] > 9.5e-3


def test_where_two_tracks_cross_their_velocities_are_averaged():
    row, column = np.zeros((41, 3)), np.zeros((21, 3))
    row[:] = [0.5, 2.03, 3.03]
    row[:, 0] += 0.05 * np.arange(41)
    column[:] = [1.53, 1.0, 3.03]
    column[:, 1] += 0.1 * np.arange(21)
    grid = map_of(tracks_of(row, column))
    density, crossing = grid.density().dense(), tuple(refined_index(np.array([1.53, 2.03, 3.03]), 8))
    assert density[crossing] == 2
    assert (density == 2).sum() == 1
    np.testing.assert_allclose(grid.velocity().dense()[crossing], [2.5e-3, 5e-3, 0], rtol=1e-5)
    assert grid.speed().dense()[crossing] == pytest.approx(7.5e-3, rel=1e-5)
    index = np.argwhere(density == 1)
    in_row = index[:, 1] == crossing[1]
    found = grid.velocity().dense()[tuple(index.T)]
    np.testing.assert_allclose(found[in_row], np.tile([5e-3, 0, 0], (in_row.sum(), 1)), atol=1e-9)
    np.testing.assert_allclose(found[~in_row], np.tile([0, 10e-3, 0], ((~in_row).sum(), 1)), atol=1e-9)


def test_on_a_circle_the_direction_is_tangential_and_the_speed_constant():
    """One turn in 200 frames, 1.6 voxels in radius: 5 mm/s."""
    radius, omega = 1.6, 2 * np.pi / 200
    centre = np.array([2.31, 2.62, 3.03])

    def position_of(frame):
        angle = omega * frame
        return centre + radius * np.column_stack([np.cos(angle), 0 * angle, np.sin(angle)])

    def velocity_of(frame):
        angle = omega * frame
        return radius * omega * STEP_M * FRAME_RATE_HZ * np.column_stack([-np.sin(angle), 0 * angle, np.cos(angle)])

    grid, seen = compare(position_of, velocity_of, 200, tolerance=0.01)
    speed = radius * omega * STEP_M * FRAME_RATE_HZ
    assert speed == pytest.approx(5.03e-3, rel=1e-3)
    np.testing.assert_allclose(grid.speed().dense()[seen], speed, rtol=0.002)  # chords are shorter than arcs
    index = np.argwhere(seen)
    away = (index + 0.5) / 8 - 0.5 - centre
    # The circle passes a sub-voxel up to 0.09 voxels from its centre: 0.06 rad of 1.6 voxels.
    tangent = np.cross([0, -1, 0], away * [1, 0, 1])
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    cosine = (grid.direction().dense()[seen] * tangent).sum(axis=1)
    assert cosine.min() > np.cos(0.08)


def test_a_track_that_leaves_the_grid_counts_inside_and_comes_back():
    """A bow over the upper end of x: the part outside is left out, the part inside keeps its own speeds."""
    shape = (24, 48, 56)

    def position_of(frame):
        return np.column_stack([1.9 + 1.2 * np.sin(np.pi * frame / 80), 1.0 + 0.03 * frame, np.full(len(frame), 3.03)])

    def velocity_of(frame):
        along = 1.2 * np.pi / 80 * np.cos(np.pi * frame / 80)
        return np.column_stack([along, np.full(len(frame), 0.03), 0 * along]) * STEP_M * FRAME_RATE_HZ

    grid, seen = compare(position_of, velocity_of, 81, tolerance=0.01, shape=shape)
    assert seen.any(axis=(1, 2))[-1]
    whole, _ = compare(position_of, velocity_of, 81, tolerance=0.01, shape=(40, 48, 56))
    assert whole.density().dense()[24:].any()
    np.testing.assert_array_equal(whole.density().dense()[:24], grid.density().dense())
    np.testing.assert_array_equal(whole.speed().dense()[:24], grid.speed().dense())
    away = map_of(tracks_of(position_of(np.arange(81.0)) + 40), shape=shape)
    assert not away.density().dense().any()
    assert np.isnan(away.speed().dense()).all()
