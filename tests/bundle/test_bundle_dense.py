"""configs/dense_train.yaml over train.yaml and inference.yaml: the dense network in the sparse one's place."""

import math

import nibabel
import pytest
import torch
from bundle_runs import load_tool, run_config

from sparse_ulm.simulation import ParameterRanges, write_recordings

SMALL = {"encoder_widths": [4, 6, 8], "refine_width": 4, "output_width": 2, "n_threads": 1, "block_frames": 32}
STRIDES = {"temporal_strides": [2, 2, 2, 2]}


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """Two 2D recordings to train on and one to validate; one axis is no multiple of the network's stride."""
    folder = tmp_path_factory.mktemp("simulated_2d")
    ranges = ParameterRanges(
        grid_size=(9, 1, 12), n_frames=32, bubbles_per_psf_volume=(0.05, 0.05), snr_db=(20.0, 20.0), side_lobe_share=0.0
    )
    for part, n, seed in (("train", 2, 1), ("validation", 1, 2)):
        write_recordings(
            folder / part, n_recordings=n, vessels="synthetic", seed=seed, ranges=ranges, file_format="npz"
        )
    return folder


def test_the_dense_network_trains_and_makes_maps(simulated, tmp_path):
    run = tmp_path / "run"
    workflow = run_config(
        "train.yaml", "dense_train.yaml", workflow_type="train", dataset_dir=simulated, output_dir=run,
        n_epochs=2, val_interval=1, **SMALL, **STRIDES,
    )  # fmt: skip
    trainer = workflow.parser.get_parsed_content("train#trainer")
    assert trainer.state.epoch == 2
    assert math.isfinite(trainer.state.output[0]["loss"])
    assert 0.0 <= workflow.parser.get_parsed_content("validate#evaluator").state.metrics["dice_lambda_10"] <= 1.0
    block = workflow.parser.get_parsed_content("train#dataset")[0]["image"]
    assert len(block) == 9 * 12 * 32, "the dense network sees every voxel"

    weights = torch.load(run / "last.pt", weights_only=True)["model"]
    torch.save({"model": weights}, run / "weights.pt")
    run_config(
        "inference.yaml", "dense_train.yaml", dataset_dir=simulated / "validation", output_dir=tmp_path / "maps",
        weights=run / "weights.pt", probability_threshold=0.01, **SMALL, **STRIDES,
    )  # fmt: skip
    (density,) = (tmp_path / "maps").rglob("*_density.nii.gz")
    assert nibabel.load(density).shape == (72, 1, 96)


def test_an_overlay_is_checked_over_what_it_lies_on(tmp_path):
    verify = load_tool("verify")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/train.yaml").write_text("width: 3\nspare: 1\nrun: [$@width]\n")
    (tmp_path / "configs/dense_train.yaml").write_text("width: 4\nbreadth: 5\nrun: [$@width, $@depth]\n")
    problems = [line for line in verify.check_configs(tmp_path) if line.startswith("dense_train.yaml")]
    assert problems == [
        "dense_train.yaml: @depth refers to no key.",
        "dense_train.yaml: nothing refers to key 'breadth'; an option without effect.",
    ]
