"""Random vessel trees that fill a box and obey Murray's law; for the demo, tests and variety in training."""

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from sparse_ulm.simulation.vessels import VesselError, VesselTree

MURRAY_EXPONENT = 3.0
"""r0^3 = r1^3 + r2^3 at each bifurcation (Murray's law)."""

NODE_SPACING_M = 8.0e-6


def grow_vessel_tree(
    rng: np.random.Generator,
    *,
    box_size_m: tuple[float, float, float],
    n_leaves: int,
    leaf_radius_m: float,
    tortuosity: float,
) -> VesselTree:
    """Grow a tree that feeds random points of a box from one inlet on its first z face.

    Our choice, because it fills space evenly in a few milliseconds: the points to feed are halved again and again
    across their longest direction; the vessel runs part of the way to their centre of mass, splits, and each branch
    feeds one half. A vessel that feeds n leaves has radius leaf_radius * n^(1/3), which is Murray's law.

    Args:
        rng: Source of all randomness.
        box_size_m: Box edges, from 0, in metres.
        n_leaves: Number of terminal vessels, at least 2.
        leaf_radius_m: Radius of a terminal vessel, in metres.
        tortuosity: Sideways bending as a share of a segment's length, 0 (straight) to about 0.2.

    Raises:
        VesselError: If there are fewer than 2 leaves, or a length is not positive.
    """
    if n_leaves < 2 or leaf_radius_m <= 0 or min(box_size_m) <= 0:
        raise VesselError(f"cannot grow {n_leaves} leaves of {leaf_radius_m} m in {box_size_m} m; wanted 2 or more.")
    box = np.asarray(box_size_m, dtype=np.float64)
    inlet = np.array([rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.8), 0.0]) * box
    nodes: list[NDArray[np.float64]] = [inlet]
    parents: list[int] = [-1]
    radii: list[float] = [leaf_radius_m * n_leaves ** (1.0 / MURRAY_EXPONENT)]
    # A stack and not recursion: deep, lopsided trees would meet Python's recursion limit.
    to_feed: list[tuple[int, NDArray[np.float64]]] = [(0, rng.uniform(size=(n_leaves, 3)) * box)]
    while to_feed:
        start, points = to_feed.pop()
        radius = leaf_radius_m * len(points) ** (1.0 / MURRAY_EXPONENT)
        end = _branch_end(rng, nodes[start], points)
        for node in _bent_segment(rng, nodes[start], end, tortuosity):
            parents.append(start)
            start = len(nodes)
            nodes.append(node)
            radii.append(radius)
        if len(points) > 1:
            to_feed.extend((start, half) for half in _halves(rng, points))
    return VesselTree(np.asarray(nodes), np.asarray(radii), np.asarray(parents, dtype=np.int64))


def _branch_end(
    rng: np.random.Generator, start: Float[np.ndarray, " 3"], points: Float[np.ndarray, "n 3"]
) -> NDArray[np.float64]:
    """Where the vessel splits: part of the way to the centre of what it feeds; the point itself for a leaf."""
    if len(points) == 1:
        return points[0]
    return start + rng.uniform(0.4, 0.7) * (points.mean(axis=0) - start)


def _halves(rng: np.random.Generator, points: Float[np.ndarray, "n 3"]) -> tuple[NDArray, NDArray]:
    """Split points across their longest direction into unequal parts, each of at least one point."""
    centred = points - points.mean(axis=0)
    direction = np.linalg.eigh(centred.T @ centred)[1][:, -1]
    order = np.argsort(centred @ direction, kind="stable")
    cut = int(np.clip(round(rng.uniform(0.25, 0.75) * len(points)), 1, len(points) - 1))
    return points[order[:cut]], points[order[cut:]]


def _bent_segment(
    rng: np.random.Generator, start: Float[np.ndarray, " 3"], end: Float[np.ndarray, " 3"], tortuosity: float
) -> NDArray[np.float64]:
    """Nodes after `start` up to `end`, bent by two sine waves that vanish at both ends."""
    length = float(np.linalg.norm(end - start))
    n_nodes = max(1, round(length / NODE_SPACING_M))
    along = np.arange(1, n_nodes + 1)[:, None] / n_nodes
    bends = rng.normal(size=(2, 3)) * tortuosity * length * np.array([[0.5], [0.25]])
    waves = np.sin(np.pi * along * np.array([[1.0, 2.0]]))
    return start + along * (end - start) + waves @ bends
