"""Listing the blocks of a folder."""

from pathlib import Path

import numpy as np

from sparse_ulm.acquisition import Geometry
from sparse_ulm.blocks import RecordingBlocks, truth_of
from sparse_ulm.io import save_recording

GEOMETRY = Geometry.from_voxel_size(
    (5.0e-5, 5.0e-5, 4.0e-5), (0.0, 0.0, 0.0), frame_rate_hz=500.0, transmit_frequency_hz=15e6, sound_speed_m_s=1540.0
)


def test_recordings_of_one_stem_get_names_of_their_own_and_share_their_truth(tmp_path: Path) -> None:
    frames = np.ones((3, 4, 5, 6), np.complex64)
    for name in ("rec.npz", "rec.mat", "other.npz"):
        save_recording(tmp_path / name, frames, GEOMETRY)
    (tmp_path / "rec_truth.csv").write_text(
        "track_id,frame,time_s,x_mm,y_mm,z_mm,amplitude\n4,2,0.004,0.05,0.0,0.08,1.0\n"
    )
    items = list(RecordingBlocks(tmp_path, block_frames=4, with_truth=True))
    assert [(i["image"].name, i["start"], i["stop"]) for i in items] == [
        ("other", 0, 4),
        ("other", 4, 6),
        ("rec_mat", 0, 4),
        ("rec_mat", 4, 6),
        ("rec_npz", 0, 4),
        ("rec_npz", 4, 6),
    ]
    for item in items[2:]:
        truth = truth_of(item["label"])
        np.testing.assert_allclose(truth.position_voxel, [[1.0, 0.0, 2.0]], atol=1e-6)


def test_one_file_is_a_data_set_too(tmp_path: Path) -> None:
    save_recording(tmp_path / "rec.npz", np.ones((3, 4, 5, 6), np.complex64), GEOMETRY)
    assert len(RecordingBlocks(tmp_path / "rec.npz", block_frames=100)) == 1
