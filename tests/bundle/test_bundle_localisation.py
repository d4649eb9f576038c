"""train_localisation.yaml -> weights -> inference.yaml, which sees by the weights what they are for."""

import json

import pytest
import torch
from bundle_runs import GEOMETRY, ROOT, blob_frames, run_config

from sparse_ulm.checkpoint import find_method
from sparse_ulm.errors import UserError
from sparse_ulm.io import open_recording, save_recording
from sparse_ulm.io.tables import read_localisations, read_tracks

SMALL = {"localisation_widths": [4, 5, 6], "n_threads": 1}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("localisation")
    for split, seed, n_recordings in (("train", 1, 2), ("validation", 2, 1)):
        run_config(
            "simulate.yaml", output_dir=folder / "data" / split, n_recordings=n_recordings, seed=seed,
            grid_size=[9, 10, 11], n_frames=40, bubbles_per_psf_volume=0.1, side_lobe_share=0.0, workflow_type=None,
        )  # fmt: skip
    run_config(
        "train_localisation.yaml", workflow_type="training", dataset_dir=folder / "data", output_dir=folder / "run",
        n_epochs=3, **SMALL,
    )  # fmt: skip
    return folder


def test_training_writes_weights_that_inference_knows(trained):
    losses = torch.load(trained / "run/last.pt", weights_only=True)
    assert losses["epoch"] == 3
    assert find_method("auto", trained / "run/model.pt") == "localisation"
    assert find_method("auto", ROOT / "models/model.pt") == "trajectory_map"
    assert find_method("trajectory_map", "anything") == "trajectory_map"
    with pytest.raises(UserError, match="method is 'both'"):
        find_method("both", "anything")


@pytest.mark.parametrize("block_frames", [40, 16])
def test_bubbles_tracks_and_maps_are_written(trained, tmp_path, block_frames):
    save_recording(tmp_path / "in/rec.nii.gz", blob_frames(), GEOMETRY)
    run_config(
        "inference.yaml", dataset_dir=tmp_path / "in", output_dir=tmp_path / "out", weights=trained / "run/model.pt",
        block_frames=block_frames, context_frames=8, bubble_threshold=0.06, n_views=2, linking={"min_length": 2},
        **SMALL,
    )  # fmt: skip
    folder = tmp_path / "out/rec"
    assert sorted(path.name for path in folder.iterdir()) == [
        "provenance.json", "rec_density.nii.gz", "rec_density.png", "rec_localisations.csv", "rec_speed.nii.gz",
        "rec_tracks.csv", "rec_velocity.nii.gz",
    ]  # fmt: skip
    geometry = open_recording(tmp_path / "in/rec.nii.gz").geometry
    found = read_localisations(folder / "rec_localisations.csv", geometry)
    assert len(read_tracks(folder / "rec_tracks.csv", geometry)) <= len(found)
    assert (found.frame[1:] >= found.frame[:-1]).all()
    config = json.loads((folder / "provenance.json").read_text())["config"]
    assert config["method"] == "localisation"
    assert config["linking"]["min_length"] == 2


def test_a_silent_recording_has_an_empty_map(trained, tmp_path):
    save_recording(tmp_path / "in/rec.nii.gz", 0 * blob_frames(), GEOMETRY)
    with pytest.warns(UserWarning, match="no track among 0 localisations"):
        run_config(
            "inference.yaml", dataset_dir=tmp_path / "in", output_dir=tmp_path / "out",
            weights=trained / "run/model.pt", **SMALL,
        )  # fmt: skip
    assert (tmp_path / "out/rec/rec_density.nii.gz").exists()
