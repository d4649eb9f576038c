"""Maps of tracks: every track once per voxel, speeds on their own voxels."""

from dataclasses import replace

import numpy as np
import pytest
from track_map_cases import FACTOR, GEOMETRY, SHAPE, along_x, map_of, oblique, tracks_of

from sparse_ulm.conventions import refined_position
from sparse_ulm.mapping import track_map
from sparse_ulm.mapping.track_map import TrackMap
from sparse_ulm.mapping.track_map_pieces import parts
from sparse_ulm.mapping.truth_map import trajectory_voxels


def test_a_track_counts_once_in_a_voxel_however_long_it_stays():
    density = map_of(tracks_of(along_x(4, 4, 4, 5, 6, 5, 4), along_x(6, 7))).density().dense()
    np.testing.assert_array_equal(density[3:9, 20, 30], [0, 1, 1, 2, 1, 0])
    assert density.sum() == 5


def test_several_tracks_through_a_voxel_are_averaged():
    """Open-3DULM assigns the last track's speed and divides it by the number of tracks: here 4 / 3."""
    paths = [along_x(4), along_x(4), along_x(4)]
    velocity = [[1e-3, 0, 0], [0, -6e-3, 0], [0, 0, 5e-3]]
    grid = map_of(tracks_of(*paths, velocity=velocity))
    assert grid.density().dense()[4, 20, 30] == 3
    assert grid.speed().dense()[4, 20, 30] == pytest.approx(4e-3)
    np.testing.assert_allclose(grid.velocity().dense()[4, 20, 30], [1e-3 / 3, -2e-3, 5e-3 / 3], rtol=1e-6)


def test_the_way_between_samples_counts_as_in_the_true_map():
    rng = np.random.default_rng(0)
    paths = [np.cumsum(np.vstack([rng.uniform(0, 5, (1, 3)), rng.normal(0, 0.4, (25, 3))]), axis=0) for _ in range(7)]
    tracks = tracks_of(*paths)
    voxels = np.argwhere(map_of(tracks).density().dense() > 0)
    true = trajectory_voxels(
        tracks.position_voxel, tracks.track_id, tracks.frame.astype(np.int64), factor=FACTOR, shape=SHAPE
    )
    np.testing.assert_array_equal(voxels, true)


def test_tracks_added_in_turns_are_those_added_at_once():
    rng = np.random.default_rng(1)
    paths = [np.cumsum(np.vstack([rng.uniform(1, 4, (1, 3)), rng.normal(0, 0.2, (9, 3))]), axis=0) for _ in range(6)]
    whole, turns = map_of(tracks_of(*paths)), TrackMap(SHAPE, FACTOR, GEOMETRY)
    for path in paths:
        turns.add(tracks_of(path))
    np.testing.assert_array_equal(turns.density().dense(), whole.density().dense())
    np.testing.assert_allclose(turns.speed().dense(), whole.speed().dense(), rtol=1e-6)
    np.testing.assert_allclose(turns.velocity().dense(), whole.velocity().dense(), rtol=1e-5, atol=1e-9)


def test_nothing_passed_is_nan_in_speed_and_zero_in_density():
    grid = map_of(tracks_of(along_x(4, 5)))
    empty = grid.density().dense() == 0
    assert np.isnan(grid.speed().dense()[empty]).all()
    assert np.isnan(grid.velocity().dense()[empty]).all()
    assert np.isfinite(grid.velocity().dense()[~empty]).all()
    none = map_of(tracks_of(np.zeros((0, 3))))
    assert not none.density().dense().any()
    assert np.isnan(none.speed().dense()).all()


def test_a_2d_recording_is_not_refined_across():
    grid = map_of(tracks_of([[1.0, 0.0, 2.0], [1.5, 0.0, 2.0]]), shape=(40, 1, 56), factor=(8, 1, 8))
    np.testing.assert_array_equal(np.argwhere(grid.density().dense() > 0), [[x, 0, 20] for x in range(12, 17)])


def test_memory_follows_the_visited_voxels():
    """A grid of 10^15 voxels, of which 200 are passed."""
    grid = map_of(tracks_of(along_x(*range(200))), shape=(100_000,) * 3)
    assert len(grid._key) == 200


def test_a_sample_of_unknown_velocity_leaves_the_mean_of_others_alone():
    """A track of one sample has no velocity; where it is alone there is none, elsewhere that of the others."""
    alone, crossed = refined_position(np.array([[9, 9, 9]]), 8), along_x(5)
    tracks = tracks_of(along_x(4, 5, 6), crossed, alone)
    assert np.isnan(tracks.velocity_m_s[3:]).all()
    grid = map_of(tracks)
    assert grid.density().dense()[5, 20, 30] == 2
    assert grid.speed().dense()[5, 20, 30] == pytest.approx(12.5e-3)  # a sub-voxel of 12.5 um per frame of 1 ms
    assert grid.density().dense()[9, 9, 9] == 1
    assert np.isnan(grid.speed().dense()[9, 9, 9])
    assert np.isnan(grid.axial_velocity().dense()[9, 9, 9])


def test_opposite_tracks_have_a_speed_and_no_direction():
    grid = map_of(tracks_of(along_x(4, 5, 6), along_x(6, 5, 4)))
    assert grid.speed().dense()[5, 20, 30] == pytest.approx(12.5e-3)
    np.testing.assert_array_equal(grid.velocity().dense()[5, 20, 30], 0)
    assert np.isnan(grid.direction().dense()[5, 20, 30]).all()


def test_a_bubble_at_rest_has_speed_zero_and_counts_its_frames():
    grid = map_of(tracks_of(along_x(4, 4, 4, 4, 4)))
    assert (grid.density().dense()[4, 20, 30], grid.counts().dense()[4, 20, 30], grid.speed().dense()[4, 20, 30]) == (
        1,
        5,
        0,
    )


def test_counts_are_positions_in_whole_frames():
    """Two sub-voxels a frame: the voxels between two frames are passed, and hold no localisation."""
    tracks = tracks_of(along_x(4, 6, 8), along_x(8))
    grid = map_of(tracks)
    np.testing.assert_array_equal(grid.density().dense()[3:10, 20, 30], [0, 1, 1, 1, 1, 2, 0])
    np.testing.assert_array_equal(grid.counts().dense()[3:10, 20, 30], [0, 1, 0, 1, 0, 2, 0])
    halves = replace(tracks, frame=tracks.frame / 2)
    np.testing.assert_array_equal(map_of(halves).counts().dense()[3:10, 20, 30], [0, 1, 0, 0, 0, 2, 0])


def test_uncertainty_is_the_mean_over_localisations_of_known_deviation():
    deviation = [[0.3, np.nan, 0.4], [np.nan] * 3, [0.1, 0.1, 0.1], [0.2, 0.2, 0.2]]
    tracks = replace(tracks_of(along_x(4, 4, 4, 5)), deviation_voxel=np.array(deviation))
    grid = map_of(tracks)
    first = np.sqrt((0.3**2 + 0.4**2) / 2)
    np.testing.assert_allclose(
        grid.uncertainty().dense()[4:6, 20, 30], 0.1e-3 * np.array([(first + 0.1) / 2, 0.2]), rtol=1e-6
    )
    assert np.isnan(grid.uncertainty().dense()[grid.counts().dense() == 0]).all()
    assert np.isnan(map_of(tracks_of(along_x(4, 5))).uncertainty().dense()).all()


def test_uncertainty_is_in_the_millimetres_of_each_axis():
    geometry = oblique()
    tracks = replace(tracks_of(along_x(4)), deviation_voxel=np.array([[0.1, 0.2, 0.3]]))
    wanted = np.sqrt(((np.array([0.1, 0.2, 0.3]) * [0.10e-3, 0.11e-3, 0.06e-3]) ** 2).mean())
    assert map_of(tracks, geometry=geometry).uncertainty().dense()[4, 20, 30] == pytest.approx(wanted, rel=1e-6)


def test_axial_velocity_is_along_the_depth_axis_of_an_oblique_recording():
    """One voxel a frame deeper and two to the side: 0.06 mm a millisecond away from the probe."""
    geometry = oblique()
    path = np.array([1.0, 2.0, 1.0]) + np.arange(3)[:, None] * [1.0, 0.0, 0.5]
    for sign in (1, -1):
        tracks = tracks_of(path[::sign], geometry=geometry)
        grid = map_of(tracks, geometry=geometry)
        seen = grid.density().dense() > 0
        np.testing.assert_allclose(grid.axial_velocity().dense()[seen], sign * 0.5 * 0.06, rtol=1e-5)
        np.testing.assert_allclose(grid.speed().dense()[seen], np.hypot(0.10, 0.03), rtol=1e-5)
        wanted = sign * (geometry.matrix_m[:3, :3] @ [1.0, 0.0, 0.5]) / np.hypot(0.10e-3, 0.03e-3)
        np.testing.assert_allclose(grid.direction().dense()[seen], np.tile(wanted, (seen.sum(), 1)), atol=1e-6)


def test_tracks_are_split_between_tracks(monkeypatch):
    tracks = tracks_of(along_x(1, 2, 3), along_x(4), along_x(*range(9)), along_x(2, 3), along_x(5))
    whole = map_of(tracks)
    for n_samples in (1, 2, 5, 100):
        pieces = list(parts(tracks, n_samples))
        assert sum(len(piece) for piece in pieces) == len(tracks)
        assert len({i for piece in pieces for i in set(piece.track_id)}) == 5
        assert sum(len(set(piece.track_id)) for piece in pieces) == 5
        monkeypatch.setattr(track_map, "N_SAMPLES_AT_ONCE", n_samples)
        np.testing.assert_array_equal(map_of(tracks).density().dense(), whole.density().dense())
        np.testing.assert_allclose(map_of(tracks).speed().dense(), whole.speed().dense(), rtol=1e-6)
    assert not list(parts(tracks_of(np.zeros((0, 3))), 3))
