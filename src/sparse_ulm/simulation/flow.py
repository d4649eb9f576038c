"""Blood flow through a vessel tree: how fast, how much, and the way one bubble takes."""

from dataclasses import dataclass
from typing import no_type_check

import numpy as np
from jaxtyping import Float, Int
from numba import njit
from numpy.typing import NDArray

from sparse_ulm.conventions import METRES_PER_UM
from sparse_ulm.simulation.vessels import VesselTree, smoothed, sum_downstream

BUBBLE_RADIUS_M = 1.0e-6
SLOWEST_PROFILE = 0.3
"""Floor of the Poiseuille factor near the wall (Belgharbi et al. 2023, released code)."""

N_CHOICES = 256
"""Random numbers given to each bubble for its bifurcations; deeper ones use them again."""


@dataclass(frozen=True)
class FlowLaw:
    """How speed follows from vessel diameter, and how bubbles spread over the branches.

    Attributes:
        speed_at_20_um_m_s: Mean speed in a vessel of 20 um diameter.
        speed_exponent: p of v = v20 (d / 20 um)^p; 1.9 is Belgharbi et al. 2023, 0.62 follows from Q ~ r^2.62.
        slowest_m_s: Least speed of a bubble.
        fastest_m_s: Greatest speed of a bubble.
        leaf_weight_exponent: A leaf of diameter d receives a share d^exponent of the bubbles. 0 feeds leaves alike,
            3.7 is the count law ln N = 3.7 ln d of Belgharbi et al. 2023.
        pulsatility: Speed varies by 1 +- this share, below 1.
        heart_rate_hz: Frequency of the pulse.
        midway_birth_share: Share of replacement bubbles that appear along a vessel and not at an inlet.
    """

    speed_at_20_um_m_s: float
    speed_exponent: float
    slowest_m_s: float
    fastest_m_s: float
    leaf_weight_exponent: float
    pulsatility: float
    heart_rate_hz: float
    midway_birth_share: float


@dataclass(frozen=True)
class FlowField:
    """A tree with its flow. Segment i runs from `parent[i]` to node i; roots have none.

    Attributes:
        positions_m: Node centres, scaled and smoothed, in metres.
        radius_m: Vessel radii.
        parent: Upstream node, -1 for a root.
        length_m: Length of each segment, 0 for a root.
        mean_speed_m_s: Speed averaged over the cross-section and the pulse, per segment.
        flux: Bubbles that pass each segment per unit time, relative; conserved at bifurcations.
        first_child: (n + 1,) where each node's children begin in `children`.
        children: Child nodes, grouped by parent.
        law: What it was made from.
    """

    positions_m: Float[np.ndarray, "n 3"]
    radius_m: Float[np.ndarray, " n"]
    parent: Int[np.ndarray, " n"]
    length_m: Float[np.ndarray, " n"]
    mean_speed_m_s: Float[np.ndarray, " n"]
    flux: Float[np.ndarray, " n"]
    first_child: Int[np.ndarray, " m"]
    children: Int[np.ndarray, " k"]
    law: FlowLaw

    @property
    def bubbles_per_segment(self) -> NDArray[np.float64]:
        """(n,) relative number of bubbles inside each segment in steady state: flux times transit time."""
        return self.flux * self.length_m / self.mean_speed_m_s


def make_flow(tree: VesselTree, law: FlowLaw, *, scale: float = 1.0) -> FlowField:
    """Solve the flow in a tree enlarged by `scale`; speeds follow from the enlarged diameters.

    Args:
        tree: The vessels as read or grown.
        law: Speeds and branching.
        scale: Factor on positions and radii, 1 for the tree as it is.
    """
    tree = smoothed(tree)
    positions, radius, parent = tree.positions_m * scale, tree.radius_m * scale, tree.parent
    upstream = np.maximum(parent, 0)
    inner = parent >= 0
    length = np.where(inner, np.linalg.norm(positions - positions[upstream], axis=1), 0.0)
    diameter_um = (radius + np.where(inner, radius[upstream], radius)) / METRES_PER_UM
    speed = law.speed_at_20_um_m_s * (diameter_um / 20.0) ** law.speed_exponent
    leaf = tree.n_children == 0
    leaf_value = np.where(leaf, (radius / METRES_PER_UM) ** law.leaf_weight_exponent, 0.0)
    flux = sum_downstream(leaf_value / leaf_value.sum(), parent)
    first_child = np.concatenate([[0], np.cumsum(tree.n_children)]).astype(np.int64)
    children = np.flatnonzero(inner)[np.argsort(parent[inner], kind="stable")]
    return FlowField(
        positions_m=np.ascontiguousarray(positions),
        radius_m=radius,
        parent=parent,
        length_m=length,
        mean_speed_m_s=np.clip(speed, law.slowest_m_s, law.fastest_m_s),
        flux=flux,
        first_child=first_child,
        children=children,
        law=law,
    )


def flow_clock_s(law: FlowLaw, n_frames: int, frame_rate_hz: float, heart_phase_rad: float) -> NDArray[np.float64]:
    """Give (n_frames,) pulsatile time: the integral of 1 + a cos(2 pi f t + phase), which every bubble follows.

    Frame 0 is at 0. The pulse reaches all vessels at once: our choice, as a field of view is about 1 mm wide
    (Belgharbi et al. let it travel at 25 mm/s).
    """
    time_s = np.arange(n_frames) / frame_rate_hz
    omega = 2.0 * np.pi * law.heart_rate_hz
    swing = np.sin(omega * time_s + heart_phase_rad) - np.sin(heart_phase_rad)
    return time_s + law.pulsatility * swing / omega


@dataclass(frozen=True)
class Start:
    """Where and how a bubble enters: on which segment, how far along, in which lane of the profile.

    Attributes:
        segment: Segment, named by its downstream node.
        share: Position along the segment, 0 upstream to 1 downstream.
        lane: Distance from the axis over the vessel's free radius, 0 to 1.
        lane_direction: (3,) any vector; its part across the vessel is the direction of that offset.
        choices: (N_CHOICES,) uniform numbers in [0, 1) that pick branches.
    """

    segment: int
    share: float
    lane: float
    lane_direction: Float[np.ndarray, " 3"]
    choices: Float[np.ndarray, " choices"]


def draw_start(
    rng: np.random.Generator, field: FlowField, segment: int, share: float, *, crossing_plane: bool
) -> Start:
    """Draw a lane of the parabolic profile and the branches to take.

    Bubbles present in a volume spread evenly over the cross-section; those that cross a plane per unit time do so
    in proportion to speed, 1 - (lane)^2. Both are drawn exactly.

    Args:
        rng: Source of all randomness.
        field: The flow, whose segment is meant.
        segment: Segment on which the bubble starts.
        share: How far along it, 0 to 1.
        crossing_plane: True for a bubble that enters through an inlet, False for one that is already there.
    """
    u = rng.uniform()
    lane_squared = 1.0 - np.sqrt(1.0 - u) if crossing_plane else u
    return Start(segment, share, float(np.sqrt(lane_squared)), rng.normal(size=3), rng.uniform(size=N_CHOICES))


def follow(
    field: FlowField, start: Start, clock_s: Float[np.ndarray, " frames"], start_frame: int, *, upstream: bool
) -> tuple[int, NDArray[np.float64], NDArray[np.float64]]:
    """Follow one bubble through all frames in which it is inside the tree.

    Args:
        field: The flow.
        start: Where it is in `start_frame`.
        clock_s: Pulsatile time of each frame, from `flow_clock_s`.
        start_frame: Frame in which it is at `start`.
        upstream: Also give where it came from in the frames before.

    Returns:
        First frame; (k, 3) positions in that and the following frames, in metres, in the tree's own axes; and (k,) the
        radius of the vessel there, in metres.
    """
    relative = clock_s - clock_s[start_frame]
    first = 0 if upstream else start_frame
    profile = max(2.0 * (1.0 - start.lane**2), SLOWEST_PROFILE)
    law = field.law
    nodes, times = _way(
        start.segment, start.share, relative[first], relative[-1], profile, law.slowest_m_s, law.fastest_m_s,
        start.choices, field.parent, field.length_m, field.mean_speed_m_s, field.flux, field.first_child,
        field.children,
    )  # fmt: skip
    way_m = _lane(nodes, start.lane, start.lane_direction, field.positions_m, field.radius_m)
    inside = np.flatnonzero((relative >= times[0]) & (relative <= times[-1]))
    inside = inside[inside >= first]
    if inside.size == 0:
        return start_frame, np.zeros((0, 3)), np.zeros(0)
    when = relative[inside]
    position_m = np.column_stack([np.interp(when, times, way_m[:, axis]) for axis in range(3)])
    return int(inside[0]), position_m, np.interp(when, times, field.radius_m[nodes])


@njit(cache=True)
@no_type_check
def _transit(segment, profile, slowest, fastest, length, mean_speed):
    """Seconds that a bubble of this profile factor needs for a segment."""
    speed = min(max(mean_speed[segment] * profile, slowest), fastest)
    return max(length[segment] / speed, 1e-12)


@njit(cache=True)
@no_type_check
def _way(
    segment, share, time_from, time_to, profile, slowest, fastest, choices,
    parent, length, mean_speed, flux, first_child, children,
):  # fmt: skip
    """Nodes that the bubble passes between two times, and when: time 0 at `share` along `segment`."""
    transit = _transit(segment, profile, slowest, fastest, length, mean_speed)
    nodes = [parent[segment]]
    times = [-share * transit]
    while times[-1] > time_from and parent[nodes[-1]] >= 0:
        node = nodes[-1]
        times.append(times[-1] - _transit(node, profile, slowest, fastest, length, mean_speed))
        nodes.append(parent[node])
    nodes.reverse()
    times.reverse()
    nodes.append(segment)
    times.append((1.0 - share) * transit)
    n_chosen = 0
    while times[-1] < time_to:
        node = nodes[-1]
        begin, end = first_child[node], first_child[node + 1]
        if begin == end:
            break
        total = 0.0
        for k in range(begin, end):
            total += flux[children[k]]
        threshold = 0.0
        if end - begin > 1:
            threshold = choices[n_chosen % len(choices)] * total
            n_chosen += 1
        chosen = begin
        passed = flux[children[begin]]
        while passed <= threshold and chosen < end - 1:
            chosen += 1
            passed += flux[children[chosen]]
        child = children[chosen]
        times.append(times[-1] + _transit(child, profile, slowest, fastest, length, mean_speed))
        nodes.append(child)
    return np.array(nodes), np.array(times)


@njit(cache=True)
@no_type_check
def _lane(nodes, lane, direction, positions, radius):
    """Positions along the way, moved off the axis in a direction carried along without twisting."""
    n = len(nodes)
    way = np.empty((n, 3))
    side = direction.copy()
    for i in range(n):
        here = positions[nodes[i]]
        tangent = positions[nodes[min(i + 1, n - 1)]] - positions[nodes[max(i - 1, 0)]]
        size = np.sqrt((tangent * tangent).sum())
        if size > 0.0:
            tangent = tangent / size
            across = side - (side * tangent).sum() * tangent
            size = np.sqrt((across * across).sum())
            if size > 1e-6:
                side = across / size
        free = max(radius[nodes[i]] - BUBBLE_RADIUS_M, 0.0)
        way[i] = here + lane * free * side
    return way
