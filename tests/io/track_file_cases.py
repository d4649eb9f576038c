"""Tracks and grids for the tests of files of tracks."""

import numpy as np

from sparse_ulm.acquisition import Geometry, as_rows
from sparse_ulm.localisations import Trajectories

SHAPE = (11, 12, 13)


def geometry_of(matrix_m, origin_m):
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = matrix_m, origin_m
    return Geometry(as_rows(affine), 500.0, 8.0e6, 1540.0)


def rotation(a_deg, b_deg):
    a, b = np.radians([a_deg, b_deg])
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    return turn @ np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])


STEPS = np.diag([0.10e-3, 0.11e-3, 0.06e-3])
GEOMETRIES = {
    "aligned": geometry_of(STEPS, [-1.0e-3, 2.0e-3, 5.0e-3]),
    "oblique": geometry_of(rotation(25, -40) @ STEPS, [-3.1e-3, 2.7e-3, 9.4e-3]),
    "flipped": geometry_of(rotation(-70, 15) @ STEPS @ np.diag([-1, 1, -1]), [3.1e-3, -2.7e-3, 80.4e-3]),
    "left-handed": geometry_of(rotation(100, 130) @ STEPS @ np.diag([1, -1, 1]), [0.0, 2.5e-3, -9.4e-3]),
    "swapped": geometry_of(np.array([[0, -0.2e-3, 0], [0, 0, 0.05e-3], [0.1e-3, 0, 0]]), [1e-3, 2e-3, 3e-3]),
}


def some_tracks(*lengths, seed=0):
    """Random tracks of unequal lengths, with fractions of frames and some numbers unknown."""
    rng = np.random.default_rng(seed)
    n = sum(lengths)
    numbers = np.cumsum(rng.integers(1, 4, len(lengths)))
    frame = np.concatenate(
        [rng.integers(0, 9) + np.cumsum(rng.choice([0.5, 1.0], k)) for k in lengths] or [np.zeros(0)]
    )
    velocity, amplitude, deviation = rng.normal(0, 5e-3, (n, 3)), rng.uniform(1, 1e4, n), rng.uniform(0.01, 1, (n, 3))
    velocity[rng.random(n) < 0.2] = np.nan
    amplitude[rng.random(n) < 0.2] = np.nan
    deviation[rng.random(n) < 0.2] = np.nan
    position = rng.uniform(0, np.array(SHAPE) - 1, (n, 3))
    return Trajectories(
        np.repeat(numbers, np.asarray(lengths, dtype=np.int64)), frame, position, velocity, amplitude, deviation
    )
