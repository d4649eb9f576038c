"""Tracks for the tests of maps, on a grid of cubes and on an oblique one."""

import numpy as np

from sparse_ulm.acquisition import Geometry, as_rows
from sparse_ulm.classical.smoothing import with_velocity
from sparse_ulm.conventions import refined_position
from sparse_ulm.localisations import Trajectories
from sparse_ulm.mapping.track_map import TrackMap

FACTOR, SHAPE = (8, 8, 8), (40, 48, 56)
FRAME_RATE_HZ = 1000.0
GEOMETRY = Geometry.from_voxel_size(
    (0.1e-3, 0.1e-3, 0.1e-3), (0.0, 0.0, 0.0), frame_rate_hz=FRAME_RATE_HZ, transmit_frequency_hz=15e6,
    sound_speed_m_s=1540.0,
)  # fmt: skip


def oblique():
    """Axes of unequal steps, turned in two planes; depth points against the scanner's z."""
    a, b = np.radians([25.0, 140.0])
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    turn = turn @ np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn @ np.diag([0.10e-3, 0.11e-3, 0.06e-3]), [-3.1e-3, 2.7e-3, 9.4e-3]
    return Geometry(as_rows(affine), FRAME_RATE_HZ, 15e6, 1540.0)


def tracks_of(*paths, velocity=None, geometry=GEOMETRY):
    """Trajectories from lists of positions in voxels; velocities follow unless they are given."""
    track_id = np.concatenate([np.full(len(path), i) for i, path in enumerate(paths)]).astype(np.int64)
    frame = np.concatenate([np.arange(len(path)) for path in paths]).astype(np.float64)
    position = np.concatenate([np.asarray(path, dtype=np.float64) for path in paths])
    blank = np.zeros(position.shape) if velocity is None else np.asarray(velocity, dtype=np.float64)
    tracks = Trajectories(track_id, frame, position, blank, np.ones(len(frame)))
    return with_velocity(tracks, geometry) if velocity is None else tracks


def map_of(tracks, shape=SHAPE, factor=FACTOR, geometry=GEOMETRY):
    grid = TrackMap(shape, factor, geometry)
    grid.add(tracks)
    return grid


def along_x(*sub_voxels):
    """A path through centres of sub-voxels of one row."""
    return refined_position(np.array([[x, 20, 30] for x in sub_voxels]), 8)
