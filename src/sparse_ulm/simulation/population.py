"""A steady population of bubbles: the same number in the field of view in every frame."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from sparse_ulm.simulation.flow import FlowField, Start, draw_start, flow_clock_s, follow
from sparse_ulm.simulation.placement import Box, Inlets, Placement, find_inlets
from sparse_ulm.simulation.tracks import Tracks, join_tracks
from sparse_ulm.simulation.vessels import VesselError

MAX_DRAWS = 1000
"""Draws of a start before we say that the box holds no vessel."""

BATCH = 256


@dataclass
class _Scene:
    """What every bubble needs; the reservoir holds stationary starts that lie in `near`."""

    field: FlowField
    placement: Placement
    view: Box
    near: Box
    clock_s: NDArray[np.float64]
    rng: np.random.Generator
    inlets: Inlets
    cumulative: NDArray[np.float64]


@dataclass(frozen=True)
class _Stay:
    """One bubble in consecutive frames: the first one, (k, 3) scanner positions, and (k,) radii of its vessel."""

    first: int
    position_m: NDArray[np.float64]
    radius_m: NDArray[np.float64]

    def __getitem__(self, kept: slice) -> "_Stay":
        """Cut out frames, counted from the first."""
        return _Stay(self.first + kept.start, self.position_m[kept], self.radius_m[kept])


def simulate_tracks(
    field: FlowField,
    placement: Placement,
    *,
    view: Box,
    margin_m: Float[np.ndarray, " 3"],
    n_bubbles: int,
    n_frames: int,
    frame_rate_hz: float,
    rng: np.random.Generator,
) -> Tracks:
    """Simulate bubbles so that exactly `n_bubbles` are inside the field of view in every frame.

    Bubbles are drawn in steady state (flux times transit time); one that leaves, or ends at a leaf, is replaced by
    one that enters through an inlet of the field of view with a chance in proportion to flux, or along a vessel
    (`midway_birth_share`). Tracks run on into the margin, as bubbles there still show in the image, and the margin
    holds as many bubbles per volume as the field of view that never enter it.

    Args:
        field: The flow.
        placement: Where copies of its tree lie.
        view: Field of view, from half a voxel before the first voxel's centre to half a voxel behind the last's.
        margin_m: Margin per axis in which bubbles are kept.
        n_bubbles: Bubbles in the field of view, at least 0.
        n_frames: Frames, at least 1.
        frame_rate_hz: Frames per second.
        rng: Source of all randomness.

    Returns:
        Tracks of unit amplitude and zero phase, inside the field of view or its margin.

    Raises:
        VesselError: If no vessel runs through the field of view.
    """
    clock = flow_clock_s(field.law, n_frames, frame_rate_hz, rng.uniform(0.0, 2.0 * np.pi))
    cumulative = np.cumsum(field.bubbles_per_segment)
    near = view.grown(margin_m)
    inlets = find_inlets(field, placement, view)
    scene = _Scene(field, placement, view, near, clock, rng, inlets, cumulative / cumulative[-1])
    stays: list[_Stay] = []
    if n_bubbles > 0:
        view_starts = _StationaryStarts(scene, view.contains)
        for _ in range(n_bubbles):
            stays.extend(_keep_one_in_view(scene, view_starts))
    n_margin = round(n_bubbles * (near.volume_m3 / view.volume_m3 - 1.0))
    if n_margin > 0:
        margin_starts = _StationaryStarts(scene, lambda p: near.contains(p) & ~view.contains(p))
        for _ in range(n_margin):
            stays.extend(_keep_one_in_margin(scene, margin_starts))
    frames = [stay.first + np.arange(len(stay.position_m)) for stay in stays]
    return join_tracks(frames, [stay.position_m for stay in stays], [stay.radius_m for stay in stays])


class _StationaryStarts:
    """Endless starts (copy, segment, share) of bubbles in steady state that lie where asked."""

    def __init__(self, scene: _Scene, wanted: Callable[[NDArray[np.float64]], NDArray[np.bool_]]) -> None:
        self.scene, self.wanted = scene, wanted
        self.ready: list[tuple[int, int, float]] = []

    def draw(self) -> tuple[int, int, float]:
        """Give the next start, drawing more in batches when none is left."""
        for _ in range(MAX_DRAWS):
            if self.ready:
                return self.ready.pop()
            self._draw_batch()
        raise VesselError("no vessel runs through the field of view; use a larger grid or another tree.")

    def _draw_batch(self) -> None:
        rng, field, placement = self.scene.rng, self.scene.field, self.scene.placement
        copy = rng.integers(len(placement.matrix), size=BATCH)
        segment = np.searchsorted(self.scene.cumulative, rng.uniform(size=BATCH), side="right")
        share = rng.uniform(size=BATCH)
        upstream, here = field.positions_m[field.parent[segment]], field.positions_m[segment]
        local = upstream + share[:, None] * (here - upstream) - placement.centre_m
        at = np.einsum("nij,nj->ni", placement.matrix[copy], local) + placement.offset_m[copy]
        kept = np.flatnonzero(self.wanted(at))
        self.ready.extend((int(copy[i]), int(segment[i]), float(share[i])) for i in kept)


def _keep_one_in_view(scene: _Scene, starts: _StationaryStarts) -> list[_Stay]:
    """One place in the field of view, always taken: a bubble and, when it has left, the next."""
    stays = []
    frame, n_frames = 0, len(scene.clock_s)
    while frame < n_frames:
        way, seen = _one_in_view(scene, starts, frame)
        begin, end = _unbroken(seen, frame - way.first)
        stays.append(_with_margin(scene, way, seen, begin, end))
        frame = way.first + end
    return stays


def _one_in_view(scene: _Scene, starts: _StationaryStarts, frame: int) -> tuple[_Stay, NDArray[np.bool_]]:
    """Draw a bubble until one is inside the field of view in this frame."""
    rng, inlets = scene.rng, scene.inlets
    flux = np.cumsum(inlets.flux)
    for draw in range(MAX_DRAWS):
        through_inlet = frame > 0 and draw < MAX_DRAWS // 2 and flux.size > 0
        if through_inlet and rng.uniform() >= scene.field.law.midway_birth_share:
            i = int(np.searchsorted(flux, rng.uniform() * flux[-1], side="right").clip(max=flux.size - 1))
            copy, segment, share = int(inlets.copy[i]), int(inlets.segment[i]), float(inlets.share[i])
            start = draw_start(rng, scene.field, segment, share, crossing_plane=True)
            way = _place(scene, copy, start, frame, upstream=True)
        else:
            copy, segment, share = starts.draw()
            start = draw_start(rng, scene.field, segment, share, crossing_plane=False)
            way = _place(scene, copy, start, frame, upstream=False)
        seen = scene.view.contains(way.position_m)
        if 0 <= frame - way.first < len(seen) and seen[frame - way.first]:
            return way, seen
    raise VesselError("no bubble stays in the field of view; its vessels are too thin slices. Use a larger grid.")


def _place(scene: _Scene, copy: int, start: Start, frame: int, *, upstream: bool) -> _Stay:
    first, local, radius_m = follow(scene.field, start, scene.clock_s, frame, upstream=upstream)
    return _Stay(first, scene.placement.to_scanner_m(copy, local), radius_m)


def _unbroken(seen: NDArray[np.bool_], at: int) -> tuple[int, int]:
    """Range of the unbroken run of True that begins at `at`."""
    left = np.flatnonzero(~seen[at:])
    return at, at + int(left[0]) if left.size else len(seen)


def _with_margin(scene: _Scene, way: _Stay, seen: NDArray[np.bool_], begin: int, end: int) -> _Stay:
    """The bubble's stay in view, and its way through the margin before and after; never a second stay."""
    in_margin = scene.near.contains(way.position_m) & ~seen
    while begin > 0 and in_margin[begin - 1]:
        begin -= 1
    while end < len(seen) and in_margin[end]:
        end += 1
    return way[begin:end]


def _keep_one_in_margin(scene: _Scene, starts: _StationaryStarts) -> list[_Stay]:
    """One place in the margin: bubbles that never enter the field of view. Fewer where none such is found."""
    stays = []
    frame, n_frames = 0, len(scene.clock_s)
    for _ in range(BATCH):
        if frame >= n_frames:
            break
        copy, segment, share = starts.draw()
        start = draw_start(scene.rng, scene.field, segment, share, crossing_plane=False)
        way = _place(scene, copy, start, frame, upstream=False)
        inside = scene.near.contains(way.position_m)
        if len(inside) == 0 or not inside[0]:
            continue
        stay = way[0 : _unbroken(inside, 0)[1]]
        if not scene.view.contains(stay.position_m).any():
            stays.append(stay)
            frame += len(stay.position_m)
    return stays
