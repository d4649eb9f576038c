"""configs/train.yaml, small: it learns, it can be stopped after any epoch, and two runs agree."""

import signal
import subprocess
import sys
import time

import pytest
import torch
from bundle_runs import ROOT, SIZES, run_config
from monai.bundle import ConfigWorkflow

from sparse_ulm.handlers import Checkpoints
from sparse_ulm.simulation import ParameterRanges, write_recordings
from sparse_ulm.workflow import find_user_error


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


@pytest.mark.slow
def test_a_process_killed_in_the_middle_of_an_epoch_goes_on(simulated, tmp_path):
    """SIGKILL to the real command, at a moment that nobody chose, then the same command again."""
    whole = train(simulated, tmp_path / "whole", n_epochs=6, batch_blocks=1)
    options = {"n_epochs": 6, "batch_blocks": 1, "block_frames": 32, "val_interval": 1, "n_threads": 1, **SIZES}
    options |= {"temporal_strides": [2, 2, 2], "max_kept_sites": 500}
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(ROOT / "configs" / "train.yaml")]
    command += ["--bundle_root", str(ROOT), "--dataset_dir", str(simulated), "--output_dir", str(tmp_path / "parts")]
    command += [word for key, value in options.items() for word in (f"--{key}", str(value))]
    last = tmp_path / "parts" / "last.pt"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not last.exists():
        assert process.poll() is None, "the run ended before its first checkpoint"
        time.sleep(0.01)
    time.sleep(0.05)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert 1 <= torch.load(last)["epoch"] < 6
    subprocess.run(command, check=True, capture_output=True)
    assert torch.load(last)["epoch"] == 6
    assert float(torch.load(last)["best"]) == pytest.approx(
        float(torch.load(tmp_path / "whole" / "last.pt")["best"]), abs=1e-9
    )
    assert whole.trainer.state.epoch == 6


def test_a_run_of_other_sizes_is_not_resumed(simulated, tmp_path):
    train(simulated, tmp_path, n_epochs=1)
    before = (tmp_path / "last.pt").read_bytes()
    with pytest.raises(RuntimeError) as wrapped:  # MONAI wraps what its expressions raise
        train(simulated, tmp_path, n_epochs=2, encoder_widths=[5, 5, 6])
    assert "do not fit the network" in str(find_user_error(wrapped.value))
    assert (tmp_path / "last.pt").read_bytes() == before


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
