"""configs/train.yaml, small: it learns, it can be stopped after any epoch, and two runs agree."""

import pytest
import torch
from bundle_runs import SIZES, run_config
from monai.bundle import ConfigWorkflow

from sparse_ulm.handlers import Checkpoints
from sparse_ulm.simulation import ParameterRanges, write_recordings


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """Four recordings to train on and two to validate."""
    folder = tmp_path_factory.mktemp("simulated")
    ranges = ParameterRanges(
        grid_size=(8, 9, 10), n_frames=32, bubbles_per_psf_volume=(0.05, 0.05), snr_db=(20.0, 20.0), side_lobe_share=0.0
    )
    for part, n, seed in (("train", 4, 1), ("validation", 2, 2)):
        write_recordings(
            folder / part, n_recordings=n, vessels="synthetic", seed=seed, ranges=ranges, file_format="npz"
        )
    return folder


def train(simulated, output_dir, **options):
    defaults = {"n_epochs": 3, "batch_blocks": 2, "block_frames": 32, "val_interval": 1, "n_threads": 1, **SIZES}
    defaults |= {"temporal_strides": [2, 2, 2], "max_kept_sites": 500}
    return run_config(
        "train.yaml", workflow_type="train", dataset_dir=simulated, output_dir=output_dir, **(defaults | options)
    )


def validation_of(workflow: ConfigWorkflow) -> float:
    return workflow.evaluator.state.metrics["dice_lambda_10"]


class Killed(BaseException):
    """As a signal would, this passes every `except Exception`."""


def test_a_killed_run_goes_on_to_the_same_weights(simulated, tmp_path, monkeypatch):
    whole = train(simulated, tmp_path / "whole")

    save = Checkpoints.save

    def save_then_die(self, engine):
        save(self, engine)
        raise Killed

    monkeypatch.setattr(Checkpoints, "save", save_then_die)
    with pytest.raises(Killed):
        train(simulated, tmp_path / "parts")
    monkeypatch.setattr(Checkpoints, "save", save)
    assert torch.load(tmp_path / "parts/last.pt")["epoch"] == 1

    # Seeds are set anew on resume; what the first epoch drew must not be drawn again.
    resumed = train(simulated, tmp_path / "parts")
    assert resumed.trainer.state.epoch == 3
    assert validation_of(resumed) == pytest.approx(validation_of(whole), abs=1e-12)
    one, two = (torch.load(tmp_path / name / "last.pt") for name in ("whole", "parts"))
    assert one["best"] == two["best"]
    for key, value in one["model"].items():
        torch.testing.assert_close(two["model"][key], value, rtol=0, atol=0)


def test_a_finished_run_is_not_trained_further(simulated, tmp_path):
    train(simulated, tmp_path, n_epochs=1)
    before = torch.load(tmp_path / "last.pt")["model"]
    again = train(simulated, tmp_path, n_epochs=1)
    assert again.trainer.state.epoch == 1
    after = torch.load(tmp_path / "last.pt")["model"]
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_without_resume_it_starts_anew(simulated, tmp_path):
    train(simulated, tmp_path, n_epochs=2)
    torch.save({"marked": 1}, tmp_path / "last.pt")  # would fail to load
    train(simulated, tmp_path, n_epochs=1, resume=False)
    assert torch.load(tmp_path / "last.pt")["epoch"] == 1


def test_a_step_without_any_site_does_not_stop_training(simulated, tmp_path):
    train(simulated, tmp_path, n_epochs=1, noise_factor=1.0e6)
    assert torch.load(tmp_path / "last.pt")["epoch"] == 1


def test_a_finished_run_may_be_prolonged(simulated, tmp_path):
    """The learning rate is that of the new length, not of the old one, which has run down or would rise again."""
    train(simulated, tmp_path, n_epochs=2, learning_rate=4.0e-3)
    workflow = train(simulated, tmp_path, n_epochs=4, learning_rate=4.0e-3)
    [group] = workflow.parser.get_parsed_content("optimizer").param_groups
    assert group["lr"] == pytest.approx(0.01 * 4.0e-3)


@pytest.mark.parametrize(("variant", "n_epochs"), [("plain", 1), ("deep_supervision", 1), ("cascade", 4)])
def test_every_variant_trains_and_validates(simulated, tmp_path, variant, n_epochs):
    # Four epochs: the cascade's three heads one after the other, then the whole.
    workflow = train(
        simulated, tmp_path, variant=variant, n_epochs=n_epochs, batch_blocks=4, val_interval=n_epochs, dilate_epochs=1
    )
    assert 0.0 <= validation_of(workflow) <= 1.0
    assert sorted(path.name.split(".")[0] for path in tmp_path.iterdir()) == ["events", "last", "model"]
