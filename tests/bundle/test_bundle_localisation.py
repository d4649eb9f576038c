"""train_localisation.yaml -> weights -> inference.yaml, which sees by the weights what they are for."""

import json

import numpy as np
import pytest
import torch
from bundle_runs import GEOMETRY, ROOT, blob_frames, run_config

from sparse_ulm.checkpoint import find_method
from sparse_ulm.errors import UserError
from sparse_ulm.io import open_recording, save_recording
from sparse_ulm.io.tables import read_localisations, read_tracks
from sparse_ulm.networks.localisation import LOGIT, LocalisationNet

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
    assert find_method("classical", "anything") == "classical"
    with pytest.raises(UserError, match="method is 'both'"):
        find_method("both", "anything")


@pytest.mark.parametrize("block_frames", [40, 16])
def test_bubbles_tracks_and_maps_are_written(trained, tmp_path, block_frames):
    save_recording(tmp_path / "in/rec.nii.gz", blob_frames(), GEOMETRY)
    run_config(
        "inference.yaml", dataset_dir=tmp_path / "in", output_dir=tmp_path / "out", weights=trained / "run/model.pt",
        block_frames=block_frames, context_frames=8, bubble_threshold=0.06, n_views=2, linking={"min_length": 2},
        maps=["direction"], track_formats=["vtp"], **SMALL,
    )  # fmt: skip
    folder = tmp_path / "out/rec"
    assert sorted(path.name for path in folder.iterdir()) == [
        "provenance.json", "rec_density.nii.gz", "rec_density.png", "rec_direction.nii.gz", "rec_localisations.csv",
        "rec_tracks.csv", "rec_tracks.vtp",
    ]  # fmt: skip
    geometry = open_recording(tmp_path / "in/rec.nii.gz").geometry
    found = read_localisations(folder / "rec_localisations.csv", geometry)
    assert len(read_tracks(folder / "rec_tracks.csv", geometry)) <= len(found)
    assert (found.frame[1:] >= found.frame[:-1]).all()
    config = json.loads((folder / "provenance.json").read_text())["config"]
    assert config["method"] == "localisation"
    assert config["linking"]["min_length"] == 2


def save_talkative(path):
    """Save the weights of an untrained network whose probabilities lie around a half: bubbles everywhere."""
    torch.manual_seed(6)
    network = LocalisationNet(widths=SMALL["localisation_widths"])
    with torch.no_grad():
        network.head.kernel[..., LOGIT] *= 30.0
        network.head.bias[LOGIT] = 0.0
    torch.save({"model": network.state_dict()}, path)
    return path


def test_results_do_not_depend_on_how_a_recording_is_cut(tmp_path):
    weights = save_talkative(tmp_path / "talkative.pt")
    save_recording(tmp_path / "in/rec.nii.gz", blob_frames(), GEOMETRY)
    tables = []
    for n_blocks, block_frames in ((1, 40), (2, 20), (3, 14), (7, 6)):
        out = tmp_path / f"cut_{n_blocks}"
        run_config(
            "inference.yaml", dataset_dir=tmp_path / "in", output_dir=out, weights=weights, block_frames=block_frames,
            context_frames=14, bubble_threshold=0.3, linking={"min_length": 3}, noise_factor=1.0, **SMALL,
        )  # fmt: skip
        names = ("localisations", "tracks")
        tables.append([np.loadtxt(out / f"rec/rec_{n}.csv", delimiter=",", skiprows=1, ndmin=2) for n in names])
    whole = tables[0]
    assert len(whole[0]) > 20
    assert len(np.unique(whole[1][:, 0])) >= 2
    for cut in tables[1:]:
        for found, wanted in zip(cut, whole, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5)


def test_the_conventional_pipeline_is_a_method_too(tmp_path):
    """The same files as configs/classical.yaml writes, byte for byte but for the clock."""
    save_recording(tmp_path / "in/rec.nii.gz", blob_frames(), GEOMETRY)
    run_config(
        "inference.yaml", dataset_dir=tmp_path / "in", output_dir=tmp_path / "method", method="classical",
        linking={"min_length": 3}, maps=["speed"],
    )  # fmt: skip
    run_config("classical.yaml", dataset_dir=tmp_path / "in", output_dir=tmp_path / "own", min_length=3, maps=["speed"])
    assert len(read_tracks(tmp_path / "own/rec/rec_tracks.csv", open_recording(tmp_path / "in/rec.nii.gz").geometry))
    for name in ("rec_tracks.csv", "rec_localisations.csv", "rec_tracks.trk", "rec_density.png"):
        assert (tmp_path / "method/rec" / name).read_bytes() == (tmp_path / "own/rec" / name).read_bytes()
    settings = [json.loads((tmp_path / o / "rec/provenance.json").read_text())["config"] for o in ("method", "own")]
    assert settings[0] == settings[1]


def test_a_silent_recording_has_an_empty_map(trained, tmp_path):
    save_recording(tmp_path / "in/rec.nii.gz", 0 * blob_frames(), GEOMETRY)
    with pytest.warns(UserWarning, match="no track among 0 localisations"):
        run_config(
            "inference.yaml", dataset_dir=tmp_path / "in", output_dir=tmp_path / "out",
            weights=trained / "run/model.pt", **SMALL,
        )  # fmt: skip
    assert (tmp_path / "out/rec/rec_density.nii.gz").exists()
