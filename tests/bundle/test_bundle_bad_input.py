"""Bad input through configs/inference.yaml: one line that says what was found, and no output left."""

import json
import re

import h5py
import jaxtyping
import nibabel
import numpy as np
import pytest
import torch
from bundle_runs import GEOMETRY, SIZES, blob_frames, infer, run_config, save_untrained

from sparse_ulm.io import save_recording
from sparse_ulm.workflow import find_user_error

SIDECAR = {
    "VoxelSize": [0.10, 0.11, 0.09],
    "Origin": [0.0, 0.0, 0.0],
    "CompoundSamplingFrequency": 500.0,
    "UltrasoundTransmitFrequency": 8.0e6,
    "BeamformingSoundVelocity": 1540.0,
}


def save_npy(folder, samples, sidecar=SIDECAR, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "rec.npy", samples, allow_pickle=True)
    content = {key: value for key, value in (sidecar | changes).items() if value is not None}
    (folder / "rec.json").write_text(json.dumps(content))


def real_valued(folder):
    save_npy(folder, blob_frames().real)


def wrong_rank(folder):
    save_npy(folder, blob_frames()[..., 0, 0])


def no_frame_rate(folder):
    save_npy(folder, blob_frames(), CompoundSamplingFrequency=None)


def no_voxel_size(folder):
    save_npy(folder, blob_frames(), VoxelSize=None)


def no_frequency(folder):
    save_npy(folder, blob_frames(), UltrasoundTransmitFrequency=None)


def contradiction(folder):
    save_recording(folder / "rec.nii.gz", blob_frames(), GEOMETRY)
    sidecar = json.loads((folder / "rec.json").read_text())
    (folder / "rec.json").write_text(json.dumps(sidecar | {"CompoundSamplingFrequency": 499.0}))


def nan_in_the_second_block(folder):
    frames = blob_frames()
    frames[2, 3, 4, 35] = np.nan
    save_npy(folder, frames)


def infinite(folder):
    frames = blob_frames()
    frames[5, 6, 7, 0] = np.inf
    save_npy(folder, frames)


def cut_nifti(folder):
    save_recording(folder / "rec.nii", blob_frames(), GEOMETRY)
    data = (folder / "rec.nii").read_bytes()
    (folder / "rec.nii").write_bytes(data[: len(data) // 2])


def cut_hdf5(folder):
    save_recording(folder / "rec.mat", blob_frames(), GEOMETRY, matlab_version="7.3")
    data = (folder / "rec.mat").read_bytes()
    (folder / "rec.mat").write_bytes(data[: len(data) // 2])


def pickled(folder):
    save_npy(folder, np.array([{"iq": 1}], dtype=object))


def real_nifti(folder):
    folder.mkdir(parents=True)
    nibabel.save(nibabel.Nifti1Image(blob_frames().real, np.eye(4)), folder / "rec.nii.gz")


def hdf5_without_maps(folder):
    folder.mkdir(parents=True)
    with h5py.File(folder / "rec.h5", "w") as file:
        file["other"] = np.zeros(3)


def two_of_one_name(folder):
    # rec.npz and rec.mat are told apart by their ending, and then one is called as the third.
    for name in ("rec.npz", "rec.mat", "rec_npz.nii.gz"):
        save_recording(folder / name, blob_frames(), GEOMETRY)


def nothing(folder):
    folder.mkdir(parents=True)


def no_folder(folder):
    pass


def flat(folder):
    save_recording(folder / "rec.npz", blob_frames((6, 1, 8, 32)), GEOMETRY)


CASES = {
    real_valued: r"rec\.npy.*complex",
    real_nifti: r"rec\.nii\.gz.*complex",
    wrong_rank: r"rec\.npy.*\(6, 7\)",
    no_frame_rate: "frame rate",
    no_voxel_size: "voxel size",
    no_frequency: "frequency",
    contradiction: "499",
    nan_in_the_second_block: r"1 NaN or infinite samples in frames 32:40.*\(2, 3, 4, 35\)",
    infinite: r"1 NaN or infinite samples in frames 0:32.*\(5, 6, 7, 0\)",
    cut_nifti: r"rec\.nii",
    cut_hdf5: r"rec\.mat",
    pickled: "pickle",
    hdf5_without_maps: "CorrMap",
    two_of_one_name: r"rec\.npz and rec_npz\.nii\.gz would both be written",
    nothing: "no recordings found",
    no_folder: "does not exist",
    flat: "2D recording.*--spatial_dims 2",
}


def mistake_of(call, *arguments, **options):
    """Give the one line that a user would see."""
    with pytest.raises(Exception) as caught:  # MONAI wraps errors of configs in its own
        call(*arguments, **options)
    mistake = find_user_error(caught.value)
    assert mistake is not None, caught.value
    assert "\n" not in str(mistake)
    return str(mistake)


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_bad_recording_is_one_line_and_leaves_nothing(make, tmp_path, weights):
    make(tmp_path / "in")
    line = mistake_of(infer, tmp_path / "in", tmp_path / "out", weights)
    assert re.search(CASES[make], line), line
    assert not (tmp_path / "out").exists()


def test_a_missing_frame_rate_may_be_given_as_an_option(tmp_path, weights):
    no_frame_rate(tmp_path / "in")
    infer(tmp_path / "in", tmp_path / "out", weights, frame_rate_hz=500)
    assert (tmp_path / "out/rec/rec_density.nii.gz").is_file()


def test_an_option_against_the_file_is_refused(tmp_path, weights):
    save_npy(tmp_path / "in", blob_frames())
    assert "400" in mistake_of(infer, tmp_path / "in", tmp_path / "out", weights, frame_rate_hz=400)


def test_good_recordings_before_and_behind_bad_ones_are_done(tmp_path, weights):
    nan_in_the_second_block(tmp_path / "in")
    for name in ("a_good", "z_good"):
        save_recording(tmp_path / f"in/{name}.npz", blob_frames(), GEOMETRY)
    (tmp_path / "in/cut.npz").write_bytes(b"PK")
    line = mistake_of(infer, tmp_path / "in", tmp_path / "out", weights)
    assert re.search(r"^2 of 4 recordings failed, the others are done \(cut\.npz: .*; rec: .* 1 NaN", line), line
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"a_good", "z_good", "manifest.json", "summary.csv"}
    assert len(list((tmp_path / "out/z_good").iterdir())) == 4


def test_missing_weights_stop_the_run(tmp_path, recording):
    line = mistake_of(infer, recording, tmp_path / "out", tmp_path / "absent.pt")
    assert line.startswith(f"weights {tmp_path / 'absent.pt'} do not exist")
    assert not (tmp_path / "out").exists()


def test_weights_of_another_width_stop_the_run(tmp_path, recording):
    other = save_untrained(tmp_path / "other.pt", encoder_widths=[5, 5, 6])
    line = mistake_of(infer, recording, tmp_path / "out", other)
    assert "do not fit the network" in line
    assert "of another size" in line
    assert not (tmp_path / "out").exists()


def test_weights_without_heads_stop_a_network_with_heads(tmp_path, recording):
    other = save_untrained(tmp_path / "other.pt", variant="plain")
    assert "tensors missing" in mistake_of(infer, recording, tmp_path / "out", other)


def test_output_dir_that_is_a_file_stops_the_run(tmp_path, recording, weights):
    (tmp_path / "out").write_text("mine")
    assert "is a file; wanted a folder" in mistake_of(infer, recording, tmp_path / "out", weights)
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"probability_threshold": 1.0}, "probability_threshold is 1.0"),
        ({"engine": "cuda"}, "cuda"),
        ({"features": "phase"}, "features is 'phase'"),
        ({"site_rule": "best"}, "rule is 'best'"),
        ({"variant": "deep"}, "variant is 'deep'"),
        ({"spatial_dims": 4}, "spatial_dims is 4"),
        ({"block_frames": 0}, "block_frames is 0"),
        ({"psf": "absent.npy"}, "PSF file absent.npy cannot be read"),
    ],
)
def test_an_impossible_option_is_one_line(tmp_path, recording, weights, options, words, monkeypatch):
    # As for users: the type checks of the tests would come first.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    assert words in mistake_of(infer, recording, tmp_path / "out", weights, **options)
    assert not (tmp_path / "out").exists()


def test_training_without_truth_or_validation_recordings_is_one_line(tmp_path, recording):
    options = {"output_dir": tmp_path / "run", "n_threads": 1, "block_frames": 32, "n_epochs": 1, **SIZES}
    line = mistake_of(run_config, "train.yaml", workflow_type="train", dataset_dir=recording, **options)
    assert "validation does not exist" in line
    for part in ("train", "validation"):
        save_recording(tmp_path / "data" / part / "rec.npz", blob_frames(), GEOMETRY)
    line = mistake_of(run_config, "train.yaml", workflow_type="train", dataset_dir=tmp_path / "data", **options)
    assert "rec_truth.csv" in line
    assert not (tmp_path / "run").exists()


def test_evaluation_without_maps_is_one_line(tmp_path, recording):
    line = mistake_of(run_config, "evaluate.yaml", dataset_dir=recording, output_dir=tmp_path / "out")
    assert "NAME_density.nii.gz" in line
    assert not (tmp_path / "out").exists()


def test_a_network_never_runs_with_weights_it_was_not_given(tmp_path, recording, weights):
    """Two weights, two maps: the loaded ones are those that answer."""
    other = tmp_path / "other.pt"
    state = torch.load(weights)["model"]
    torch.save(
        {"model": {key: value + 0.05 if value.is_floating_point() else value for key, value in state.items()}}, other
    )
    maps = []
    for path in (weights, other):
        infer(recording, tmp_path / path.stem, path)
        maps.append(np.asarray(nibabel.load(tmp_path / path.stem / "blob/blob_probability.nii.gz").dataobj))
    assert not np.array_equal(*maps)
