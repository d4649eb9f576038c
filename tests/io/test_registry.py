"""Which files are recordings, and which reader opens them."""

import h5py
import numpy as np
import pytest

from sparse_ulm.errors import RecordingError
from sparse_ulm.io import find_recordings, open_recording, open_recordings, read_correlation_truth, save_recording

OPTIONS = {
    "voxel_size_mm": (0.1, 0.2, 0.05),
    "frame_rate_hz": 800.0,
    "transmit_frequency_hz": 7.7e6,
    "sound_speed_m_s": 1540.0,
}


def test_folder_lists_its_recordings_sorted(tmp_path):
    for name in ("b.nii.gz", "a.NPY", "c.mat", "c_truth.csv", "c.json", ".d.partial.nii", "e.h5", "notes.txt"):
        (tmp_path / name).write_text("x")
    (tmp_path / "deep.nii").mkdir()
    assert [path.name for path in find_recordings(tmp_path)] == ["a.NPY", "b.nii.gz", "c.mat", "e.h5"]


def test_one_file_is_a_list_of_one(tmp_path):
    (tmp_path / "a.h5").write_text("x")
    assert find_recordings(tmp_path / "a.h5") == [tmp_path / "a.h5"]
    assert [path.name for path in find_recordings(f"{tmp_path}/a.h5::3")] == ["a.h5::3"]


def test_folder_without_recordings_is_an_error(tmp_path):
    with pytest.raises(RecordingError, match=r"no recordings found; wanted files ending in \.nii\.gz"):
        find_recordings(tmp_path)
    with pytest.raises(RecordingError, match="no such file"):
        find_recordings(tmp_path / "absent")


def test_name_is_the_stem_without_the_whole_suffix(tmp_path, frames):
    np.save(tmp_path / "rat.run-1.npy", frames)
    assert open_recording(tmp_path / "rat.run-1.npy", **OPTIONS).name == "rat.run-1"


@pytest.fixture
def training_file(tmp_path, frames):
    """Groups 1, 2 and 10, each twice, thrice… the first; with truth in group 2 as tracks, in group 10 as rows."""
    path = tmp_path / "train.h5"
    coords = np.full((3, 4, 5), np.nan)  # (n_tracks, 4, n_times)
    coords[:, 0], coords[:, 1], coords[:, 2] = 1.25, 2.5, np.arange(3)[:, None]
    coords[:, 3] = np.arange(5) / 800.0 + 1.0e-5
    coords[1, :, 3:] = np.nan
    with h5py.File(path, "w") as file:
        for group in (10, 2, 1):
            file[f"{group}/CorrMap"] = np.stack([group * frames.real, group * frames.imag]).T
        file["2/ground_truth/coords"] = coords
        file["10/ground_truth/coords"] = coords.transpose(0, 2, 1).reshape(-1, 4)
        file["1/ground_truth/coords"] = np.ones((4, 4, 4, 4))
        file["readme"] = "not a group"
    return path


def test_training_file_opens_group_by_group(training_file, frames):
    opened = open_recordings(training_file, **OPTIONS)
    assert [acquisition.name for acquisition in opened] == ["train_1", "train_2", "train_10"]
    for factor, acquisition in zip((1, 2, 10), opened, strict=True):
        np.testing.assert_array_equal(acquisition.frames(3, 6), factor * frames[..., 3:6])
        assert acquisition.content == "correlation"


def test_one_group_is_asked_for_by_name(training_file, frames):
    acquisition = open_recording(f"{training_file}::10", **OPTIONS)
    assert acquisition.name == "train_10"
    np.testing.assert_array_equal(acquisition.frames(0, 8), 10 * frames)
    with pytest.raises(RecordingError, match=r"holds 3 recordings; wanted one\. Ask for one group, as .*train\.h5::1"):
        open_recording(training_file, **OPTIONS)
    with pytest.raises(RecordingError, match=r"no group '3' with a CorrMap; wanted one of \['1', '2', '10'\]"):
        open_recording(f"{training_file}::3", **OPTIONS)


def test_training_truth_is_tracks_in_voxels_and_frames(training_file, geometry):
    track_id, frame, position_voxel = read_correlation_truth(training_file, "2", geometry)
    assert track_id.tolist() == [0] * 5 + [1] * 3 + [2] * 5  # the NaN of track 1 are left out
    assert frame.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 0, 1, 2, 3, 4]
    np.testing.assert_array_equal(position_voxel, [[1.25, 2.5, track] for track in track_id])


def test_training_truth_in_rows_of_four_states_no_tracks(training_file, geometry):
    track_id, frame, position_voxel = read_correlation_truth(f"{training_file}::10", None, geometry)
    assert set(track_id.tolist()) == {-1}
    assert frame.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 0, 1, 2, 3, 4]
    assert position_voxel[:, 2].tolist() == [0] * 5 + [1] * 3 + [2] * 5


def test_training_truth_that_is_absent_or_odd_is_named(training_file, geometry):
    with pytest.raises(RecordingError, match="holds no 3/ground_truth/coords"):
        read_correlation_truth(training_file, "3", geometry)
    with pytest.raises(RecordingError, match=r"has shape \(4, 4, 4, 4\); wanted \(n_tracks, 4, n_times\) or \(n, 4\)"):
        read_correlation_truth(training_file, "1", geometry)


@pytest.mark.parametrize("name", ["a.uff", "a.zarr", "a.hraw"])
def test_formats_that_are_only_read_are_not_written(tmp_path, frames, geometry, name):
    with pytest.raises(RecordingError, match=rf"{name}: this format is only read; wanted one of \.nii, .*\.mat"):
        save_recording(tmp_path / name, frames, geometry)
    assert not (tmp_path / name).exists()


def test_an_hdf5_file_is_opened_by_what_it_holds(tmp_path, frames):
    """A zea file, a training file and one of Ultratrace may have the same suffix; a damaged one is named."""
    with h5py.File(tmp_path / "ultratrace.hdf5", "w") as file:
        file["acquisitions/7/meta/compound_image"] = frames.transpose(3, 1, 2, 0)
    assert open_recording(tmp_path / "ultratrace.hdf5", **OPTIONS).details["format"] == "Ultratrace HDF5"
    with h5py.File(tmp_path / "training.hdf5", "w") as file:
        file["acquisitions/7/iq_frames"] = frames
        file["1/CorrMap"] = np.stack([frames.real, frames.imag]).T
    assert open_recording(tmp_path / "training.hdf5", **OPTIONS).content == "correlation"
