"""Carrier, noise and brightest echo of a whole recording, so that its blocks are all seen on the same scale.

Measured block by block they would differ from cut to cut, and the same bubble would be found or not by where a block
happens to begin.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sparse_ulm.acquisition import Acquisition, memory_runs
from sparse_ulm.psf import measure_carrier
from sparse_ulm.sparsify import largest_magnitude, measure_noise_rms

N_RUNS, RUN_FRAMES = 8, 16
"""Runs of frames that are looked at, spread evenly, and their length: as many frames as one block has."""

MOST_RUN_BYTES = 256e6
"""Of samples in a run, where a recording is so short that runs cover it."""


@dataclass(frozen=True)
class RecordingLevels:
    """What one recording's blocks have in common.

    Attributes:
        carrier_rad: Phase step between neighbouring voxels along x, y and z (`psf.measure_carrier`).
        noise_rms: RMS of the complex noise, in the recording's units.
        peak: Largest magnitude in the frames that were looked at.
    """

    carrier_rad: tuple[float, float, float]
    noise_rms: float
    peak: float


def measure_levels(
    acquisition: Acquisition, *, noise_measure: str, runs: Sequence[tuple[int, int]] | None = None
) -> RecordingLevels:
    """Measure carrier, noise and peak from runs of frames spread over a recording.

    Args:
        acquisition: The recording; only the runs are read, one at a time.
        noise_measure: "faintest" or "differences" (`sparsify.measure_noise_rms`).
        runs: First and last frames (exclusive) of runs that are taken in place of the spread ones.

    Returns:
        Mean carrier over the runs (as phasors), median noise, largest magnitude.

    Raises:
        RecordingError: If a frame cannot be read.
        UserError: If `noise_measure` is unknown.
    """
    carriers, noises, peaks = [], [], []
    for start, stop in runs or _runs(acquisition):
        run = torch.from_numpy(np.ascontiguousarray(acquisition.frames(start, stop)))
        carriers.append(np.exp(1j * measure_carrier(run).numpy()))
        noises.append(measure_noise_rms(run, noise_measure=noise_measure))
        peaks.append(largest_magnitude(run))
    x, y, z = np.angle(np.sum(carriers, axis=0))
    return RecordingLevels((float(x), float(y), float(z)), float(np.median(noises)), max(peaks))


def _runs(acquisition: Acquisition) -> list[tuple[int, int]]:
    """First and last frames (exclusive) of the runs; they cover a recording that is no longer than they are."""
    n_frames = acquisition.n_frames
    if n_frames <= N_RUNS * RUN_FRAMES:
        return memory_runs(0, n_frames, n_bytes=MOST_RUN_BYTES, shape=acquisition.shape[:3])
    starts = np.linspace(0, n_frames - RUN_FRAMES, N_RUNS).astype(int).tolist()
    return [(start, start + RUN_FRAMES) for start in starts]
