"""Carrier, noise and peak of a whole recording."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sparse_ulm.acquisition import Acquisition, Geometry
from sparse_ulm.errors import UserError
from sparse_ulm.psf import measure_carrier
from sparse_ulm.recording_levels import measure_levels
from sparse_ulm.sparsify import measure_noise_rms
from sparse_ulm.transforms import MeasureRecordingd

GEOMETRY = Geometry.from_voxel_size(
    (1e-4, 1.1e-4, 0.9e-4), (0.0, 0.0, 0.0), frame_rate_hz=500.0, transmit_frequency_hz=8e6, sound_speed_m_s=1540.0
)


def recording(n_frames: int, *, seed: int = 0, noise_rms: float = 0.3) -> tuple[Acquisition, np.ndarray, list[int]]:
    """One resting echo with a carrier along z, in white noise; tells which frames were read."""
    rng = np.random.default_rng(seed)
    shape = (5, 6, 7, n_frames)
    x, y, z = np.meshgrid(*(np.arange(n) for n in shape[:3]), indexing="ij")
    echo = 9.0 * np.exp(-((x - 2) ** 2 + (y - 3) ** 2 + (z - 3) ** 2) / 2 + 1.1j * z)
    noise = rng.normal(size=(2, *shape)) * noise_rms / np.sqrt(2)
    frames = (echo[..., None] + noise[0] + 1j * noise[1]).astype(np.complex64)
    read: list[int] = []

    def reader(start: int, stop: int) -> np.ndarray:
        read.extend(range(start, stop))
        return frames[..., start:stop]

    return Acquisition("rec", Path("rec.npz"), shape, GEOMETRY, "iq", reader), frames, read


def test_levels_of_a_long_recording_come_from_runs_of_it() -> None:
    acquisition, frames, read = recording(700)
    levels = measure_levels(acquisition, noise_measure="differences")
    assert levels.carrier_rad[2] == pytest.approx(1.1, abs=0.02)
    assert levels.carrier_rad[:2] == pytest.approx((0.0, 0.0), abs=0.02)
    assert levels.noise_rms == pytest.approx(0.3, rel=0.1)
    assert levels.peak == pytest.approx(np.abs(frames[..., sorted(set(read))]).max())
    assert len(read) == 128
    assert (min(read), max(read)) == (0, 699)


def test_a_short_recording_is_looked_at_whole() -> None:
    acquisition, frames, read = recording(90, seed=1)
    levels = measure_levels(acquisition, noise_measure="differences")
    block = torch.from_numpy(frames)
    assert levels.noise_rms == pytest.approx(measure_noise_rms(block, noise_measure="differences"))
    assert levels.carrier_rad == pytest.approx(measure_carrier(block).tolist(), abs=1e-6)
    assert read == list(range(90))


def test_every_recording_is_measured_once() -> None:
    first, second = recording(40, seed=3), recording(40, seed=4, noise_rms=0.6)
    step = MeasureRecordingd("image", noise_measure="differences")
    seen = [step({"image": 0, "acquisition": a})["levels"] for a in (first[0], first[0], second[0], second[0])]
    assert seen[0] is seen[1]
    assert seen[2] is seen[3]
    assert seen[2].noise_rms == pytest.approx(0.6, rel=0.1)
    assert len(first[2]) == len(second[2]) == 40


def test_an_unknown_measure_is_refused() -> None:
    with pytest.raises(UserError, match="noise_measure is 'loudest'"):
        measure_levels(recording(30)[0], noise_measure="loudest")
