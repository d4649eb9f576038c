"""Which voxels of a map tracks pass, how long they stay in each, and how fast they are there."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from sparse_ulm.classical.smoothing import interpolate
from sparse_ulm.conventions import refined_index
from sparse_ulm.localisations import Trajectories

SAMPLE_STEP = 0.5
"""Longest distance between the samples that say which voxels a track visits, in sub-voxels, as for the true map
(`truth_map`): a voxel of which a track cuts a mere corner need not be visited."""

WEIGHT_OF_A_VISIT_FRAMES = 1.0e-9
"""A visit without duration (a track of one sample) counts with its own velocity, one with duration as if it did not."""


@dataclass(frozen=True)
class Pieces:
    """Parts of tracks, each inside one voxel, one row each.

    Attributes:
        track_id: Whose part.
        index: (x, y, z) of the voxel on the map; outside of it where it is negative or too large.
        duration_frames: How long the track stays; `WEIGHT_OF_A_VISIT_FRAMES` for a sample.
        velocity_m_s: In the middle of the part; NaN where not known.
        is_visit: True for samples: only voxels that hold one are visited.
    """

    track_id: Int[np.ndarray, " n"]
    index: Int[np.ndarray, "n xyz=3"]
    duration_frames: Float[np.ndarray, " n"]
    velocity_m_s: Float[np.ndarray, "n 3"]
    is_visit: Bool[np.ndarray, " n"]


def cut(trajectories: Trajectories, factor: tuple[int, int, int]) -> Pieces:
    """Cut tracks at the faces of the map's voxels, and add the samples that say which voxels are visited.

    Between its samples a track is straight, and its velocity changes evenly with time.

    Args:
        trajectories: Sorted by track and then by time.
        factor: Refinement of the map over the recording, per axis.
    """
    start = np.flatnonzero(trajectories.track_id[1:] == trajectories.track_id[:-1])
    # Sub-voxel units with faces at whole numbers, so that floor gives the voxel (conventions.refined_index).
    corner = (trajectories.position_voxel + 0.5) * np.asarray(factor)
    origin, move = corner[start], corner[start + 1] - corner[start]
    row, begin, end = _cuts(origin, move)
    middle = 0.5 * (begin + end)[:, None]
    velocity = trajectories.velocity_m_s[start]
    change = trajectories.velocity_m_s[start + 1] - velocity
    duration = trajectories.frame[start + 1] - trajectories.frame[start]
    visit = interpolate(trajectories, _steps(corner))
    n_pieces, n_visits = len(row), len(visit)
    return Pieces(
        np.r_[trajectories.track_id[start][row], visit.track_id],
        np.vstack(
            [np.floor(origin[row] + middle * move[row]).astype(np.int64), refined_index(visit.position_voxel, factor)]
        ),
        np.r_[duration[row] * (end - begin), np.full(n_visits, WEIGHT_OF_A_VISIT_FRAMES)],
        np.vstack([velocity[row] + middle * change[row], visit.velocity_m_s]),
        np.arange(n_pieces + n_visits) >= n_pieces,
    )


def parts(trajectories: Trajectories, n_samples: int) -> Iterator[Trajectories]:
    """Split tracks into parts of about `n_samples` samples, every track whole, so that memory is bounded."""
    starts = np.flatnonzero(np.r_[True, np.diff(trajectories.track_id) != 0][: len(trajectories)])
    wanted = np.arange(n_samples, len(trajectories), n_samples)
    stops = starts[np.searchsorted(starts, wanted, side="right") - 1] if len(starts) else wanted
    edges = np.unique(np.r_[0, stops, len(trajectories)])
    for first, last in pairwise(edges.tolist()):
        yield Trajectories(*(getattr(trajectories, column.name)[first:last] for column in fields(trajectories)))


def _cuts(
    origin: NDArray[np.float64], move: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Cut straight ways where a coordinate is whole: the way of each piece, and the shares of it at which it lies."""
    rows, shares = [np.arange(len(origin))], [np.zeros(len(origin))]
    for axis in range(3):
        low, high = np.minimum(0, move[:, axis]) + origin[:, axis], np.maximum(0, move[:, axis]) + origin[:, axis]
        first = np.floor(low) + 1
        n_faces = np.maximum(0, np.ceil(high) - first).astype(np.int64)
        row = np.repeat(np.arange(len(origin)), n_faces)
        face = first[row] + np.arange(len(row)) - np.repeat(np.cumsum(n_faces) - n_faces, n_faces)
        rows.append(row)
        shares.append(np.clip((face - origin[row, axis]) / move[row, axis], 0.0, 1.0))
    row, begin = np.concatenate(rows), np.concatenate(shares)
    order = np.lexsort((begin, row))
    row, begin = row[order], begin[order]
    is_last = np.r_[row[1:] != row[:-1], True][: len(row)]
    return row, begin, np.where(is_last, 1.0, np.r_[begin[1:], 1.0][: len(row)])


def _steps(corner: Float[np.ndarray, "n xyz=3"]) -> Int[np.ndarray, " n"]:
    """Count the steps from each sample to the next that keep visits `SAMPLE_STEP` apart."""
    move = np.diff(corner, axis=0, append=corner[-1:])
    return np.maximum(np.ceil(np.linalg.norm(move, axis=1) / SAMPLE_STEP), 1).astype(np.int64)
