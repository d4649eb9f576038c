"""Tracks: where every bubble was in every frame, and how bright; the known truth of a simulation."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray


@dataclass(frozen=True)
class Tracks:
    """Bubble positions, one row per bubble and frame, sorted by track and then by frame.

    Attributes:
        track_id: Which bubble, from 0.
        frame: Which frame, from 0.
        position_m: Scanner position of the bubble's centre, in metres; may lie somewhat outside of the grid.
        amplitude: Echo amplitude, in the recording's units.
        phase_rad: Phase of the echo, constant along a track: it turns in the image by motion alone.
        vessel_radius_m: Radius of the vessel where the bubble is; None where there are no vessels.
    """

    track_id: Int[np.ndarray, " n"]
    frame: Int[np.ndarray, " n"]
    position_m: Float[np.ndarray, "n 3"]
    amplitude: Float[np.ndarray, " n"]
    phase_rad: Float[np.ndarray, " n"]
    vessel_radius_m: Float[np.ndarray, " n"] | None = None

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.frame)


def join_tracks(
    frames: list[NDArray[np.int64]],
    positions_m: list[NDArray[np.float64]],
    vessel_radii_m: list[NDArray[np.float64]] | None = None,
) -> Tracks:
    """Make tracks of unit amplitude and zero phase from one (k,) frame and one (k, 3) position array per bubble.

    Args:
        frames: Per bubble.
        positions_m: Per bubble.
        vessel_radii_m: Per bubble (k,); None where there are no vessels.
    """
    lengths = np.asarray([len(f) for f in frames], dtype=np.int64)
    n = int(lengths.sum())
    return Tracks(
        track_id=np.repeat(np.arange(len(lengths)), lengths),
        frame=np.concatenate(frames).astype(np.int64) if n else np.zeros(0, dtype=np.int64),
        position_m=np.concatenate(positions_m) if n else np.zeros((0, 3)),
        amplitude=np.ones(n),
        phase_rad=np.zeros(n),
        vessel_radius_m=None if vessel_radii_m is None else np.concatenate([np.zeros(0), *vessel_radii_m]),
    )


def with_echoes(tracks: Tracks, rng: np.random.Generator, *, amplitude_sigma: float, frame_rate_hz: float) -> Tracks:
    """Give each track a log-normal amplitude with a slow 10 % fluctuation, and a random phase.

    Args:
        tracks: Tracks of any amplitude, which is replaced.
        rng: Source of all randomness.
        amplitude_sigma: Standard deviation of the logarithm of the amplitude over bubbles, 0.2 to 0.6 in our draws.
        frame_rate_hz: To turn frames into time.
    """
    n_tracks = int(tracks.track_id.max()) + 1 if len(tracks) else 0
    level = np.exp(amplitude_sigma * rng.normal(size=n_tracks))
    phase = rng.uniform(-np.pi, np.pi, size=n_tracks)
    wobble_hz = rng.uniform(0.5, 5.0, size=n_tracks)
    wobble_phase = rng.uniform(0.0, 2.0 * np.pi, size=n_tracks)
    i = tracks.track_id
    wobble = 1.0 + 0.1 * np.sin(2.0 * np.pi * wobble_hz[i] * tracks.frame / frame_rate_hz + wobble_phase[i])
    return replace(tracks, amplitude=level[i] * wobble, phase_rad=phase[i])
