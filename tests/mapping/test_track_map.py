"""Maps of tracks: every track once per voxel, speeds on their own voxels."""

import numpy as np
import pytest

from sparse_ulm.acquisition import Geometry
from sparse_ulm.classical.smoothing import with_velocity
from sparse_ulm.conventions import refined_position
from sparse_ulm.localisations import Trajectories
from sparse_ulm.mapping.track_map import TrackMap
from sparse_ulm.mapping.truth_map import trajectory_voxels

FACTOR, SHAPE = (8, 8, 8), (40, 48, 56)
FRAME_RATE_HZ = 1000.0
GEOMETRY = Geometry.from_voxel_size(
    (0.1e-3, 0.1e-3, 0.1e-3), (0.0, 0.0, 0.0), frame_rate_hz=FRAME_RATE_HZ, transmit_frequency_hz=15e6,
    sound_speed_m_s=1540.0,
)  # fmt: skip


def tracks_of(*paths, velocity=None):
    """Trajectories from lists of positions in voxels; velocities follow unless they are given."""
    track_id = np.concatenate([np.full(len(path), i) for i, path in enumerate(paths)]).astype(np.int64)
    frame = np.concatenate([np.arange(len(path)) for path in paths]).astype(np.float64)
    position = np.concatenate([np.asarray(path, dtype=np.float64) for path in paths])
    blank = np.zeros(position.shape) if velocity is None else np.asarray(velocity, dtype=np.float64)
    tracks = Trajectories(track_id, frame, position, blank, np.ones(len(frame)))
    return with_velocity(tracks, GEOMETRY) if velocity is None else tracks


def map_of(tracks, shape=SHAPE, factor=FACTOR):
    grid = TrackMap(shape, factor)
    grid.add(tracks)
    return grid


def along_x(*sub_voxels):
    """A path through centres of sub-voxels of one row."""
    return refined_position(np.array([[x, 20, 30] for x in sub_voxels]), 8)


def test_a_track_counts_once_in_a_voxel_however_long_it_stays():
    density = map_of(tracks_of(along_x(4, 4, 4, 5, 6, 5, 4), along_x(6, 7))).density()
    np.testing.assert_array_equal(density[3:9, 20, 30], [0, 1, 1, 2, 1, 0])
    assert density.sum() == 5


def test_several_tracks_through_a_voxel_are_averaged():
    """Open-3DULM assigns the last track's speed and divides it by the number of tracks: here 4 / 3."""
    paths = [along_x(4), along_x(4), along_x(4)]
    velocity = [[1e-3, 0, 0], [0, -6e-3, 0], [0, 0, 5e-3]]
    grid = map_of(tracks_of(*paths, velocity=velocity))
    assert grid.density()[4, 20, 30] == 3
    assert grid.speed()[4, 20, 30] == pytest.approx(4e-3)
    np.testing.assert_allclose(grid.velocity()[4, 20, 30], [1e-3 / 3, -2e-3, 5e-3 / 3], rtol=1e-6)


@pytest.mark.parametrize("direction", [1, -1])
def test_an_accelerating_track_has_its_speeds_where_it_had_them(direction):
    """1 to 10 mm/s along one row. PALA sorts the voxels but not the speeds: off by 3.5 mm/s in the mean, backwards."""
    time_s = np.arange(0, 61) / FRAME_RATE_HZ
    speed = 1e-3 + 9e-3 * time_s / time_s[-1]
    place_m = 1e-3 * time_s + 4.5e-3 * time_s**2 / time_s[-1]
    start = 0.3 if direction > 0 else 4.2
    path = np.column_stack([start + direction * place_m / 0.1e-3, np.full(61, 2.0), np.full(61, 3.0)])
    grid = map_of(tracks_of(path, velocity=np.outer(speed, [direction, 0, 0])))
    voxels = np.argwhere(grid.density() > 0)
    assert len(voxels) > 20
    assert (voxels[:, 1:] == voxels[0, 1:]).all()
    centre_m = np.abs(refined_position(voxels, 8)[:, 0] - start) * 0.1e-3
    found, true = grid.speed()[tuple(voxels.T)], np.sqrt(1e-6 + 2 * 9e-3 / time_s[-1] * centre_m)
    inner = np.argsort(centre_m)[1:-1]  # the voxels of both ends are passed in part
    # A sub-voxel is 12.5 um; over it the speed changes by less than 0.9 mm/s where the track is slowest.
    assert np.abs(found - true)[inner].max() < 0.15e-3
    np.testing.assert_allclose(grid.velocity()[tuple(voxels.T)][:, 0], direction * found, rtol=1e-6)


def test_the_way_between_samples_counts_as_in_the_true_map():
    rng = np.random.default_rng(0)
    paths = [np.cumsum(np.vstack([rng.uniform(0, 5, (1, 3)), rng.normal(0, 0.4, (25, 3))]), axis=0) for _ in range(7)]
    tracks = tracks_of(*paths)
    voxels = np.argwhere(map_of(tracks).density() > 0)
    true = trajectory_voxels(
        tracks.position_voxel, tracks.track_id, tracks.frame.astype(np.int64), factor=FACTOR, shape=SHAPE
    )
    np.testing.assert_array_equal(voxels, true)


def test_tracks_added_in_turns_are_those_added_at_once():
    rng = np.random.default_rng(1)
    paths = [np.cumsum(np.vstack([rng.uniform(1, 4, (1, 3)), rng.normal(0, 0.2, (9, 3))]), axis=0) for _ in range(6)]
    whole, turns = map_of(tracks_of(*paths)), TrackMap(SHAPE, FACTOR)
    for path in paths:
        turns.add(tracks_of(path))
    np.testing.assert_array_equal(turns.density(), whole.density())
    np.testing.assert_allclose(turns.speed(), whole.speed(), rtol=1e-6)
    np.testing.assert_allclose(turns.velocity(), whole.velocity(), rtol=1e-5, atol=1e-9)


def test_nothing_passed_is_nan_in_speed_and_zero_in_density():
    grid = map_of(tracks_of(along_x(4, 5)))
    empty = grid.density() == 0
    assert np.isnan(grid.speed()[empty]).all()
    assert np.isnan(grid.velocity()[empty]).all()
    assert np.isfinite(grid.velocity()[~empty]).all()
    none = map_of(tracks_of(np.zeros((0, 3))))
    assert not none.density().any()
    assert np.isnan(none.speed()).all()


def test_a_2d_recording_is_not_refined_across():
    grid = map_of(tracks_of([[1.0, 0.0, 2.0], [1.5, 0.0, 2.0]]), shape=(40, 1, 56), factor=(8, 1, 8))
    np.testing.assert_array_equal(np.argwhere(grid.density() > 0), [[x, 0, 20] for x in range(12, 17)])


def test_memory_follows_the_visited_voxels():
    """A grid of 10^15 voxels, of which 200 are passed."""
    grid = map_of(tracks_of(along_x(*range(200))), shape=(100_000,) * 3)
    assert len(grid._key) == 200
