"""What a recording will need: by hand where it is arithmetic, and told by the doctor."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from sparse_ulm import doctor, fit
from sparse_ulm.acquisition import Acquisition, Geometry
from sparse_ulm.io import save_recording

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = yaml.safe_load((ROOT / "configs" / "inference.yaml").read_text())
GEOMETRY = Geometry.from_voxel_size(
    (1e-4, 1.1e-4, 0.9e-4), (0.0, 0.0, 0.0), frame_rate_hz=500.0, transmit_frequency_hz=8e6, sound_speed_m_s=1540.0
)


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of 1 GB on a machine with 7 GB more, and 3 GB of disk."""
    memory = SimpleNamespace(rss=10**9)
    monkeypatch.setattr(fit.psutil, "Process", lambda: SimpleNamespace(memory_info=lambda: memory))
    monkeypatch.setattr(fit.psutil, "virtual_memory", lambda: SimpleNamespace(available=7 * 10**9))
    monkeypatch.setattr(fit.shutil, "disk_usage", lambda _: SimpleNamespace(free=3 * 10**9))


def recording(shape: tuple[int, int, int, int], *, n_bright: int = 7) -> Acquisition:
    """Weak noise, and some bright voxels in every frame."""
    rng = np.random.default_rng(3)

    def read(start: int, stop: int) -> np.ndarray:
        frames = rng.normal(size=(2, *shape[:3], stop - start)).astype(np.float32)
        # No noise beyond 2.5 rms, so that the bright ones are all that is kept.
        frames = np.clip(frames, -1.0, 1.0)
        iq = (frames[0] + 1j * frames[1]).astype(np.complex64)
        iq.reshape(-1, stop - start)[:n_bright] = 100.0
        return iq

    return Acquisition("a", Path("a.npz"), shape, GEOMETRY, "iq", read)


def test_by_hand(tmp_path: Path) -> None:
    found = fit.estimate_fit(recording((20, 10, 30, 50)), SETTINGS | {"block_frames": 40}, output_dir=tmp_path)
    assert found.sites_per_frame == 7
    run, block = 6 * 50 * 8 * 6000, 200 * 7 * 50
    assert found.memory == pytest.approx(1e9 + 1.25 * (run + block))
    assert found.memory_available == 8e9
    assert found.disk == pytest.approx(0.02 * 6000 * 512)
    assert (found.disk_free, found.problems) == (3e9, [])


@pytest.mark.parametrize(
    ("changes", "cure"),
    [
        ({}, "Lower max_tile_sites"),
        ({"max_run_megabytes": 100.0, "max_tile_sites": 1000}, "Lower max_run_megabytes"),
        ({"n_tissue_components": 2, "max_tile_sites": 1000}, "Lower clutter_window_frames"),
        ({"block_frames": 2000, "max_tile_sites": 1000, "max_kept_sites": 1000}, "Lower block_frames"),
    ],
)
def test_what_is_too_large_comes_with_its_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, float], cure: str
) -> None:
    monkeypatch.setattr(fit.psutil, "virtual_memory", lambda: SimpleNamespace(available=10**8))
    long, settings = recording((40, 40, 40, 10**5), n_bright=2000), SETTINGS | {"max_run_megabytes": 5.0} | changes
    (problem,) = fit.estimate_fit(long, settings, output_dir=tmp_path).problems
    assert re.fullmatch(rf"inference will take about \d\.\d GB, 1\.1 GB are available\. {cure}.*", problem)


def test_a_2d_map_is_refined_in_two_axes_and_a_full_disk_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flat = fit.estimate_fit(recording((300, 1, 200, 5)), SETTINGS, output_dir=tmp_path)
    assert flat.disk == pytest.approx(0.02 * 60_000 * 64)
    monkeypatch.setattr(fit, "BYTES_PER_MAP_VOXEL", 20.0)
    deep = fit.estimate_fit(recording((300, 5, 200, 5)), SETTINGS, output_dir=tmp_path)
    assert deep.problems == ["outputs will take about 3.1 GB, 3.0 GB are free. Free some space."]


def test_the_doctor_tells_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.npz"
    save_recording(path, recording((5, 6, 7, 20)).frames(0, 20), GEOMETRY)
    finding = doctor.check_fit(path, {}, ROOT)
    assert (
        "a.npz: 5 x 6 x 7 x 20 samples, about 7 sites per frame; inference takes about 1.0 GB of 8.0 GB" in finding.line
    )
    assert finding.problems == []
    np.savez(tmp_path / "b.npz", iq=np.ones((2, 3, 4, 5), np.complex64))
    finding = doctor.check_fit(tmp_path / "b.npz", {"frame_rate_hz": 500.0}, ROOT)
    assert "voxel_size_mm" in finding.problems[0]
    geometry = {"voxel_size_mm": [0.1, 0.2, 0.3], "transmit_frequency_hz": 8e6, "sound_speed_m_s": 1540.0}
    assert doctor.check_fit(tmp_path / "b.npz", geometry | {"frame_rate_hz": 500.0}, ROOT).problems == []
