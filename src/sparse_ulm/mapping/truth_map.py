"""The true super-resolved map of simulated bubbles: targets for training, reference for scores.

A bubble is imaged once a frame but moves between frames. Its trajectory is the chain of straight segments between its
positions in consecutive frames, so that the true map is connected however fast it flows (our choice; a map of the
frame positions alone has holes once a bubble moves more than a sub-voxel per frame).

Every point of a segment belongs to the frame nearest in time: the half before the midpoint to the earlier frame, the
rest to the later one. Maps of consecutive blocks therefore add up to the map of the whole recording, with no hole at
the seam. Where a bubble is missing for a frame (it left the field of view, or its track ended) nothing is joined.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

SAMPLE_STEP = 0.5
"""Longest distance between samples of a path, in sub-voxels: each sample then lies in a voxel that touches the last."""


@dataclass(frozen=True)
class _Path:
    """Samples of all trajectories: the voxel of the refined grid, and the frame nearest in time."""

    voxel: NDArray[np.int64]
    frame: NDArray[np.int64]


def trajectory_voxels(
    truth_position_voxel: Float[np.ndarray, "n xyz=3"],
    track_id: Int[np.ndarray, " n"],
    frame: Int[np.ndarray, " n"],
    *,
    factor: tuple[int, int, int],
    shape: tuple[int, int, int],
    start: int | None = None,
    stop: int | None = None,
) -> Int[np.ndarray, "m xyz=3"]:
    """List the voxels of the refined grid that bubbles pass through.

    Args:
        truth_position_voxel: Positions in voxels of the recording's grid, from the centre of its first voxel; rows in
            any order. Bubbles may be outside the grid: what lies outside is clipped.
        track_id: Bubble of each row; negative where it is not known, which leaves its positions unjoined.
        frame: Frame of each row.
        factor: Refinement per axis, (8, 8, 8) in 3D and (8, 1, 8) in 2D; (1, 1, 1) for positions that are already in
            voxels of the map.
        shape: (x, y, z) of the refined grid.
        start: First frame that counts; None for the first there is.
        stop: One past the last frame that counts; None for all.

    Returns:
        Unique indices, sorted by (x, y, z).

    Raises:
        ValueError: If a position is not finite.
    """
    path = _paths(truth_position_voxel, track_id, frame, factor=factor, shape=shape, start=start, stop=stop)
    return _unique_rows(path.voxel, shape)


def trajectory_sites(
    truth_position_voxel: Float[np.ndarray, "n xyz=3"],
    track_id: Int[np.ndarray, " n"],
    frame: Int[np.ndarray, " n"],
    *,
    factor: tuple[int, int, int],
    shape: tuple[int, int, int],
    stride: tuple[int, int, int],
    block_start: int,
    temporal_stride: int,
    n_slots: int,
    block_stop: int | None = None,
) -> Int[np.ndarray, "m xyzs=4"]:
    """List the sites (x, y, z, slot) that bubbles pass through, at the strides of one head of the network.

    The slot is (frame - block_start) // temporal_stride, with the temporal stride that the head really has. Rauby et
    al.'s released code builds the targets of its intermediate heads with a stride of 64 where their features have 128,
    so that every second slot can never be matched.

    Args:
        truth_position_voxel: As in `trajectory_voxels`.
        track_id: Bubble of each row; negative where it is not known.
        frame: Frame of each row.
        factor: Refinement of the finest grid per axis.
        shape: (x, y, z) of the finest grid.
        stride: Sub-voxels of the finest grid per voxel of the head, per axis: coarse = floor(fine / stride).
        block_start: Frame at which slot 0 starts.
        temporal_stride: Frames per slot at this head.
        n_slots: Slots of the block; frames behind the last slot do not count.
        block_stop: One past the last frame of the block, where the block ends inside its last slot.

    Returns:
        Unique sites, divided by the strides, sorted by (x, y, z, slot).

    Raises:
        ValueError: If a position is not finite, or a stride or `n_slots` is below 1.
    """
    if min(*stride, temporal_stride, n_slots) < 1:
        raise ValueError(
            f"stride {stride}, temporal_stride {temporal_stride} and n_slots {n_slots} must all be at least 1."
        )
    slots_stop = block_start + temporal_stride * n_slots
    stop = slots_stop if block_stop is None else min(block_stop, slots_stop)
    path = _paths(truth_position_voxel, track_id, frame, factor=factor, shape=shape, start=block_start, stop=stop)
    slot = (path.frame - block_start) // temporal_stride
    coarse_shape = tuple(-(-size // step) for size, step in zip(shape, stride, strict=True))
    return _unique_rows(np.column_stack([path.voxel // np.asarray(stride), slot]), (*coarse_shape, n_slots))


def _paths(
    position_voxel: NDArray[np.floating],
    track_id: NDArray[np.integer],
    frame: NDArray[np.integer],
    *,
    factor: tuple[int, int, int],
    shape: tuple[int, int, int],
    start: int | None,
    stop: int | None,
) -> _Path:
    """Sample all trajectories finely and keep the samples inside the grid and the frames."""
    near = _between(frame, None if start is None else start - 1, None if stop is None else stop + 1)
    order = np.flatnonzero(near)
    order = order[np.lexsort((frame[order], track_id[order]))]
    # Sub-voxel units with corners at whole numbers, so that floor gives the voxel (conventions.refined_index).
    corner = (np.asarray(position_voxel[order], dtype=np.float64) + 0.5) * np.asarray(factor)
    if not np.isfinite(corner).all():
        raise ValueError("a true position is NaN or infinite; drop bubbles that are not there.")
    point, when = _sample(corner, track_id[order].astype(np.int64), frame[order].astype(np.int64))
    inside = ((point >= 0) & (point < np.asarray(shape))).all(axis=1) & _between(when, start, stop)
    return _Path(np.floor(point[inside]).astype(np.int64), when[inside])


def _sample(
    corner: NDArray[np.float64], track_id: NDArray[np.int64], frame: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Cut each row's segment to the next frame into equal steps of at most `SAMPLE_STEP`; no successor, one sample.

    The end of a segment is the first sample of the next row, so it is left out here.
    """
    move = np.zeros_like(corner)
    joined = (track_id[1:] == track_id[:-1]) & (track_id[1:] >= 0) & (frame[1:] == frame[:-1] + 1)
    move[:-1][joined] = (corner[1:] - corner[:-1])[joined]
    n_samples = np.maximum(1, np.ceil(np.linalg.norm(move, axis=1) / SAMPLE_STEP).astype(np.int64))
    row = np.repeat(np.arange(len(corner)), n_samples)
    first = np.cumsum(n_samples) - n_samples
    fraction = (np.arange(len(row)) - first[row]) / n_samples[row]
    return corner[row] + fraction[:, None] * move[row], frame[row] + (fraction >= 0.5)


def _between(frame: NDArray[np.integer], start: int | None, stop: int | None) -> NDArray[np.bool_]:
    """Tell which frames lie in start ... stop - 1, where None is no bound."""
    keep = np.ones(len(frame), dtype=bool)
    if start is not None:
        keep &= frame >= start
    if stop is not None:
        keep &= frame < stop
    return keep


def _unique_rows(index: NDArray[np.int64], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Sort rows lexicographically and drop repeats, by way of their linear index."""
    key = np.unique(np.ravel_multi_index(tuple(index.T), shape))
    return np.stack(np.unravel_index(key, shape), axis=1).astype(np.int64)
