"""`python -m sparse_ulm.validate`: right numbers, bounded memory, one line for what cannot be used."""

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import nibabel
import numpy as np
import pytest

from sparse_ulm import validate
from sparse_ulm.acquisition import Acquisition, Geometry, as_rows
from sparse_ulm.io import save_recording

GEOMETRY = Geometry.from_voxel_size(
    (1.0e-4, 2.0e-4, 5.0e-5),
    (1.0e-3, -2.0e-3, 3.5e-3),
    frame_rate_hz=800.0,
    transmit_frequency_hz=7.7e6,
    sound_speed_m_s=1540.0,
)


@pytest.fixture
def samples() -> np.ndarray:
    """complex64 noise of unequal sizes 5, 6, 7, 8."""
    rng = np.random.default_rng(3)
    return (rng.normal(size=(5, 6, 7, 8)) + 1j * rng.normal(size=(5, 6, 7, 8))).astype(np.complex64)


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    """Run the command in this process: status, stdout, stderr."""
    status = validate.main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_report_holds_what_the_file_holds(tmp_path, samples, capsys):
    save_recording(tmp_path / "rec.nii.gz", samples, GEOMETRY)
    status, printed, errors = run(capsys, tmp_path / "rec.nii.gz", "--json")
    (report,) = json.loads(printed)
    assert (status, errors) == (0, "")
    assert report["usable"] is True
    assert report["problem"] is None
    assert report["format"] == "NIfTI-1"
    assert report["dtype"] == "complex64"
    assert report["shape"] == [5, 6, 7, 8]
    assert report["voxel_size_mm"] == [0.1, 0.2, 0.05]
    assert report["origin_mm"] == [1.0, -2.0, 3.5]
    assert report["wavelength_mm"] == 0.2  # 1540 m/s / 7.7 MHz
    assert report["voxel_per_wavelength"] == [0.5, 1.0, 0.25]
    assert report["duration_s"] == 0.01
    assert (report["n_not_finite"], report["clipped_share"]) == (0, 0.0)
    amplitude = np.abs(samples)
    np.testing.assert_allclose(report["amplitude_range"], [amplitude.min(), amplitude.max()], rtol=1e-6)
    np.testing.assert_allclose(report["amplitude_mean"], amplitude.mean(), rtol=1e-6)


def test_command_prints_for_people_and_needs_no_traceback(tmp_path, samples, capsys):
    save_recording(tmp_path / "rec.npz", samples, GEOMETRY)
    status, printed, _ = run(capsys, tmp_path / "rec.npz")
    assert status == 0
    assert "frame_rate_hz          800.0" in printed
    (tmp_path / "rec.json").unlink()
    command = [sys.executable, "-m", "sparse_ulm.validate", tmp_path / "rec.npz"]
    bad = subprocess.run(command, capture_output=True, text=True, check=False)
    assert bad.returncode == 1
    assert bad.stderr.count("\n") == 1
    assert bad.stderr.startswith("rec.npz: voxel size missing, give VoxelSize [mm, x y z] in rec.json")
    assert "frame rate missing" in bad.stderr


def test_options_fill_what_is_missing(tmp_path, samples, capsys):
    np.save(tmp_path / "rec.npy", samples)
    given = "--voxel_size_mm 0.1 0.2 0.05 --frame_rate_hz 800 --transmit_frequency_hz 7.7e6 --sound_speed_m_s 1540"
    status, printed, _ = run(capsys, tmp_path / "rec.npy", *given.split(), "--json")
    assert status == 0
    assert json.loads(printed)[0]["sources"]["frame rate"] == "the options"


def test_folder_reports_every_recording_and_fails_if_one_does(tmp_path, samples, capsys):
    save_recording(tmp_path / "good.mat", samples, GEOMETRY)
    nibabel.save(nibabel.Nifti1Image(np.abs(samples), np.eye(4)), tmp_path / "envelope.nii")
    status, printed, errors = run(capsys, tmp_path, "--json")
    reports = {report["name"]: report for report in json.loads(printed)}
    assert status == 1
    assert {name: report["usable"] for name, report in reports.items()} == {"envelope.nii": False, "good": True}
    assert errors.count("\n") == 1
    assert errors.startswith("envelope.nii: the image holds real-valued float32")


@pytest.mark.parametrize("path", ["absent.nii", "."])
def test_nothing_to_validate_is_one_line(tmp_path, capsys, path):
    status, printed, errors = run(capsys, tmp_path / path)
    assert (status, printed, errors.count("\n")) == (1, "", 1)


def test_not_finite_samples_make_a_recording_unusable(tmp_path, samples, capsys):
    samples[1, 2, 3, 5] = np.nan
    samples[0, 0, 0, 6] = np.inf
    save_recording(tmp_path / "rec.npy", samples, GEOMETRY)
    status, printed, errors = run(capsys, tmp_path / "rec.npy", "--json")
    (report,) = json.loads(printed)
    assert status == 1
    assert report["n_not_finite"] == 2
    assert "2 of 1680 samples are NaN or infinite, the first at (x, y, z, t) = (0, 0, 0, 6)" in errors
    finite = np.abs(samples[np.isfinite(samples)])
    np.testing.assert_allclose(report["amplitude_range"], [finite.min(), finite.max()], rtol=1e-6)


def test_zeros_make_a_recording_unusable(tmp_path, samples, capsys):
    save_recording(tmp_path / "rec.npy", 0 * samples, GEOMETRY)
    status, _, errors = run(capsys, tmp_path / "rec.npy")
    assert status == 1
    assert "every sample is 0" in errors


@pytest.mark.parametrize("frames_per_piece", [1, 3, 8])
def test_clipping_is_the_share_at_the_ends_of_the_range(tmp_path, samples, capsys, monkeypatch, frames_per_piece):
    monkeypatch.setattr(validate, "CHUNK_BYTES", frames_per_piece * 5 * 6 * 7 * 8)
    clipped = np.clip(samples.real, -1.0, 9.0) + 1j * np.clip(samples.imag, -9.0, 2.0)
    save_recording(tmp_path / "rec.npy", clipped.astype(np.complex64), GEOMETRY)
    _, printed, _ = run(capsys, tmp_path / "rec.npy", "--json")
    (report,) = json.loads(printed)
    n_clipped = np.count_nonzero(samples.real <= -1.0) + np.count_nonzero(samples.imag >= 2.0)
    np.testing.assert_allclose(report["clipped_share"], (n_clipped - 2) / samples.size, rtol=1e-12)
    assert any("clipped" in warning for warning in report["warnings"])


def test_coarse_voxels_are_warned_of(tmp_path, samples, capsys):
    coarse = Geometry(as_rows(np.diag([1.0e-4, 4.0e-4, 1.0e-4, 1.0])), 800.0, 7.7e6, 1540.0)
    save_recording(tmp_path / "rec.npz", samples, coarse)
    status, printed, _ = run(capsys, tmp_path / "rec.npz")
    assert status == 0
    assert "voxels are 2 wavelengths long" in printed


def test_memory_does_not_grow_with_the_recording(monkeypatch):
    monkeypatch.setattr(validate, "CHUNK_BYTES", 1 << 20)

    def read(start: int, stop: int) -> np.ndarray:
        return np.full((16, 16, 16, stop - start), 1 + 1j, np.complex64)

    acquisition = Acquisition("long", Path("long.nii"), (16, 16, 16, 3000), GEOMETRY, "iq", read)  # 98 MB
    tracemalloc.start()
    statistics = validate.gather_statistics(acquisition)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert statistics.n_samples == 16**3 * 3000
    assert peak_bytes < 8 << 20
