"""The ablation: released strides by hand, trainings that resume, time to completeness by hand."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from sparse_ulm.losses import MultiScaleDiceLoss
from sparse_ulm.networks.trajectory_map import TrajectoryMapOutput
from sparse_ulm.sparse import SparseTensor

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def benchmarks_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.fixture
def output() -> TrajectoryMapOutput:
    """One head: voxel (1, 2, 3) of 5 x 6 x 7, probability 0.9 in slot 0 of two and 0.2 in slot 1."""
    coords = torch.tensor([[0, 1, 2, 3, 0], [0, 1, 2, 3, 1]], dtype=torch.int32)
    logits = torch.logit(torch.tensor([[0.9], [0.2]], dtype=torch.float64))
    return TrajectoryMapOutput((SparseTensor(coords, logits, spatial_range=(1, 5, 6, 7, 2)),), None)


def truth(*slots: int) -> torch.Tensor:
    """Refined voxel (8, 17, 31), which lies in that voxel, visited in these slots."""
    return torch.tensor([[0, 8, 17, 31, slot] for slot in slots], dtype=torch.int32)


def dice_loss(hit: float, false: float, missed: float) -> float:
    return 1.0 - (hit + 0.0005) / (hit + 0.5 * false + 0.5 * missed + 0.0005)


def test_released_strides_lose_the_second_half_of_a_slot(output: TrajectoryMapOutput) -> None:
    from ablation_loss import ReleasedStrideLoss

    sizes: dict[str, Any] = {"upsampling": (8, 8, 8), "head_miss_weight": 0.5}
    released, true = ReleasedStrideLoss(**sizes), MultiScaleDiceLoss(**sizes)
    # Visited in slot 0 alone: half slot 0 or 1. In the second half there is nothing to match: taught to be empty.
    assert float(true(output, truth(0))) == pytest.approx(dice_loss(0.9, 0.2, 0.1))
    assert float(released(output, truth(0))) == pytest.approx(dice_loss(0.9, 0.2, 0.1))
    assert float(released(output, truth(1))) == pytest.approx(dice_loss(0.0, 1.1, 1.0))
    # Half slot 2 is the first half of slot 1.
    assert float(released(output, truth(2))) == pytest.approx(float(true(output, truth(1))))
    # Visited all the time: at best half of the truth is found, where the true strides find all of it.
    certain = TrajectoryMapOutput((output.heads[0].with_feats(torch.full((2, 1), 30.0)),), None)
    assert float(true(certain, truth(0, 1))) == pytest.approx(0.0, abs=1e-6)
    assert float(released(certain, truth(0, 1, 2, 3))) == pytest.approx(dice_loss(2.0, 0.0, 2.0))
    assert 1.0 - float(released(certain, truth(0, 1, 2, 3))) == pytest.approx(2 / 3, abs=1e-3)  # the cap of the notes


def test_released_strides_teach_pruning_to_drop(output: TrajectoryMapOutput) -> None:
    from ablation_loss import ReleasedStrideLoss

    head = output.heads[0]
    logits = head.feats.clone().requires_grad_()
    loss = ReleasedStrideLoss(upsampling=(8, 8, 8), head_miss_weight=0.8)
    loss(TrajectoryMapOutput((head.with_feats(logits),), None), truth(1)).backward()
    assert logits.grad is not None
    assert (logits.grad >= 0).all()  # down, though a bubble is there


def test_the_final_map_is_not_touched() -> None:
    from ablation_loss import ReleasedStrideLoss

    coords = torch.tensor([[0, 8, 17, 31, 0], [0, 9, 17, 31, 0]], dtype=torch.int32)
    final = SparseTensor(coords, torch.tensor([[1.0], [-2.0]]), spatial_range=(1, 40, 48, 56, 1))
    sizes: dict[str, Any] = {"upsampling": (8, 8, 8), "head_miss_weight": 0.5}
    output = TrajectoryMapOutput((), final)
    assert float(ReleasedStrideLoss(**sizes)(output, truth(1, 3))) == float(
        MultiScaleDiceLoss(**sizes)(output, truth(0))
    )


def test_rows_of_the_ablation_are_trained_alike() -> None:
    import argparse

    from ablation import training_of

    args = argparse.Namespace(spatial_dims=2)
    plain, wrong = (training_of(name, args, 3, 12) for name in ("plain", "cascade, strides as released"))
    assert plain.options == {
        "spatial_dims": 2, "n_epochs": 12, "variant": "plain", "val_interval": 3, "cascade_epochs": [1, 1, 1],
    }  # fmt: skip
    assert wrong.options["variant"] == "cascade"
    assert wrong.options["loss#_target_"] == "ablation_loss.ReleasedStrideLoss"
    assert training_of("dense", args, 3, 12).configs == ("train.yaml", "dense_train.yaml")


def test_overrides_name_keys_of_the_config() -> None:
    from ablation_loss import OVERRIDES, ReleasedStrideLoss
    from trainings import Training, parse_config

    config = parse_config(Training(("train.yaml",), OVERRIDES))
    assert "LoadTruthd" in config["preprocessing#transforms#0#_target_"]
    assert isinstance(config.get_parsed_content("loss"), ReleasedStrideLoss)
    half = config.get_parsed_content("network_def").slot_frames // 2
    assert config.get_parsed_content("preprocessing").transforms[0].slot_frames == half
    assert config.get_parsed_content("augmentation").slot_frames == half


def test_a_finished_training_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import trainings

    commands: list[list[str]] = []

    def run(command: list[str]) -> None:
        commands.append(command)
        folder = Path(command[command.index("--output_dir") + 1])
        torch.save({"cpu_minutes": 2.5, "epoch": 4}, folder / "last.pt")

    monkeypatch.setattr(trainings, "run_measured", run)
    monkeypatch.setattr(trainings, "_n_blocks", lambda *args: 10)
    training = trainings.Training(("train.yaml",), {"n_epochs": 4, "batch_blocks": 3}, seed=2)
    done = trainings.train(tmp_path, training, tmp_path / "data")
    assert (done["cpu_minutes"], done["n_steps"]) == (2.5, 16)  # 4 epochs of ceil(10 / 3) steps
    assert trainings.train(tmp_path, training, tmp_path / "data") == done
    assert len(commands) == 1
    assert commands[0][commands[0].index("--n_epochs") + 1] == "4"
    short = trainings.Training(("train.yaml", "dense_train.yaml"), {"n_epochs": 4}, epoch_steps=5)
    assert trainings.train(tmp_path, short, tmp_path / "data")["n_steps"] == 20
    (overlay,) = tmp_path.glob("trainings/*/short_epochs.yaml")
    assert str(overlay) in commands[1][commands[1].index("--config_file") + 1]


def test_epochs_that_fit_into_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import trainings

    # A start of 0.3 minutes and 0.2 per epoch: 1.7 minutes hold 7 epochs.
    monkeypatch.setattr(
        trainings, "train", lambda work, training, data: {"cpu_minutes": 0.3 + 0.2 * training.options["n_epochs"]}
    )
    training = trainings.Training(("train.yaml",))
    assert trainings.epochs_within(tmp_path, training, tmp_path, 1.7) == 7
    assert trainings.epochs_within(tmp_path, training, tmp_path, 0.1) == 1


def test_a_trained_network_is_scored_by_its_own_config(tmp_path: Path) -> None:
    from referee import make_recordings
    from trainings import Training, evaluate, parse_config

    size = {"encoder_widths": [4, 5, 6], "refine_widths": [5, 4, 3, 2], "variant": "plain", "spatial_dims": 2}
    training = Training(("train.yaml",), size)
    torch.manual_seed(5)
    weights = tmp_path / "model.pt"
    torch.save({"model": parse_config(training).get_parsed_content("network_def").state_dict()}, weights)
    folder = make_recordings(
        tmp_path, vessels=["synthetic"], seed=3, n_recordings=2, grid_size=[9, 1, 10], n_frames=32,
        bubbles_per_psf_volume=[0.2, 0.2],
    )  # fmt: skip
    scores = evaluate(tmp_path, training, weights, folder)
    assert scores == evaluate(tmp_path, training, weights, folder)
    assert 0.0 <= scores["dice"] <= scores["dice_lambda_10"] <= 1.0
    assert scores["finest_sites_per_block"] % 32 == 0  # 64 children of every kept voxel, mean of two blocks
    assert 0.0 < scores["cpu_seconds_per_block"] < 10.0


def test_time_to_a_level_by_hand() -> None:
    from completeness import first_to, time_to

    curve = [(1.0, 0.2), (4.0, 0.6), (16.0, 0.6)]
    assert time_to(curve, 0.1) == 1.0
    assert time_to(curve, 0.4) == pytest.approx(2.0)  # half of the way from 1 to 4 s on the logarithm
    assert time_to(curve, 0.6) == pytest.approx(4.0)
    assert time_to(curve, 0.7) == math.inf
    rows = [{"concentration": c, "seconds": s, "completeness": v * c} for c in (0.5, 1.0) for s, v in curve]
    assert first_to(rows, 0.3, "completeness") == (pytest.approx(4**0.25), 1.0)


def test_factor_of_time_by_hand() -> None:
    from completeness import TRUTH, compare, factor_table

    curves = {
        ("net", 0.1): (0.1, 0.2, 0.4), ("net", 0.2): (0.4, 0.8, 0.8),
        ("rat", 0.1): (0.1, 0.2, 0.4), ("rat", 0.2): (0.0, 0.1, 0.2), (TRUTH, 0.1): (1.0, 1.0, 1.0),
    }  # fmt: skip
    rows = [
        {"seed": 1, "method": m, "concentration": c, "is_network": m == "net", "seconds": s, "completeness": v}
        for (m, c), values in curves.items()
        for s, v in zip((1.0, 2.0, 4.0), values, strict=True)
    ]
    half, _, whole = compare(rows)
    assert half["seeds"][0]["conventional"] == (pytest.approx(2.0), 0.1)
    assert half["seeds"][0]["factor"] == pytest.approx(2.0)  # 0.2 is there in the network's first block, at 0.2
    assert whole["seeds"][0] == {
        "level": 0.4, "conventional": (pytest.approx(4.0), 0.1), "network": (1.0, 0.2), "factor": pytest.approx(4.0),
    }  # fmt: skip
    assert factor_table([whole])["rows"] == [["net", "1.0", "0.40", "4.00", "0.1", "1.00", "0.2", "4.0"]]


def test_beginnings_double() -> None:
    from acquisition_time import beginnings

    assert beginnings(2048) == [128, 256, 512, 1024, 2048]
    assert beginnings(700) == [128, 256, 512, 700]
    assert beginnings(100) == [100]
