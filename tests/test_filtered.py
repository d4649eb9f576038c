"""A recording behind its clutter filter: windows, their overlap, and no difference by how it is read."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from sparse_ulm.acquisition import Acquisition, Geometry
from sparse_ulm.blocks import RecordingBlocks
from sparse_ulm.clutter import ClutterFilter, filter_clutter
from sparse_ulm.errors import RecordingError
from sparse_ulm.filtered import FilteredFrames, filtered
from sparse_ulm.io.registry import save_recording
from sparse_ulm.recording_levels import measure_levels
from sparse_ulm.transforms import LoadIqBlockd

GEOMETRY = Geometry.from_voxel_size(
    (1e-4, 1.1e-4, 0.9e-4), (0.0, 0.0, 0.0), frame_rate_hz=500.0, transmit_frequency_hz=8e6, sound_speed_m_s=1540.0
)
CLUTTER = ClutterFilter(n_tissue_components=2, band_pass_hz=(20.0, 200.0), window_frames=20, overlap_frames=6)


def samples(n_frames: int, *, seed: int = 0) -> np.ndarray:
    """Bright, slow tissue and noise."""
    rng = np.random.default_rng(seed)
    shape = (4, 5, 6, n_frames)
    tissue = 50.0 * rng.normal(size=(*shape[:3], 1)) * np.exp(2j * np.pi * 3.0 * np.arange(n_frames) / 500.0)
    return (tissue + rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


def recording(n_frames: int, **options: int) -> tuple[Acquisition, np.ndarray, list[tuple[int, int]]]:
    frames = samples(n_frames, **options)
    read: list[tuple[int, int]] = []

    def reader(start: int, stop: int) -> np.ndarray:
        read.append((start, stop))
        return frames[..., start:stop]

    return Acquisition("rec", Path("rec.npz"), frames.shape, GEOMETRY, "iq", reader), frames, read


def test_windows_by_hand() -> None:
    """70 frames in windows of about 20: four, each with 6 frames of its neighbours."""
    source, frames, read = recording(70)
    behind = filtered(source, CLUTTER)
    whole = behind.frames(0, 70)
    assert read == [(0, 23), (11, 41), (29, 58), (46, 70)]
    third = torch.from_numpy(np.ascontiguousarray(frames[..., 29:58]))
    wanted = filter_clutter(third, CLUTTER, frame_rate_hz=500.0).numpy()[..., 6:23]
    np.testing.assert_array_equal(whole[..., 35:52], wanted)
    assert np.abs(whole).max() < 0.2 * np.abs(frames).max()


@pytest.mark.parametrize("cuts", [(10, 20, 30), (1, 69), (35,), (17, 35, 52)])
def test_frames_do_not_depend_on_how_they_are_read(cuts: tuple[int, ...]) -> None:
    whole = filtered(recording(70)[0], CLUTTER).frames(0, 70)
    behind = filtered(recording(70)[0], CLUTTER)
    edges = [0, *cuts, 70]
    parts = [behind.frames(a, b) for a, b in pairwise(edges)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=3), whole)


def test_blocks_with_context_filter_every_window_once() -> None:
    source, _, read = recording(120)
    behind = filtered(source, CLUTTER)
    for start in range(0, 120, 20):
        behind.frames(max(0, start - 8), min(120, start + 28))
    assert len(read) == 6


@pytest.mark.parametrize(("n_frames", "n_windows"), [(1, 1), (9, 1), (29, 1), (31, 2), (50, 2), (51, 3), (400, 20)])
def test_no_window_is_a_short_rest(n_frames: int, n_windows: int) -> None:
    bounds = FilteredFrames(recording(n_frames)[0], CLUTTER).bounds
    assert (bounds[0], bounds[-1], len(bounds) - 1) == (0, n_frames, n_windows)
    assert np.ptp(np.diff(bounds)) <= 1


def test_a_filter_that_is_off_and_a_correlation_map_stay() -> None:
    source = recording(30)[0]
    assert filtered(source, ClutterFilter()) is source
    stored = replace(source, content="correlation")
    assert filtered(stored, CLUTTER) is stored


def test_too_few_frames_name_the_recording() -> None:
    behind = filtered(recording(5)[0], ClutterFilter(n_tissue_components=5))
    with pytest.raises(RecordingError, match=r"rec\.npz, frames 0:5: n_tissue_components is 5 for 5 frames"):
        behind.frames(0, 5)


def test_levels_are_those_of_the_filtered_frames() -> None:
    source = recording(60, seed=2)[0]
    behind = filtered(source, CLUTTER)
    assert measure_levels(source, noise_measure="faintest").peak > 100.0
    assert measure_levels(behind, noise_measure="faintest").peak < 20.0


def test_blocks_and_files_are_filtered_alike(tmp_path: Path) -> None:
    """The items of a data set, and a path alone, as MONAI Label gives it."""
    save_recording(tmp_path / "rec.npz", samples(50), GEOMETRY)
    settings = {"n_tissue_components": 2, "band_pass_hz": [20.0, 200.0], "window_frames": 20, "tissue_below_hz": None}
    blocks = RecordingBlocks(tmp_path, block_frames=30, clutter=settings)
    parts = [LoadIqBlockd("image")(item)["image"] for item in blocks]
    whole = LoadIqBlockd("image", clutter=settings)({"image": tmp_path / "rec.npz"})["image"]
    assert torch.equal(torch.cat(parts, dim=3), whole)
    assert whole.abs().max() < 20.0
