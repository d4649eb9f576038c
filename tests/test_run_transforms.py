"""A block that is prepared in runs of frames has the sites of the block that is prepared at once."""

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.transforms import Compose

from sparse_ulm.acquisition import Acquisition, Geometry, memory_runs
from sparse_ulm.classical.pipeline import Recorded, localise_frames
from sparse_ulm.classical.presets import find_preset
from sparse_ulm.errors import UserError
from sparse_ulm.io import open_recording, save_recording
from sparse_ulm.run_transforms import InRunsd
from sparse_ulm.transforms import CorrelateWithPsfd, LoadIqBlockd, MeasureRecordingd, ToSparseTensord

SHAPE = (9, 7, 11, 50)
GEOMETRY = Geometry.from_voxel_size(
    (1e-4, 1.1e-4, 0.9e-4), (0.0, 0.0, 0.0), frame_rate_hz=500.0, transmit_frequency_hz=8e6, sound_speed_m_s=1540.0
)
FRAME_BYTES = 8 * 9 * 7 * 11


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise, and a bright bubble that moves along x."""
    rng = np.random.default_rng(2)
    frames = rng.normal(size=(2, *SHAPE)).astype(np.float32)
    x, y, z, t = np.ogrid[tuple(map(slice, SHAPE))]
    bubble = 30.0 * np.exp(-((x - 2 - 0.1 * t) ** 2 + (y - 3) ** 2 + (z - 5) ** 2) / 2.0 + 0.7j * z)
    path = tmp_path_factory.mktemp("runs") / "a.npz"
    save_recording(path, (frames[0] + 1j * frames[1] + bubble).astype(np.complex64), GEOMETRY)
    return path


def preparation(*, run_frames: float, max_sites: int = 10**6, whole_recording: bool, multiple: int = 4) -> InRunsd:
    load = LoadIqBlockd("image")
    levels = [MeasureRecordingd("image", noise_measure="differences")] if whole_recording else []
    sparse = ToSparseTensord(
        "image", rule="iq_over_noise", noise_factor=2.5, noise_measure="differences", correlation_threshold=0.25,
        max_sites=max_sites, floor_db=-30.0, features="magnitude_and_complex", site_multiple=(4, 4, 4, multiple),
    )  # fmt: skip
    steps = Compose([load, *levels, CorrelateWithPsfd("image", "geometry", (2.0, 2.0, 1.1)), sparse])
    return InRunsd(
        "image", load=load, steps=steps, noise_measure=None if whole_recording else "differences",
        max_run_bytes=run_frames * FRAME_BYTES, site_multiple=(4, 4, 4, multiple),
    )  # fmt: skip


def test_with_the_recording_s_levels_runs_change_nothing(recording: Path) -> None:
    item = {"image": open_recording(recording), "start": 3, "stop": 46, "core": (5, 44)}
    whole = preparation(run_frames=1000, whole_recording=True)(item)
    parts = preparation(run_frames=9, whole_recording=True)(item)
    assert torch.equal(parts["image"].coords, whole["image"].coords)
    torch.testing.assert_close(parts["image"].feats, whole["image"].feats, atol=1e-6, rtol=1e-5)
    assert parts["image"].spatial_range == whole["image"].spatial_range == (1, 12, 8, 12, 44)
    assert {key: parts[key] for key in ("start", "core", "noise_rms", "shape")} == {
        "start": 3, "core": (5, 44), "noise_rms": whole["noise_rms"], "shape": SHAPE[:3],
    }  # fmt: skip
    assert parts.keys() == whole.keys()


def test_a_block_s_own_levels_are_measured_over_all_its_runs(recording: Path) -> None:
    whole = preparation(run_frames=1000, whole_recording=False, multiple=32)({"image": str(recording)})
    parts = preparation(run_frames=9, whole_recording=False, multiple=32)({"image": str(recording)})
    assert parts["noise_rms"] == pytest.approx(whole["noise_rms"], rel=0.02)
    assert parts["image"].spatial_range == (1, 12, 8, 12, 64)
    both = {tuple(row) for row in parts["image"].coords.tolist()} & {
        tuple(row) for row in whole["image"].coords.tolist()
    }
    assert len(both) > 0.97 * max(len(parts["image"]), len(whole["image"]))


def test_a_budget_is_shared_out_by_frames(recording: Path) -> None:
    kept = preparation(run_frames=10, max_sites=55, whole_recording=True)({"image": str(recording)})["image"]
    assert torch.bincount(kept.coords[:, 4] // 10).tolist() == [11] * 5


def test_the_conventional_pipeline_finds_the_same_bubble_in_runs(recording: Path) -> None:
    def found(megabytes: float | int) -> np.ndarray:
        recorded = Recorded(
            block_frames=50, noise_measure="differences", psf_fwhm_wavelengths=(2.0, 2.0, 1.1),
            max_run_megabytes=megabytes,
        )  # fmt: skip
        preset = find_preset("gaussian_kalman", noise_factor=8.0)
        part = localise_frames(open_recording(recording), preset, recorded, start=2, stop=41)
        assert part.frame.tolist() == list(range(2, 41))
        return part.position_voxel

    np.testing.assert_allclose(found(8e-6 * FRAME_BYTES), found(1), atol=1e-9)


def test_frames_are_read_in_runs(recording: Path) -> None:
    acquisition, asked = open_recording(recording), []
    source = Acquisition(**{**vars(acquisition), "read": lambda a, b: asked.append(b - a) or acquisition.read(a, b)})
    preparation(run_frames=9, whole_recording=False)({"image": source})
    assert max(asked) <= 9
    assert sum(asked) == 2 * 50  # once for the levels


def test_runs_are_of_about_equal_length_and_cover_all_frames() -> None:
    runs = memory_runs(7, 48, n_bytes=10.0 * 8 * 2 * 3 * 5, shape=(2, 3, 5))
    assert [stop - start for start, stop in runs] == [9, 8, 8, 8, 8]
    assert (runs[0][0], runs[-1][1]) == (7, 48)
    assert memory_runs(0, 12, n_bytes=1.0, shape=(2, 3, 5)) == [(0, 4), (4, 8), (8, 12)]


@pytest.mark.parametrize("size", [0, -3.0])
def test_an_impossible_size_is_refused(size: float) -> None:
    with pytest.raises(UserError, match="wanted a positive number"):
        preparation(run_frames=size, whole_recording=True)
