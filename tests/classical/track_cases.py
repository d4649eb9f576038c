"""Moving bubbles with known identity, for the tests of linking."""

import numpy as np

from sparse_ulm.acquisition import Geometry
from sparse_ulm.localisations import Localisations, Trajectories

FRAME_RATE_HZ = 500.0
ANISOTROPIC = Geometry.from_voxel_size(
    (0.10e-3, 0.20e-3, 0.05e-3),
    (-1.0e-3, 2.0e-3, 5.0e-3),
    frame_rate_hz=FRAME_RATE_HZ,
    transmit_frequency_hz=8.0e6,
    sound_speed_m_s=1540.0,
)
CUBIC = Geometry.from_voxel_size(
    (0.1e-3, 0.1e-3, 0.1e-3), (0.0, 0.0, 0.0), frame_rate_hz=FRAME_RATE_HZ, transmit_frequency_hz=8.0e6,
    sound_speed_m_s=1540.0,
)  # fmt: skip


def table(rows, *, deviation_voxel=np.nan):
    """Localisations from rows (frame, x, y, z) in voxels, sorted by frame."""
    rows = np.array(sorted(rows, key=lambda row: row[0]), dtype=np.float64).reshape(-1, 4)
    n = len(rows)
    return Localisations(rows[:, 0].astype(np.int64), rows[:, 1:], np.ones(n), np.full((n, 3), deviation_voxel))


def flow(n_bubbles, n_frames, *, geometry, speed_m_s, seed, grid=(24, 24, 24), noise_voxel=0.05, missed=0.0):
    """Bubbles on straight lines of one speed each; gives localisations and the bubble that each row shows."""
    rng = np.random.default_rng(seed)
    step = np.asarray(geometry.voxel_size_m)
    start_m = rng.uniform(0, np.asarray(grid) * step, (n_bubbles, 3))
    way = rng.normal(size=(n_bubbles, 3))
    velocity = way / np.linalg.norm(way, axis=1, keepdims=True) * rng.uniform(0.2, 1.0, (n_bubbles, 1)) * speed_m_s
    bubble, frame = (a.ravel() for a in np.meshgrid(np.arange(n_bubbles), np.arange(n_frames), indexing="ij"))
    position = (start_m[bubble] + velocity[bubble] * (frame / geometry.frame_rate_hz)[:, None]) / step
    position = position + rng.normal(0, noise_voxel, position.shape)
    seen = rng.random(len(frame)) >= missed
    rows = np.flatnonzero(seen)[np.argsort(frame[seen], kind="stable")]
    found = Localisations(
        frame[rows], position[rows], np.ones(len(rows)), np.full((len(rows), 3), max(noise_voxel, 1e-3))
    )
    return found, bubble[rows]


def part(localisations, rows):
    """Some rows of a table."""
    return Localisations(
        localisations.frame[rows], localisations.position_voxel[rows], localisations.amplitude[rows],
        localisations.deviation_voxel[rows],
    )  # fmt: skip


def links_of(tracks: Trajectories, localisations: Localisations):
    """Pairs of rows of the localisations that a track joins, found by frame and position."""
    places = zip(localisations.frame.tolist(), map(tuple, localisations.position_voxel.tolist()), strict=True)
    row_of = {key: row for row, key in enumerate(places)}
    keys = zip(tracks.frame.astype(int).tolist(), map(tuple, tracks.position_voxel.tolist()), strict=True)
    rows = [row_of[key] for key in keys]
    same = tracks.track_id[1:] == tracks.track_id[:-1]
    return {(a, b) for a, b, joined in zip(rows[:-1], rows[1:], same, strict=True) if joined}


def true_links(localisations, bubble, *, max_gap_frames):
    """Pairs of consecutive rows of one bubble, at most so many frames apart."""
    links = set()
    for one in np.unique(bubble):
        rows = np.flatnonzero(bubble == one)
        steps = np.diff(localisations.frame[rows])
        links |= {(int(a), int(b)) for a, b, s in zip(rows, rows[1:], steps, strict=False) if s <= max_gap_frames + 1}
    return links
