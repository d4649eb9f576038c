"""The Kalman filter, against the textbook's matrices."""

import numpy as np
import pytest
from track_cases import ANISOTROPIC, CUBIC, FRAME_RATE_HZ, table

from sparse_ulm.acquisition import Geometry, as_rows
from sparse_ulm.classical.kalman import KalmanTracks, States, correct, predict
from sparse_ulm.classical.linking import link

DT, ACCELERATION = 0.7, 1.3


def random_states(n=5, seed=0):
    """States with valid covariances."""
    rng = np.random.default_rng(seed)
    x, v, p_xx, p_vv = rng.normal(size=(2, n, 3)).tolist() + rng.uniform(0.5, 2.0, (2, n, 3)).tolist()
    p_xv = rng.uniform(-0.4, 0.4, (n, 3))
    return States(*(np.array(value) for value in (x, v, p_xx, p_xv, p_vv)))


def matrices(states, row, axis):
    """Mean and covariance of one bubble along one axis."""
    pick = {name: getattr(states, name)[row, axis] for name in ("x", "v", "p_xx", "p_xv", "p_vv")}
    return np.array([pick["x"], pick["v"]]), np.array([[pick["p_xx"], pick["p_xv"]], [pick["p_xv"], pick["p_vv"]]])


def test_prediction_and_correction_are_the_textbook_s():
    states = random_states()
    moved = predict(states, interval_s=DT, acceleration_m_s2=ACCELERATION)
    seen, variance = np.random.default_rng(1).normal(size=(5, 3)), np.full((5, 3), 0.3)
    corrected = correct(moved, seen, variance)
    f, g, h = np.array([[1, DT], [0, 1]]), np.array([DT**2 / 2, DT]), np.array([[1.0, 0.0]])
    for row in range(5):
        for axis in range(3):
            mean, covariance = matrices(states, row, axis)
            mean, covariance = f @ mean, f @ covariance @ f.T + ACCELERATION**2 * np.outer(g, g)
            got_mean, got_covariance = matrices(moved, row, axis)
            np.testing.assert_allclose(got_mean, mean)
            np.testing.assert_allclose(got_covariance, covariance)
            gain = covariance @ h.T / (h @ covariance @ h.T + 0.3)
            mean = mean + (gain * (seen[row, axis] - h @ mean)).ravel()
            covariance = (np.eye(2) - gain @ h) @ covariance
            got_mean, got_covariance = matrices(corrected, row, axis)
            np.testing.assert_allclose(got_mean, mean)
            np.testing.assert_allclose(got_covariance, covariance, atol=1e-12)


def test_the_speed_is_learnt():
    tracks = KalmanTracks(max_speed_m_s=0.05, acceleration_m_s2=1.0, geometry=CUBIC)
    velocity = np.array([0.01, -0.02, 0.005])
    unknown = np.full((1, 3), np.nan)
    for frame in range(30):
        at = (velocity * frame / FRAME_RATE_HZ)[None]
        is_new = np.array([frame == 0])
        if frame:
            assert tracks.pair(frame, at, unknown).tolist() == [0]
        tracks.update(frame, np.array([0]), is_new, at, unknown)
    np.testing.assert_allclose(tracks.states.v[0], velocity, rtol=0.02)
    assert np.sqrt(tracks.states.p_vv).max() < 0.05 / 3


def test_a_predicted_place_beats_a_nearer_one():
    """A bubble at 0.4 voxels a frame meets one at rest, nearer to its last place than its own next place."""
    moving = [(t, 1.0 + 0.4 * t, 5.0, 5.0) for t in range(12)]
    resting = [(t, 4.9, 5.15, 5.0) for t in range(12)]
    settings = {"geometry": CUBIC, "max_speed_m_s": 0.05, "max_gap_frames": 0, "min_length": 2}
    tracks = link(table(moving + resting, deviation_voxel=0.05), method="kalman", acceleration_m_s2=1.0, **settings)
    along_x = [tracks.position_voxel[tracks.track_id == i, 0] for i in (0, 1)]
    np.testing.assert_allclose(along_x[0], [row[1] for row in moving])
    np.testing.assert_allclose(along_x[1], 4.9)


def test_deviations_turn_with_the_grid():
    """The grid's x axis is the scanner's y axis here."""
    turned = Geometry(
        as_rows(np.array([[0, -0.2e-3, 0, 0], [0.1e-3, 0, 0, 0], [0, 0, 0.05e-3, 0], [0, 0, 0, 1.0]])),
        500.0,
        8e6,
        1540.0,
    )
    deviation = np.array([[3.0, 0.5, 1.0]])
    for geometry, wanted in ((ANISOTROPIC, [0.3e-3, 0.1e-3, 0.05e-3]), (turned, [0.1e-3, 0.3e-3, 0.05e-3])):
        tracks = KalmanTracks(max_speed_m_s=0.05, acceleration_m_s2=1.0, geometry=geometry)
        tracks.update(0, np.array([0]), np.array([True]), np.zeros((1, 3)), deviation)
        np.testing.assert_allclose(np.sqrt(tracks.states.p_xx[0]), wanted)


@pytest.mark.parametrize("deviation", [np.nan, 0.0])
def test_an_unknown_deviation_is_not_certainty(deviation):
    tracks = KalmanTracks(max_speed_m_s=0.05, acceleration_m_s2=1.0, geometry=CUBIC)
    tracks.update(0, np.array([0]), np.array([True]), np.zeros((1, 3)), np.full((1, 3), deviation))
    assert (tracks.states.p_xx > (0.01 * CUBIC.wavelength_m) ** 2).all()
