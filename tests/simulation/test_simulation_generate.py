"""Folders of recordings: files, independence of the seeds, refusals, and the config itself."""

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from simulation_cases import straight_vessel

from sparse_ulm.io import open_recording, open_recordings
from sparse_ulm.io.truth import read_truth
from sparse_ulm.simulation import ParameterRanges, SimulationError, VesselError, write_recordings, write_swc
from sparse_ulm.simulation.generate import load_trees

RANGES = ParameterRanges(
    grid_size=(8, 9, 10), n_frames=6, n_bubbles=3, side_lobe_share=0.0, transmit_frequency_hz=(14e6, 16e6)
)
ROOT = Path(__file__).resolve().parents[2]


def write(folder: Path, n_recordings: int = 2, **changes: object) -> Path:
    options = {"vessels": "synthetic", "seed": 4, "ranges": RANGES, "file_format": "npz"}
    return write_recordings(folder, n_recordings=n_recordings, **(options | changes))


def test_files_and_their_content_agree(tmp_path: Path) -> None:
    summary = json.loads(write(tmp_path).read_text())
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "simulated_0000.json", "simulated_0000.npz", "simulated_0000_truth.csv",
        "simulated_0001.json", "simulated_0001.npz", "simulated_0001_truth.csv", "simulation.json",
    ]  # fmt: skip
    for row in summary["recordings"]:
        recording = open_recording(tmp_path / row["file"])
        truth = read_truth(tmp_path / f"{row['name']}_truth.csv", recording.geometry)
        assert recording.shape == (8, 9, 10, 6)
        assert recording.geometry.frame_rate_hz == pytest.approx(row["frame_rate_hz"])
        assert recording.geometry.transmit_frequency_hz == pytest.approx(row["transmit_frequency_hz"])
        inside = (np.abs(truth.position_voxel - [3.5, 4, 4.5]) <= np.array([4, 4.5, 5]) + 1e-6).all(axis=1)
        np.testing.assert_array_equal(np.bincount(truth.frame[inside], minlength=6), row["n_bubbles"])
    assert (summary["seed"], summary["vessels"]) == (4, [{"name": "synthetic", "sha256": None}])
    assert summary["ranges"]["grid_size"] == [8, 9, 10]


def test_the_truth_is_where_the_image_is_bright(tmp_path: Path) -> None:
    """One bubble, hardly any noise: the brightest voxel of each frame is the one that holds it, or its neighbour."""
    ranges = ParameterRanges(grid_size=(12, 13, 14), n_frames=5, n_bubbles=1, side_lobe_share=0.0, snr_db=(60.0, 60.0))
    write(tmp_path, 3, ranges=ranges, seed=2)
    for name in ("simulated_0000", "simulated_0001", "simulated_0002"):
        recording = open_recording(tmp_path / f"{name}.npz")
        truth = read_truth(tmp_path / f"{name}_truth.csv", recording.geometry)
        image = np.abs(recording.frames(0, 5))
        for frame in range(5):
            brightest = np.unravel_index(image[..., frame].argmax(), image.shape[:3])
            distance = np.abs(truth.position_voxel[truth.frame == frame] - brightest).max(axis=1)
            assert distance.min() < 1.5


def test_a_recording_depends_on_seed_and_number_alone(tmp_path: Path) -> None:
    write(tmp_path / "two", 2)
    write(tmp_path / "three", 3)
    write(tmp_path / "other", 2, seed=5)
    for name in ("simulated_0000.npz", "simulated_0001.npz"):
        frames = [open_recording(tmp_path / folder / name).frames(0, 6) for folder in ("two", "three", "other")]
        np.testing.assert_array_equal(frames[0], frames[1])
        assert not np.array_equal(frames[0], frames[2])
    first, second = (open_recording(tmp_path / "two" / f"simulated_000{i}.npz").frames(0, 6) for i in (0, 1))
    assert not np.array_equal(first, second)


def test_workers_change_nothing(tmp_path: Path) -> None:
    write(tmp_path / "one", 2)
    write(tmp_path / "two", 2, n_workers=2)
    for name in ("simulated_0000", "simulated_0001"):
        np.testing.assert_array_equal(
            *(open_recording(tmp_path / f / f"{name}.npz").frames(0, 6) for f in ("one", "two"))
        )
        one, two = ((tmp_path / f / f"{name}_truth.csv").read_bytes() for f in ("one", "two"))
        assert one == two


@pytest.mark.parametrize(
    ("file_format", "suffix"),
    [("nifti", ".nii.gz"), ("nii", ".nii"), ("npy", ".npy"), ("mat", ".mat"), ("mat73", ".mat")],
)
def test_every_format_reads_back_the_same(tmp_path: Path, file_format: str, suffix: str) -> None:
    write(tmp_path / "npz", 1)
    write(tmp_path / "other", 1, file_format=file_format)
    expected = open_recording(tmp_path / "npz" / "simulated_0000.npz")
    found = open_recording(tmp_path / "other" / f"simulated_0000{suffix}")
    np.testing.assert_array_equal(found.frames(0, 6), expected.frames(0, 6))
    np.testing.assert_allclose(found.geometry.matrix_m, expected.geometry.matrix_m, atol=1e-9)


def test_h5_holds_correlation_maps_with_the_same_truth(tmp_path: Path) -> None:
    write(tmp_path, 1, file_format="h5", seed=3)
    (recording,) = open_recordings(tmp_path / "simulated_0000.h5")
    assert (recording.content, recording.shape) == ("correlation", (8, 9, 10, 6))
    correlation = np.abs(recording.frames(0, 6))
    assert 0.5 < correlation.max() <= 1.0 + 1e-5
    truth = read_truth(tmp_path / "simulated_0000_truth.csv", recording.geometry)
    with h5py.File(tmp_path / "simulated_0000.h5") as file:
        coords = file["1/ground_truth/coords"][:]
    assert coords.shape[1:] == (4, 6)
    track, frame = np.nonzero(np.isfinite(coords[:, 3]))
    order = np.lexsort((truth.frame, truth.track_id))
    np.testing.assert_array_equal(truth.track_id[order], track)
    np.testing.assert_array_equal(truth.frame[order], frame)
    np.testing.assert_allclose(coords[track, :3, frame], truth.position_voxel[order], atol=1e-4)
    np.testing.assert_allclose(coords[track, 3, frame] * recording.geometry.frame_rate_hz, frame, atol=1e-6)


def test_earlier_recordings_are_kept_unless_told(tmp_path: Path) -> None:
    write(tmp_path, 3)
    before = (tmp_path / "simulated_0000.npz").read_bytes()
    with pytest.raises(SimulationError, match="already holds recordings"):
        write(tmp_path, 2, seed=9)
    assert (tmp_path / "simulated_0000.npz").read_bytes() == before
    (tmp_path / "notes.txt").write_text("mine")
    write(tmp_path, 2, seed=9, overwrite=True)
    assert not list(tmp_path.glob("simulated_0002*"))
    assert (tmp_path / "notes.txt").exists()


def test_real_vessels_by_file_folder_and_mixture(tmp_path: Path) -> None:
    write_swc(tmp_path / "b.swc", straight_vessel(400))
    write_swc(tmp_path / "a.swc", straight_vessel(500))
    assert [s.name for s in load_trees([str(tmp_path)])] == ["a.swc", "b.swc"]
    assert [s.name for s in load_trees(["synthetic", str(tmp_path / "b.swc")])] == ["synthetic", "b.swc"]
    summary = json.loads(write(tmp_path / "out", 4, vessels=[str(tmp_path / "a.swc"), "synthetic"]).read_text())
    assert {row["vessels"] for row in summary["recordings"]} == {"a.swc", "synthetic"}
    assert len(summary["vessels"][0]["sha256"]) == 64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file_format": "dicom"}, "format is 'dicom'"),
        ({"n_recordings": 0}, "n_recordings 0"),
        ({"n_workers": 0}, "n_workers 0"),
        ({"seed": -1}, "seed -1"),
        ({"vessels": []}, "vessels is empty"),
    ],
)
def test_impossible_options_are_refused_before_anything_is_written(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(SimulationError, match=message):
        write(tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_missing_vessels_are_named(tmp_path: Path) -> None:
    with pytest.raises(VesselError, match=r"none\.swc is not a file"):
        write(tmp_path, vessels=str(tmp_path / "none.swc"))
    with pytest.raises(SimulationError, match=r"holds no \.swc file"):
        write(tmp_path, vessels=str(tmp_path))


def test_the_config_runs_as_documented(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/simulate.yaml"]
    options = [
        "--n_recordings", "1", "--output_dir", str(tmp_path / "out"), "--grid_size", "[8,1,10]", "--n_frames", "5",
        "--format", "npz", "--snr_db", "20", "--bubbles_per_psf_volume", "[0.1,0.2]",
    ]  # fmt: skip
    done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    row = json.loads((tmp_path / "out" / "simulation.json").read_text())["recordings"][0]
    assert (row["grid_size"], row["snr_db"]) == ([8, 1, 10], 20.0)
    assert open_recording(tmp_path / "out" / "simulated_0000.npz").shape == (8, 1, 10, 5)


def test_the_config_names_every_range() -> None:
    """A range that is added must be offered to users."""
    import yaml

    config = yaml.safe_load((ROOT / "configs" / "simulate.yaml").read_text())
    offered = set(config["ranges"]) - {"_target_"}
    assert offered == set(ParameterRanges.__dataclass_fields__)
    assert offered <= set(config)
