"""Vessel trees: nodes with a radius and a parent, read from and written to SWC."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import no_type_check

import numpy as np
from jaxtyping import Float, Int
from numba import njit
from numpy.typing import NDArray

from sparse_ulm.conventions import METRES_PER_UM
from sparse_ulm.errors import UserError

SWC_COLUMNS = 7
BLOOD_VESSEL_TYPE = 2
"""Structure type written to SWC; the mouse-cortex graphs of Damseh et al. carry the same number."""


class VesselError(UserError):
    """A vessel file or tree that cannot be used."""


@dataclass(frozen=True)
class VesselTree:
    """A rooted tree (or several) of vessel centre lines, each node after its parent.

    Attributes:
        positions_m: Node centres in metres.
        radius_m: Vessel radius at each node, in metres.
        parent: Index of the upstream node, smaller than the node's own; -1 for a root (inlet).
    """

    positions_m: Float[np.ndarray, "n 3"]
    radius_m: Float[np.ndarray, " n"]
    parent: Int[np.ndarray, " n"]

    def __post_init__(self) -> None:
        """Refuse trees that flow cannot run through.

        Raises:
            VesselError: If there is no vessel, a radius is not positive, or a parent does not come before its child.
        """
        n = len(self.parent)
        if n < 2 or not (self.parent >= 0).any():
            raise VesselError(f"vessel tree has {n} nodes and no segment; wanted at least 2 connected nodes.")
        if not np.isfinite(self.positions_m).all() or not (np.isfinite(self.radius_m) & (self.radius_m > 0)).all():
            raise VesselError("vessel tree holds a position that is not finite or a radius that is not positive.")
        if (self.parent >= np.arange(n)).any() or (self.parent < -1).any():
            raise VesselError("vessel tree lists a node before its parent; sort it (`order_by_parent`).")

    @property
    def n_nodes(self) -> int:
        """Number of nodes."""
        return len(self.parent)

    @property
    def n_children(self) -> NDArray[np.int64]:
        """(n,) number of segments that leave each node downstream; 0 at a leaf, 2 or more at a bifurcation."""
        return np.bincount(self.parent[self.parent >= 0], minlength=self.n_nodes)

    @property
    def extent_m(self) -> NDArray[np.float64]:
        """(3,) size of the bounding box, in metres."""
        return np.ptp(self.positions_m, axis=0)


def order_by_parent(parent: Int[np.ndarray, " n"]) -> NDArray[np.int64]:
    """Give an order in which every node follows its parent: by distance from the root, in segments.

    Raises:
        VesselError: If some nodes form a loop and so have no root.
    """
    depth = np.full(len(parent), -1, dtype=np.int64)
    depth[parent < 0] = 0
    waiting = np.flatnonzero(parent >= 0)
    while waiting.size:
        ready = depth[parent[waiting]] >= 0
        if not ready.any():
            raise VesselError(f"{waiting.size} nodes form a loop without a root; wanted a tree. Break the loop.")
        depth[waiting[ready]] = depth[parent[waiting[ready]]] + 1
        waiting = waiting[~ready]
    return np.argsort(depth, kind="stable")


def read_swc(path: str | Path) -> VesselTree:
    """Read a vessel tree from SWC: lines of id, type, x, y, z, radius [micrometres], parent id (-1 for a root).

    Args:
        path: The file; `#` starts a comment.

    Raises:
        VesselError: If the file is missing, or a line does not hold seven numbers, names a parent that is not there,
            repeats an id, or has a radius that is not positive.
    """
    path = Path(path)
    if not path.is_file():
        raise VesselError(f"{path} is not a file; wanted a vessel tree in SWC.")
    rows = [_parse(path.name, number, line) for number, line in _data_lines(path)]
    if not rows:
        raise VesselError(f"{path.name} holds no nodes; wanted lines of id, type, x, y, z, radius, parent.")
    table = np.asarray(rows, dtype=np.float64)
    parent = _parent_indices(path.name, table[:, 0].astype(np.int64), table[:, 6].astype(np.int64))
    order = order_by_parent(parent)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    sorted_parent = np.where(parent[order] >= 0, rank[parent[order]], -1)
    return VesselTree(table[order, 2:5] * METRES_PER_UM, table[order, 5] * METRES_PER_UM, sorted_parent)


def _data_lines(path: Path) -> list[tuple[int, str]]:
    """Lines that hold a node, with their number from 1."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise VesselError(f"{path.name} is not text; wanted a vessel tree in SWC.") from None
    stripped = ((number, line.split("#", 1)[0].strip()) for number, line in enumerate(lines, start=1))
    return [(number, line) for number, line in stripped if line]


def _parse(name: str, number: int, line: str) -> list[float]:
    fields = line.split()
    try:
        values = [float(field) for field in fields]
    except ValueError:
        values = []
    if len(values) != SWC_COLUMNS or not np.isfinite(values).all():
        raise VesselError(
            f"{name} line {number}: '{line[:60]}'; wanted 7 numbers: id, type, x, y, z, radius, parent. Correct it."
        )
    if values[5] <= 0:
        raise VesselError(f"{name} line {number}: radius is {values[5]:g} um; wanted more than 0. Correct it.")
    return values


def _parent_indices(name: str, node_id: NDArray[np.int64], parent_id: NDArray[np.int64]) -> NDArray[np.int64]:
    """Turn parent ids into row numbers."""
    order = np.argsort(node_id, kind="stable")
    ids = node_id[order]
    repeated = np.flatnonzero(np.diff(ids) == 0)
    if repeated.size:
        raise VesselError(f"{name}: node id {ids[repeated[0]]} occurs twice; wanted unique ids. Renumber the nodes.")
    at = np.searchsorted(ids, parent_id).clip(max=len(ids) - 1)
    known = ids[at] == parent_id
    missing = np.flatnonzero(~known & (parent_id >= 0))
    if missing.size:
        row = missing[0]
        raise VesselError(
            f"{name}: node {node_id[row]} names parent {parent_id[row]}, which is not in the file; wanted a listed id "
            "or -1. Add the node or make this one a root."
        )
    return np.where(known & (parent_id >= 0), order[at], -1)


def write_swc(path: str | Path, tree: VesselTree) -> None:
    """Write a tree to SWC in micrometres, through a temporary file in the same folder."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.partial")
    with temporary.open("w", encoding="utf-8") as file:
        file.write("# id type x y z radius parent; micrometres\n")
        for i in range(tree.n_nodes):
            x, y, z = tree.positions_m[i] / METRES_PER_UM
            radius = tree.radius_m[i] / METRES_PER_UM
            file.write(f"{i} {BLOOD_VESSEL_TYPE} {x:.12g} {y:.12g} {z:.12g} {radius:.12g} {tree.parent[i]}\n")
    os.replace(temporary, path)


def smoothed(tree: VesselTree, passes: int = 8) -> VesselTree:
    """Smooth centre lines and radii between bifurcations, which keep their place.

    Graphs traced from a stack jump from voxel to voxel; bubbles must not. Our choice, in place of a spline per path:
    each pass replaces a node by the weighted mean (1, 2, 1)/4 of its parent, itself and its only child.

    Args:
        tree: The tree as read.
        passes: How often; 8 passes smooth over about +-4 nodes.
    """
    values = np.column_stack([tree.positions_m, tree.radius_m])
    only_child = np.full(tree.n_nodes, -1, dtype=np.int64)
    inner = tree.parent >= 0
    only_child[tree.parent[inner]] = np.flatnonzero(inner)
    chain = np.flatnonzero(inner & (tree.n_children == 1))
    for _ in range(passes):
        mean = 0.25 * (values[tree.parent[chain]] + 2.0 * values[chain] + values[only_child[chain]])
        values[chain] = mean
    return VesselTree(np.ascontiguousarray(values[:, :3]), values[:, 3].copy(), tree.parent)


@njit(cache=True)
@no_type_check
def sum_downstream(leaf_value: NDArray[np.float64], parent: NDArray[np.int64]) -> NDArray[np.float64]:
    """Add each node's value to all its ancestors: (n,) sums over the subtree, so that flux is conserved."""
    total = leaf_value.copy()
    for i in range(len(parent) - 1, -1, -1):
        if parent[i] >= 0:
            total[parent[i]] += total[i]
    return total
