"""configs/classical.yaml and inference.yaml on a recording whose tissue moves, with and without `motion`."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from bundle_runs import GEOMETRY, ROOT, blob_frames, infer, run_config, save_untrained
from motion_phantom import FRAME_RATE_HZ, STEP_M, Phantom, geometry

from sparse_ulm.errors import find_user_error
from sparse_ulm.io import save_recording
from sparse_ulm.io.tables import read_localisations

N_FRAMES = 48
PLACE_M = np.array([0.0, 8.0, 11.0]) * STEP_M


def swing(place: np.ndarray, frame: int) -> np.ndarray:
    return np.sin(2 * np.pi * 8.0 * frame / FRAME_RATE_HZ) * np.array([0.0, 20e-6, 35e-6]) * np.ones((len(place), 1))


def bubble(frame: int) -> np.ndarray:
    """One that runs along x, again and again, in the reference."""
    return PLACE_M + np.array([[1.0 + 0.7 * (frame % 24), 0.0, 0.0]]) * STEP_M


@pytest.fixture(scope="module")
def moving(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("moving")
    save_recording(folder / "rec.npz", Phantom(swing).frames(N_FRAMES, bubble), geometry())
    return folder


def track(dataset_dir, output_dir, **options):
    return run_config(
        "classical.yaml", dataset_dir=dataset_dir, output_dir=output_dir, n_tissue_components=6, n_brightest=1,
        clutter_window_frames=48, noise_factor=2.0, motion_window_frames=6, min_length=4, n_threads=1, **options,
    )  # fmt: skip


def off_the_line_um(folder: Path) -> float:
    """How far bubbles of the table lie from their mean line, across it: median over those near it."""
    found = read_localisations(folder / "rec" / "rec_localisations.csv", geometry())
    across = (found.position_voxel - PLACE_M / STEP_M)[:, 1:] * STEP_M[1:]
    near = across[np.linalg.norm(across, axis=1) < 120e-6]
    assert len(near) > 0.5 * N_FRAMES
    return 1e6 * float(np.median(np.linalg.norm(near - np.median(near, axis=0), axis=1)))


def test_the_map_of_moving_tissue_is_sharper_with_motion(moving, tmp_path) -> None:
    width, voxels = {}, {}
    for kind in ("none", "rigid"):
        track(moving, tmp_path / kind, motion=kind)
        width[kind] = off_the_line_um(tmp_path / kind)
        density = np.asarray(nibabel.load(tmp_path / kind / "rec" / "rec_density.nii.gz").dataobj)
        voxels[kind] = int((density.sum(axis=0) > 0).sum())
    assert width["rigid"] < 0.75 * width["none"], (width, voxels)
    assert voxels["rigid"] > 0, (width, voxels)
    assert not (tmp_path / "none" / "rec" / "rec_motion.csv").exists()
    assert len((tmp_path / "rigid" / "rec" / "rec_motion.csv").read_text().splitlines()) == N_FRAMES + 1
    config = json.loads((tmp_path / "rigid" / "rec" / "provenance.json").read_text())["config"]
    assert config["motion"] == {"kind": "rigid", "window_frames": 6, "limit_m": None}
    assert 0.02 < config["motion_found"]["largest_displacement_mm"] < 0.12


def test_localisation_net_takes_motion_and_writes_dicom(moving, tmp_path) -> None:
    pytest.importorskip("highdicom")
    width = {}
    for kind in ("none", "rigid"):
        run_config(
            "inference.yaml", dataset_dir=moving, output_dir=tmp_path / kind, weights=ROOT / "models/localisation.pt",
            n_tissue_components=6, clutter_window_frames=48, motion=kind, motion_window_frames=6, bubble_threshold=0.8,
            linking={"min_length": 4}, maps=["counts"], track_formats=["csv"], dicom=True, n_threads=1,
        )  # fmt: skip
        width[kind] = off_the_line_um(tmp_path / kind)
    assert width["rigid"] < 0.75 * width["none"], width
    moved = (tmp_path / "none/rec/rec_motion.csv", tmp_path / "rigid/rec/rec_motion.csv")
    assert [path.exists() for path in moved] == [False, True]
    density = np.asarray(nibabel.load(tmp_path / "rigid/rec/rec_density.nii.gz").dataobj)
    stored = pydicom.dcmread(tmp_path / "rigid/rec/rec_density.dcm").pixel_array  # (y, z, x)
    np.testing.assert_array_equal(stored.transpose(2, 0, 1), density)
    assert density.any()


def test_blocks_change_no_bit(moving, tmp_path) -> None:
    for block_frames in (48, 7):
        track(moving, tmp_path / str(block_frames), motion="rigid", motion_limit_mm=0.03, block_frames=block_frames,
              noise_measure="differences")  # fmt: skip
    one, other = ((tmp_path / n / "rec" / "rec_motion.csv").read_bytes() for n in ("48", "7"))
    assert one == other
    assert b",1\n" in one


def test_the_map_network_takes_motion(tmp_path) -> None:
    """Speckle is missing here, a bubble stands for tissue: the run must go through and say what it did."""
    save_recording(tmp_path / "data" / "rec.npz", blob_frames(), GEOMETRY)
    weights = save_untrained(tmp_path / "model.pt")
    infer(tmp_path / "data", tmp_path / "out", weights, motion="rigid", motion_window_frames=10)
    assert (tmp_path / "out" / "rec" / "rec_motion.csv").is_file()
    config = json.loads((tmp_path / "out" / "rec" / "provenance.json").read_text())["config"]
    assert config["motion"]["kind"] == "rigid"
    assert config["motion_found"]["n_rejected_frames"] < 40


def test_windows_longer_than_the_recording_are_one_line(moving, tmp_path) -> None:
    with pytest.raises(Exception) as raised:  # MONAI wraps it
        run_config("classical.yaml", dataset_dir=moving, output_dir=tmp_path, motion="rigid", motion_window_frames=60)
    assert "motion_window_frames is 60 for 48 frames" in str(find_user_error(raised.value))
