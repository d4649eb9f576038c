"""Motion of tissue over a recording, and bubbles and voxels brought back to where they were in its reference."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from sparse_ulm.acquisition import Geometry
from sparse_ulm.conventions import METRES_PER_MM, PositionsVoxel, refined_index, refined_position
from sparse_ulm.errors import UserError
from sparse_ulm.io.atomic import atomic_path
from sparse_ulm.localisations import Localisations

KINDS = ("none", "rigid", "non_rigid")

N_INVERSIONS = 6
"""Fixed-point steps from where a bubble is to where it belongs: each leaves a share as large as the strain, so that
six of a strain of 5 % leave a nanometre of any motion."""

N_FRAMES_AT_ONCE = 256
"""Frames whose fields are looked at together: bounds memory."""

COLUMNS = ("frame", "time_s", "x_mm", "y_mm", "z_mm", "largest_mm", "rejected")


@dataclass(frozen=True)
class MotionSettings:
    """How motion is estimated, and which frames are too far.

    Attributes:
        kind: "none", "rigid" (along x and z alone in 2D) or "non_rigid".
        window_frames: Frames that are averaged, about.
        limit_m: Frames in which any place of the grid is farther from the reference, or moves farther within its
            window, are rejected; None for no limit.
    """

    kind: str = "none"
    window_frames: int = 32
    limit_m: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            UserError: If the kind is unknown, or a number out of its range.
        """
        if self.kind not in KINDS:
            raise UserError(f"motion is {self.kind!r}; wanted one of {', '.join(KINDS)}. Correct it.")
        if isinstance(self.window_frames, bool) or not isinstance(self.window_frames, int) or self.window_frames < 1:
            raise UserError(
                f"motion_window_frames is {self.window_frames!r}; wanted a whole number from 1 on. Correct it."
            )
        if self.limit_m is not None and not self.limit_m > 0.0:
            raise UserError(
                f"motion_limit_mm is {self.limit_m / METRES_PER_MM:g}; wanted a positive length, or null for none. "
                "Correct it."
            )

    @classmethod
    def of(cls, settings: Mapping[str, Any] | None) -> "MotionSettings":
        """Take a config's keys kind, window_frames and limit_mm; None leaves what is.

        Raises:
            UserError: If one is impossible.
        """
        given = {key: value for key, value in (settings or {}).items() if value is not None}
        limit_mm = given.pop("limit_mm", None)
        if limit_mm is not None and (isinstance(limit_mm, bool) or not isinstance(limit_mm, int | float)):
            raise UserError(f"motion_limit_mm is {limit_mm!r}; wanted a number of millimetres, or null. Correct it.")
        return cls(**given, limit_m=None if limit_mm is None else limit_mm * METRES_PER_MM)

    @property
    def is_off(self) -> bool:
        """True where nothing is estimated."""
        return self.kind == "none"


@dataclass(frozen=True)
class Motion:
    """Where tissue is in each frame, seen from where it is in the reference.

    The displacement of a material point follows its place in the reference; it is held at nodes of a lattice in the
    windows that could be registered. Between nodes it is trilinear, which is exact for a rigid motion. Between the
    windows' centres it is a cubic spline (not-a-knot): straight lines would cut the turning points of breath and pulse,
    and a natural spline, straight at its ends, misses more in the first and last half window.

    Attributes:
        geometry: Of the recording.
        nodes_voxel: Places of the nodes along x, y and z, in voxels, in order; one node for an axis of one voxel.
        centre_frame: Centres of the windows, in frames, in order of time; at least two.
        displacement_voxel: Place of a node's material in that window minus its place in the reference, in voxels.
        rejected: Frames that are left out.
        reference_frames: First frame of the reference's window, and one past its last.
    """

    geometry: Geometry
    nodes_voxel: tuple[Float[np.ndarray, " gx"], Float[np.ndarray, " gy"], Float[np.ndarray, " gz"]]
    centre_frame: Float[np.ndarray, " windows"]
    displacement_voxel: Float[np.ndarray, "windows gx gy gz 3"]
    rejected: Bool[np.ndarray, " frames"]
    reference_frames: tuple[int, int]

    @cached_property
    def _spline(self) -> CubicSpline:
        return CubicSpline(self.centre_frame, self.displacement_voxel, bc_type="not-a-knot", extrapolate=True)

    def field_voxel(self, frame: Float[np.ndarray, " n"] | Int[np.ndarray, " n"]) -> Float[np.ndarray, "n gx gy gz 3"]:
        """Give the displacement of the nodes in some frames, in voxels; frames may be fractions."""
        return np.asarray(self._spline(np.asarray(frame, dtype=float)))

    def displacement_m(self) -> Float[np.ndarray, "frames 3"]:
        """Give the mean displacement over the grid in each frame, along the scanner's axes, in metres."""
        return np.concatenate([field.mean(axis=(1, 2, 3)) for field in self._fields_m()])

    def largest_m(self) -> Float[np.ndarray, " frames"]:
        """Give the largest displacement of any node in each frame, in metres."""
        return np.concatenate([np.linalg.norm(f, axis=4).max(axis=(1, 2, 3)) for f in self._fields_m()])

    def _fields_m(self) -> list[NDArray[np.float64]]:
        """Fields of all frames along the scanner's axes, some at a time."""
        axes = self.geometry.matrix_m[:3, :3]
        frames = np.arange(len(self.rejected))
        parts = np.split(frames, range(N_FRAMES_AT_ONCE, len(frames), N_FRAMES_AT_ONCE))
        return [self.field_voxel(part) @ axes.T for part in parts]

    def to_reference(
        self, positions_m: Float[np.ndarray, "n 3"], frames: Int[np.ndarray, " n"]
    ) -> Float[np.ndarray, "n 3"]:
        """Move scanner positions, each of its frame, to where their material is in the reference.

        Args:
            positions_m: Along the scanner's axes, in metres.
            frames: Frame of each.
        """
        position_voxel = self.geometry.to_voxel(positions_m)
        return self.geometry.to_scanner_m(self._moved(position_voxel, frames))

    def bubbles(self, found: Localisations) -> Localisations:
        """Move bubbles to the reference and leave out those of rejected frames."""
        kept = np.flatnonzero(~self.rejected[found.frame])
        frame = found.frame[kept]
        position_voxel = self._moved(found.position_voxel[kept], frame)
        return Localisations(frame, position_voxel, found.amplitude[kept], found.deviation_voxel[kept])

    def voxels(
        self, index: Int[np.ndarray, "n 3"], factor: tuple[int, int, int], frames: tuple[int, int]
    ) -> Int[np.ndarray, "n 3"] | None:
        """Move voxels of the refined map of a block by the mean displacement over its frames, to the nearest voxel.

        Such a map knows where bubbles were in the block but not when, so that motion within it stays in the map.

        Args:
            index: Voxels of the refined grid.
            factor: Refinement per axis.
            frames: The block's first frame, and one past its last.

        Returns:
            As many voxels, some perhaps outside of the grid; None where half of the frames or more are rejected.
        """
        block = np.arange(*frames)
        kept = block[~self.rejected[block]]
        if 2 * len(kept) <= len(block):
            return None
        parts = np.split(kept, range(N_FRAMES_AT_ONCE, len(kept), N_FRAMES_AT_ONCE))
        field = np.sum([self.field_voxel(part).sum(axis=0) for part in parts], axis=0) / len(kept)
        return refined_index(self._inverse(refined_position(index, factor), field), factor)

    def _moved(self, position_voxel: PositionsVoxel, frame: Int[np.ndarray, " n"]) -> PositionsVoxel:
        """Move positions frame by frame."""
        moved = np.asarray(position_voxel, dtype=float).copy()
        order = np.argsort(frame, kind="stable")
        every, first = np.unique(frame[order], return_index=True)
        for one, rows in zip(every, np.split(order, first)[1:], strict=True):
            moved[rows] = self._inverse(moved[rows], self.field_voxel(np.array([one]))[0])
        return moved

    def _inverse(self, position_voxel: PositionsVoxel, field: NDArray[np.float64]) -> PositionsVoxel:
        """Find the places in the reference whose displaced places are these."""
        place = np.asarray(position_voxel, dtype=float)
        for _ in range(N_INVERSIONS):
            place = position_voxel - between_nodes(self.nodes_voxel, field, place)
        return place

    def summary(self) -> dict[str, Any]:
        """Describe it for `provenance.json`."""
        return {
            "reference_frames": list(self.reference_frames),
            "n_rejected_frames": int(self.rejected.sum()),
            "largest_displacement_mm": float(self.largest_m().max() / METRES_PER_MM),
        }

    def write(self, path: str | Path) -> None:
        """Write `NAME_motion.csv`, one row per frame: mean displacement, the largest of any place, and if rejected.

        Raises:
            UserError: If the file cannot be written.
        """
        frame = np.arange(len(self.rejected))
        mean_mm, largest_mm = self.displacement_m() / METRES_PER_MM, self.largest_m() / METRES_PER_MM
        table = np.column_stack([frame, frame / self.geometry.frame_rate_hz, mean_mm, largest_mm, self.rejected])
        with atomic_path(path) as temporary:
            formats = ("%d", *5 * ["%.6f"], "%d")
            np.savetxt(temporary, table, fmt=formats, delimiter=",", header=",".join(COLUMNS), comments="")


def between_nodes(
    nodes_voxel: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
    field: Float[np.ndarray, "gx gy gz 3"],
    place_voxel: PositionsVoxel,
) -> PositionsVoxel:
    """Interpolate a field of nodes at some places, and go on linearly beyond the outer nodes.

    Source: our own few lines, because scipy's `RegularGridInterpolator` wants two nodes along every axis.
    """
    values = np.zeros(place_voxel.shape)
    low, share = [], []
    for axis, nodes in enumerate(nodes_voxel):
        if len(nodes) == 1:
            low.append(np.zeros(len(place_voxel), dtype=np.int64))
            share.append(np.zeros(len(place_voxel)))
            continue
        at = np.clip(np.searchsorted(nodes, place_voxel[:, axis], side="right") - 1, 0, len(nodes) - 2)
        low.append(at)
        share.append((place_voxel[:, axis] - nodes[at]) / (nodes[at + 1] - nodes[at]))
    for corner in np.ndindex(*(1 if len(nodes) == 1 else 2 for nodes in nodes_voxel)):
        weight = np.prod([s if c else 1.0 - s for c, s in zip(corner, share, strict=True)], axis=0)
        i, j, k = (first + c for first, c in zip(low, corner, strict=True))
        values += weight[:, None] * field[i, j, k]
    return values
