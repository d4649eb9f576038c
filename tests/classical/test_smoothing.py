"""Smooth tracks: windows shrink at the ends, gaps are filled, velocities are metres per second of the scanner."""

from dataclasses import replace

import numpy as np
import pytest
from track_cases import ANISOTROPIC, CUBIC, FRAME_RATE_HZ

from sparse_ulm.acquisition import Geometry, as_rows
from sparse_ulm.classical.smoothing import (
    fill_gaps,
    interpolate,
    smooth,
    smooth_along_bends,
    smooth_by_acceleration,
    with_velocity,
)
from sparse_ulm.errors import UserError
from sparse_ulm.localisations import Trajectories


def tracks_of(*paths, frames=None):
    """Trajectories from lists of positions."""
    track_id = np.concatenate([np.full(len(path), i) for i, path in enumerate(paths)]).astype(np.int64)
    frame = np.concatenate(frames or [np.arange(len(path)) for path in paths]).astype(np.float64)
    position = np.concatenate([np.asarray(path, dtype=np.float64) for path in paths])
    return Trajectories(track_id, frame, position, np.full(position.shape, np.nan), frame + 1.0)


def random_paths(*lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [np.cumsum(rng.normal(size=(length, 3)), axis=0) for length in lengths]


@pytest.mark.parametrize("span", [1, 3, 4, 7, 20])
def test_averages_are_those_of_a_loop(span):
    paths = random_paths(1, 2, 9, 30)
    smoothed = smooth(tracks_of(*paths), CUBIC, span=span)
    wanted = []
    for path in paths:
        for i in range(len(path)):
            half = min((span - 1) // 2, i, len(path) - 1 - i)
            wanted.append(path[i - half : i + half + 1].mean(axis=0))
    np.testing.assert_allclose(smoothed.position_voxel, wanted, atol=1e-10)


def test_ends_stay_and_straight_lines_too():
    line = np.arange(11)[:, None] * [0.5, -0.25, 0.0] + [1.0, 9.0, 4.0]
    np.testing.assert_allclose(smooth(tracks_of(line), CUBIC, span=7).position_voxel, line)
    [path] = random_paths(15)
    smoothed = smooth(tracks_of(path), CUBIC, span=7).position_voxel
    np.testing.assert_allclose(smoothed[[0, -1]], path[[0, -1]])
    assert np.abs(smoothed[1:-1] - path[1:-1]).max() > 0.1


def test_velocities_are_those_of_the_way_in_the_scanner_s_directions():
    step = np.array([0.3, 0.1, -0.4])
    line = np.arange(6)[:, None] * step
    wanted = step * ANISOTROPIC.voxel_size_m * FRAME_RATE_HZ
    np.testing.assert_allclose(with_velocity(tracks_of(line), ANISOTROPIC).velocity_m_s, np.tile(wanted, (6, 1)))
    turned = Geometry(
        as_rows(np.array([[0, -0.2e-3, 0, 1], [0.1e-3, 0, 0, 2], [0, 0, 0.05e-3, 3], [0, 0, 0, 1.0]])),
        500.0,
        8e6,
        1540.0,
    )
    wanted = np.array([-0.1 * 0.2e-3, 0.3 * 0.1e-3, -0.4 * 0.05e-3]) * FRAME_RATE_HZ
    np.testing.assert_allclose(with_velocity(tracks_of(line), turned).velocity_m_s[2], wanted)


def test_velocity_does_not_mix_tracks_and_is_unknown_for_one_sample():
    tracks = with_velocity(tracks_of([[0, 0, 0], [1, 0, 0]], [[50, 50, 50]], [[9, 9, 9], [9, 8, 9]]), CUBIC)
    speed = 0.1e-3 * FRAME_RATE_HZ
    np.testing.assert_allclose(tracks.velocity_m_s[[0, 1, 3, 4]], np.array([[1, 0, 0]] * 2 + [[0, -1, 0]] * 2) * speed)
    assert np.isnan(tracks.velocity_m_s[2]).all()


def test_gaps_are_filled_by_a_straight_line():
    tracks = tracks_of([[0, 0, 0], [3, 6, 0], [4, 6, 0]], [[7, 7, 7], [8, 8, 8]], frames=[[2, 5, 6], [0, 1]])
    filled = fill_gaps(tracks)
    np.testing.assert_array_equal(filled.frame, [2, 3, 4, 5, 6, 0, 1])
    np.testing.assert_array_equal(filled.track_id, [0] * 5 + [1] * 2)
    np.testing.assert_allclose(filled.position_voxel[:5], [[0, 0, 0], [1, 2, 0], [2, 4, 0], [3, 6, 0], [4, 6, 0]])
    np.testing.assert_allclose(filled.amplitude[:5], [3, 4, 5, 6, 7])


def test_interpolation_keeps_samples_and_adds_between_them():
    tracks = tracks_of([[0, 0, 0], [2, 0, 0]], [[5, 5, 5]])
    finer = interpolate(tracks, np.array([4, 3, 2]))
    np.testing.assert_allclose(finer.position_voxel[:, 0], [0, 0.5, 1, 1.5, 2, 5])
    np.testing.assert_allclose(finer.frame, [0, 0.25, 0.5, 0.75, 1, 0])


def test_the_likeliest_path_is_that_of_the_normal_equations():
    """Two tracks, one with a gap: every track by its own dense least squares."""
    acceleration, paths, frames = 2.0, random_paths(7, 5, seed=3), [[0, 1, 2, 5, 6, 7, 8], [3, 4, 5, 6, 7]]
    tracks = tracks_of(*paths, frames=frames)
    deviation_m = np.random.default_rng(4).uniform(1e-5, 5e-5, (12, 3))
    smoothed = smooth_by_acceleration(tracks, deviation_m, ANISOTROPIC, acceleration_m_s2=acceleration)
    step = np.asarray(ANISOTROPIC.voxel_size_m)
    for number, (path, seen) in enumerate(zip(paths, frames, strict=True)):
        n, first = seen[-1] - seen[0] + 1, 0 if number == 0 else 7
        bend = np.diff(np.eye(n), 2, axis=0) * FRAME_RATE_HZ**2 / acceleration
        for axis in range(3):
            weigh = np.eye(n)[np.array(seen) - seen[0]] / deviation_m[first : first + len(seen), axis, None]
            target = np.r_[path[:, axis] * step[axis] / deviation_m[first : first + len(seen), axis], np.zeros(n - 2)]
            wanted = np.linalg.lstsq(np.vstack([weigh, bend]), target, rcond=None)[0] / step[axis]
            np.testing.assert_allclose(smoothed.position_voxel[smoothed.track_id == number, axis], wanted, atol=1e-7)
    np.testing.assert_array_equal(smoothed.frame, [*range(9), *range(3, 8)])


def test_noise_is_smoothed_and_straight_lines_stay():
    rng = np.random.default_rng(5)
    line = np.arange(60)[:, None] * [0.1, -0.05, 0.02] + [1.0, 9.0, 4.0]
    deviation_m = np.full((60, 3), 0.02e-3)
    kept = smooth_by_acceleration(tracks_of(line), deviation_m, CUBIC, acceleration_m_s2=1.0)
    np.testing.assert_allclose(kept.position_voxel, line, atol=1e-6)
    noisy = line + rng.normal(0, 0.2, line.shape)
    smoothed = smooth_by_acceleration(tracks_of(noisy), deviation_m, CUBIC, acceleration_m_s2=1.0)
    assert np.std(smoothed.position_voxel - line) < 0.5 * 0.2


def test_every_track_may_have_an_acceleration_of_its_own():
    paths, deviation_m = random_paths(9, 6, seed=5), np.full((15, 3), 2e-5)
    both = smooth_by_acceleration(tracks_of(*paths), deviation_m, CUBIC, acceleration_m_s2=np.array([0.5, 40.0]))
    for number, acceleration in enumerate((0.5, 40.0)):
        path = paths[number]
        alone = smooth_by_acceleration(tracks_of(path), deviation_m[: len(path)], CUBIC, acceleration_m_s2=acceleration)
        np.testing.assert_allclose(both.position_voxel[both.track_id == number], alone.position_voxel, atol=1e-9)


def test_slow_bubbles_lose_their_noise_and_fast_ones_keep_their_bends():
    """One call: 0.5 mm/s straight on under noise of twice the way per frame, and 20 mm/s on a circle of 0.2 mm."""
    rng, n, noise_voxel = np.random.default_rng(8), 60, 0.02
    slow = np.arange(n)[:, None] * [0.5e-3 / FRAME_RATE_HZ / 0.1e-3, 0.0, 0.0]
    angle = np.arange(n) * (20e-3 / FRAME_RATE_HZ / 0.2e-3)
    fast = 2.0 * np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    tracks = tracks_of(*(path + rng.normal(0, noise_voxel, path.shape) for path in (slow, fast)))
    deviation_m = np.full((2 * n, 3), noise_voxel * 0.1e-3)
    found = smooth_along_bends(tracks, deviation_m, CUBIC, bend_radius_m=1e-4)
    speed = np.linalg.norm(found.velocity_m_s, axis=1)
    assert speed[found.track_id == 0].mean() == pytest.approx(0.5e-3, rel=0.1)
    assert speed[found.track_id == 1].mean() == pytest.approx(20e-3, rel=0.03)
    radius = np.linalg.norm(found.position_voxel[found.track_id == 1], axis=1)
    assert radius == pytest.approx(np.full(n, 2.0), abs=0.05)
    # One acceleration for both does worse on one of them.
    stiff, loose = (
        smooth_by_acceleration(tracks, deviation_m, CUBIC, acceleration_m_s2=a).velocity_m_s for a in (0.05, 4.0)
    )
    assert np.linalg.norm(loose[:n], axis=1).mean() > 1.5 * 0.5e-3
    assert np.linalg.norm(stiff[n:], axis=1).mean() < 0.9 * 20e-3


def test_a_track_without_a_sure_position_has_a_path():
    tracks = tracks_of(*random_paths(40, seed=9))
    found = smooth_along_bends(tracks, np.full((40, 3), 1e3), CUBIC, bend_radius_m=1e-4)
    assert np.isfinite(found.position_voxel).all()


def test_nothing_stays_nothing():
    none = tracks_of(np.zeros((0, 3)))
    assert len(smooth(fill_gaps(none), CUBIC, span=5)) == 0
    assert len(smooth_by_acceleration(none, np.zeros((0, 3)), CUBIC, acceleration_m_s2=1.0)) == 0
    assert len(smooth_along_bends(none, np.zeros((0, 3)), CUBIC, bend_radius_m=1e-4)) == 0


def test_a_span_below_one_is_refused():
    with pytest.raises(UserError, match="span is 0"):
        smooth(tracks_of([[0, 0, 0]]), CUBIC, span=0)
    with pytest.raises(UserError, match=r"bend_radius_m is -1.0; wanted a positive length"):
        smooth_along_bends(tracks_of([[0, 0, 0]]), np.ones((1, 3)), CUBIC, bend_radius_m=-1.0)


def test_deviations_are_those_of_the_localisations_and_unknown_in_gaps():
    tracks = tracks_of(*random_paths(2, 3), frames=[np.array([0, 3]), np.array([5, 6, 8])])
    assert np.isnan(tracks.deviation_voxel).all()
    known = replace(tracks, deviation_voxel=np.arange(15.0).reshape(5, 3) + 1)
    gap = [np.nan] * 3
    wanted = [[1, 2, 3], gap, gap, [4, 5, 6], [7, 8, 9], [10, 11, 12], gap, [13, 14, 15]]
    np.testing.assert_array_equal(fill_gaps(known).deviation_voxel, wanted)
    np.testing.assert_array_equal(smooth(fill_gaps(known), CUBIC, span=3).deviation_voxel, wanted)
    smoothed = smooth_by_acceleration(known, np.full((5, 3), 1e-5), CUBIC, acceleration_m_s2=1.0)
    np.testing.assert_array_equal(smoothed.deviation_voxel, wanted)
