"""Linking against `laptrack` (BSD), a general tracker that solves the same assignment between frames."""

import numpy as np
import pytest

from sparse_ulm.acquisition import Geometry
from sparse_ulm.classical.linking import link
from sparse_ulm.localisations import Localisations

laptrack = pytest.importorskip("laptrack", reason="laptrack is not installed (pip install laptrack)")

GEOMETRY = Geometry.from_voxel_size(
    (0.10e-3, 0.20e-3, 0.05e-3), (-1.0e-3, 2.0e-3, 5.0e-3), frame_rate_hz=500.0, transmit_frequency_hz=8.0e6,
    sound_speed_m_s=1540.0,
)  # fmt: skip
MAX_SPEED_M_S = 0.05


def crowd(n_bubbles, n_frames, *, seed):
    """Bubbles that drift, each at its own speed, some of them unseen in every frame."""
    rng = np.random.default_rng(seed)
    start_m, velocity = rng.uniform(0, 1.0e-3, (n_bubbles, 3)), rng.normal(0, 0.015, (n_bubbles, 3))
    frames = [start_m + velocity * t / 500.0 + rng.normal(0, 3e-6, start_m.shape) for t in range(n_frames)]
    seen_m = [positions[rng.random(n_bubbles) > 0.1] for positions in frames]
    frame = np.repeat(np.arange(n_frames), [len(positions) for positions in seen_m])
    voxel = GEOMETRY.to_voxel(np.concatenate(seen_m))
    return seen_m, Localisations(frame, voxel, np.ones(len(frame)), np.full(voxel.shape, np.nan))


@pytest.mark.parametrize("n_bubbles", [17, 113])
def test_the_same_links_are_found(n_bubbles):
    seen_m, found = crowd(n_bubbles, 20, seed=n_bubbles)
    gate_squared = (MAX_SPEED_M_S / 500.0) ** 2
    # Starting a track costs more than any link there: as many links as the gate allows, as ours.
    tracker = laptrack.LapTrack(
        cutoff=gate_squared, gap_closing_cutoff=False, track_start_cost=100 * gate_squared,
        track_end_cost=100 * gate_squared,
    )  # fmt: skip
    theirs = {(tuple(map(int, a)), tuple(map(int, b))) for a, b in tracker.predict(seen_m).edges}

    tracks = link(
        found, geometry=GEOMETRY, max_speed_m_s=MAX_SPEED_M_S, max_gap_frames=0, min_length=2, method="nearest"
    )
    first = np.cumsum([0, *(len(positions) for positions in seen_m)])
    number = {tuple(place): row for row, place in enumerate(found.position_voxel)}
    rows = np.array([number[tuple(place)] for place in tracks.position_voxel])
    node = [(int(found.frame[row]), int(row - first[found.frame[row]])) for row in rows]
    joined = tracks.track_id[1:] == tracks.track_id[:-1]
    ours = {(a, b) for a, b, same in zip(node[:-1], node[1:], joined, strict=True) if same}
    assert len(theirs) > 10 * n_bubbles
    assert ours == theirs
