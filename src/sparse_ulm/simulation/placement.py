"""Copies of a vessel tree, turned at random, that fill a box; and where their vessels enter it."""

from dataclasses import dataclass
from typing import no_type_check

import numpy as np
from jaxtyping import Bool, Float
from numba import njit
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from sparse_ulm.simulation.flow import FlowField

SPACING = 0.85
"""Lattice step over the mean width of the tree."""

JITTER = 0.25
"""Greatest shift of a copy off the lattice, in steps, along each axis."""


@dataclass(frozen=True)
class Box:
    """An axis-aligned box.

    Attributes:
        low_m: (3,) least corner, in metres.
        high_m: (3,) greatest corner.
    """

    low_m: Float[np.ndarray, " 3"]
    high_m: Float[np.ndarray, " 3"]

    def contains(self, position_m: Float[np.ndarray, "n 3"]) -> Bool[np.ndarray, " n"]:
        """Tell which positions lie inside."""
        inside: NDArray[np.bool_] = (position_m >= self.low_m) & (position_m <= self.high_m)
        return np.logical_and.reduce(inside, axis=1)

    def grown(self, margin_m: Float[np.ndarray, " 3"]) -> "Box":
        """The box with a margin on either side, per axis."""
        return Box(self.low_m - margin_m, self.high_m + margin_m)

    @property
    def volume_m3(self) -> float:
        """Volume in cubic metres."""
        return float(np.prod(self.high_m - self.low_m))


@dataclass(frozen=True)
class Placement:
    """Where each copy of a tree lies: scanner position = matrix @ (tree position - centre) + offset.

    Attributes:
        matrix: (copies, 3, 3) rotations, some with a mirror.
        offset_m: (copies, 3) where the tree's centre comes to lie.
        centre_m: (3,) middle of the tree's bounding box.
    """

    matrix: Float[np.ndarray, "copies 3 3"]
    offset_m: Float[np.ndarray, "copies 3"]
    centre_m: Float[np.ndarray, " 3"]

    def to_scanner_m(self, copy: int, position_m: Float[np.ndarray, "n 3"]) -> NDArray[np.float64]:
        """Move (n, 3) positions from the tree's axes to the scanner's."""
        return (position_m - self.centre_m) @ self.matrix[copy].T + self.offset_m[copy]


def fill_box(field: FlowField, box: Box, rng: np.random.Generator, *, turn: bool = True) -> Placement:
    """Fill a box with randomly turned, mirrored and shifted copies of a tree, on a jittered lattice.

    A tree larger than the box is cropped to a random part; a smaller one is repeated. Neighbours overlap a
    little, as turned cubes leave gaps, but are not joined: bubbles end at the rim of a copy as they do at a leaf.

    Args:
        field: The tree with its flow.
        box: What to fill.
        rng: Source of all randomness.
        turn: False keeps one copy in its own axes, for tests.
    """
    low, high = field.positions_m.min(axis=0), field.positions_m.max(axis=0)
    centre = 0.5 * (low + high)
    if not turn:
        return Placement(np.eye(3)[None], centre[None], centre)
    width = SPACING * float(np.cbrt(np.prod(np.maximum(high - low, 0.05 * np.max(high - low)))))
    first = box.low_m - rng.uniform(0.0, 1.0, size=3) * width
    counts = np.ceil((box.high_m - first) / width).astype(int) + 1
    lattice = np.stack(np.meshgrid(*(np.arange(n) for n in counts), indexing="ij"), axis=-1).reshape(-1, 3)
    offset = first + (lattice + rng.uniform(-JITTER, JITTER, size=lattice.shape)) * width
    matrix = Rotation.from_quat(rng.normal(size=(len(offset), 4))).as_matrix()
    matrix[:, 0] *= rng.choice([-1.0, 1.0], size=(len(offset), 1))
    reach = 0.5 * float(np.linalg.norm(high - low))
    nearest = np.clip(offset, box.low_m, box.high_m)
    near = np.linalg.norm(nearest - offset, axis=1) < reach
    return Placement(np.ascontiguousarray(matrix[near]), offset[near], centre)


@dataclass(frozen=True)
class Inlets:
    """Segments through whose wall crossing blood enters a box, and roots inside it.

    Attributes:
        copy: Which copy of the tree.
        segment: Which segment of it.
        share: How far along the segment the crossing lies.
        flux: Relative flux there.
    """

    copy: NDArray[np.int64]
    segment: NDArray[np.int64]
    share: NDArray[np.float64]
    flux: NDArray[np.float64]


def find_inlets(field: FlowField, placement: Placement, box: Box) -> Inlets:
    """Find every segment that runs from outside of the box to inside, and the first segments of roots inside."""
    local_m = field.positions_m - placement.centre_m
    copies, segments, shares = _crossings(
        placement.matrix, placement.offset_m, local_m, field.parent, box.low_m, box.high_m
    )
    return Inlets(copies, segments, shares, field.flux[segments])


@njit(cache=True)
@no_type_check
def _crossings(matrix, offset, local, parent, low, high):
    """Copy, segment and share along it of each crossing into the box."""
    copies, segments, shares = [0][:0], [0][:0], [0.0][:0]
    n = len(local)
    placed = np.empty((n, 3))
    inside = np.empty(n, dtype=np.bool_)
    for copy in range(len(matrix)):
        m = matrix[copy]
        for i in range(n):
            inside[i] = True
            for a in range(3):
                at = m[a, 0] * local[i, 0] + m[a, 1] * local[i, 1] + m[a, 2] * local[i, 2] + offset[copy, a]
                placed[i, a] = at
                inside[i] &= low[a] <= at <= high[a]
        for i in range(n):
            up = parent[i]
            if not inside[i] or up < 0 or (inside[up] and parent[up] >= 0):
                continue
            copies.append(copy)
            segments.append(i)
            shares.append(0.0 if inside[up] else _entry(placed[up], placed[i], low, high))
    return np.array(copies), np.array(segments), np.array(shares)


@njit(cache=True)
@no_type_check
def _entry(start, end, low, high):
    """Share along a segment, from outside to inside, at which it enters the box."""
    share = 0.0
    for a in range(3):
        way = end[a] - start[a]
        if start[a] < low[a]:
            share = max(share, (low[a] - start[a]) / way)
        elif start[a] > high[a]:
            share = max(share, (high[a] - start[a]) / way)
    return min(share, 1.0)
