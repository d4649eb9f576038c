"""Regional maxima of every frame of a block, plateaus included.

A regional maximum is a connected set of voxels of one value whose neighbours are all lower: mostly one voxel, but a
plateau where samples were clipped or stored as integers. Connectivity is full: 26 neighbours in 3D, 8 in 2D.
"""

import numpy as np
from jaxtyping import Float32, Int64
from numpy.typing import NDArray

from sparse_ulm.sparse.loops import compiled

FramesFirst = Float32[np.ndarray, "t x y z"]
"""Magnitudes with one frame after the other in memory, because all loops here stay within a frame."""


def regional_maxima(magnitude: FramesFirst, *, threshold: float) -> Int64[np.ndarray, "n txyz=4"]:
    """Find the regional maxima above a threshold, one voxel for each.

    Args:
        magnitude: Magnitudes, C-contiguous. What lies outside a frame counts as lower.
        threshold: Maxima at or below it are left out; 0 or more, so that empty sectors hold none.

    Returns:
        Rows (t, x, y, z), sorted. A plateau is stated by its voxel nearest to its centroid. A frame of one single value
        has no maximum.

    Source: the definition of MATLAB's `imregionalmax`, which PALA uses (reference notes); one voxel per plateau is our
    choice, because each voxel of it would count as a bubble.
    """
    is_peak = np.zeros(magnitude.shape, dtype=np.bool_)
    _mark_maxima(magnitude, np.float32(threshold), is_peak)
    return np.argwhere(is_peak)


@compiled
def _mark_maxima(magnitude, threshold, is_peak):
    """Mark one voxel per regional maximum in every frame."""
    n_frames, n_x, n_y, n_z = magnitude.shape
    members = np.empty((n_x * n_y * n_z, 3), np.int64)
    for t in range(n_frames):
        visited = np.zeros((n_x, n_y, n_z), np.bool_)
        for x in range(n_x):
            for y in range(n_y):
                for z in range(n_z):
                    if not magnitude[t, x, y, z] > threshold or visited[x, y, z]:
                        continue
                    is_highest, has_equal, has_lower = _compare_with_neighbours(magnitude[t], x, y, z)
                    if not is_highest:
                        continue
                    if not has_equal:
                        is_peak[t, x, y, z] = has_lower
                    else:
                        _mark_plateau(magnitude[t], x, y, z, visited, members, is_peak[t])


@compiled
def _compare_with_neighbours(frame, x, y, z):
    """Tell whether no neighbour is higher, and whether some are equal and some lower."""
    has_equal, has_lower = False, False
    for i in range(max(x - 1, 0), min(x + 2, frame.shape[0])):
        for j in range(max(y - 1, 0), min(y + 2, frame.shape[1])):
            for k in range(max(z - 1, 0), min(z + 2, frame.shape[2])):
                if frame[i, j, k] > frame[x, y, z]:
                    return False, has_equal, has_lower
                if frame[i, j, k] < frame[x, y, z]:
                    has_lower = True
                elif i != x or j != y or k != z:
                    has_equal = True
    return True, has_equal, has_lower


@compiled
def _mark_plateau(frame, x, y, z, visited, members, is_peak):
    """Walk over the plateau that holds a voxel and mark one of its voxels if nothing next to it is higher."""
    members[0] = x, y, z
    visited[x, y, z] = True
    n_members, n_done = 1, 0
    is_maximum, has_lower = True, False
    while n_done < n_members:
        x, y, z = members[n_done]
        n_done += 1
        for i in range(max(x - 1, 0), min(x + 2, frame.shape[0])):
            for j in range(max(y - 1, 0), min(y + 2, frame.shape[1])):
                for k in range(max(z - 1, 0), min(z + 2, frame.shape[2])):
                    if frame[i, j, k] > frame[x, y, z]:
                        is_maximum = False
                    elif frame[i, j, k] < frame[x, y, z]:
                        has_lower = True
                    elif not visited[i, j, k]:
                        visited[i, j, k] = True
                        members[n_members] = i, j, k
                        n_members += 1
    if is_maximum and has_lower:
        i, j, k = members[_nearest_to_centroid(members[:n_members])]
        is_peak[i, j, k] = True


@compiled
def _nearest_to_centroid(members):
    """Give the row of the voxel nearest to the mean of all; of equals, the first."""
    n_members = len(members)
    total = members.sum(axis=0)
    best, best_distance = 0, np.inf
    for row in range(n_members):
        distance = 0.0
        for axis in range(3):
            # Times the number of members, so that distances are whole numbers and ties are exact.
            distance += float((members[row, axis] * n_members - total[axis]) ** 2)
        if distance < best_distance:
            best, best_distance = row, distance
    return best


def frames_first(magnitude: NDArray[np.float32]) -> FramesFirst:
    """Copy (x, y, z, t) magnitudes to (t, x, y, z), each frame in one piece of memory."""
    return np.ascontiguousarray(np.moveaxis(magnitude, 3, 0))
