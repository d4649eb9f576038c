"""Trainings by the shipped configs in processes of their own, kept once done, and what their networks score and cost.

A training is named by a hash of its configs, options and data; one that was stopped goes on from its last epoch
(`resume` of configs/train.yaml).
"""

import json
import math
import os
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from machine import ROOT, run_measured
from monai.bundle import ConfigParser
from referee import config_values, fingerprint, load_json, save_json

from sparse_ulm.checkpoint import load_weights, read_checkpoint

MAX_KEPT_SITES = 200_000
"""Of configs/inference.yaml; the smaller budget of train.yaml bounds training alone."""

SHORT_EPOCH = "train#trainer#epoch_length"


@dataclass(frozen=True)
class Training:
    """One training.

    Attributes:
        configs: Files in configs/, later ones over earlier ones.
        options: Of the configs; nested keys joined by "#".
        seed: Of weights, order and augmentation.
        epoch_steps: Steps that make an epoch; None for all blocks once.
    """

    configs: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)
    seed: int = 1
    epoch_steps: int | None = None


def data_folder(work: Path, **parts: Path) -> Path:
    """Join folders of recordings under the names that train.yaml expects: `train` and `validation`."""
    folder = work / "data" / fingerprint({name: part.name for name, part in parts.items()})
    for name, part in parts.items():
        link = folder / name
        if not link.exists():
            folder.mkdir(parents=True, exist_ok=True)
            # A relative link outlives a move of the work folder.
            link.symlink_to(os.path.relpath(part.resolve(), folder.resolve()), target_is_directory=True)
    return folder


def train(work: Path, training: Training, data: Path) -> dict[str, Any]:
    """Train, or find it done.

    Returns:
        `folder` of model.pt and last.pt under `work`, `cpu_minutes`, `n_epochs`, `n_steps`.
    """
    values = [config_values(config) for config in training.configs]
    asked = [values, training.options, training.seed, training.epoch_steps, data.name]
    folder = work / "trainings" / fingerprint(asked)
    done = folder / "done.json"
    if not done.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        run_measured(_command(training, folder, data))
        last = read_checkpoint(folder / "last.pt")
        steps = training.epoch_steps or math.ceil(_n_blocks(training, data) / _value(training, "batch_blocks"))
        facts = {"cpu_minutes": last["cpu_minutes"], "n_epochs": last["epoch"], "n_steps": last["epoch"] * steps}
        save_json(done, facts)
    return load_json(done) | {"folder": folder}


def epochs_within(work: Path, training: Training, data: Path, minutes: float) -> int:
    """Find the number of epochs that fit into some CPU minutes, from two trainings of one and of two epochs.

    What reading the data and starting takes is part of the minutes. The learning rate needs the number beforehand:
    a training that is cut off has not finished its schedule.
    """
    cost = [
        train(
            work,
            Training(training.configs, training.options | {"n_epochs": n, "val_interval": n}, 0, training.epoch_steps),
            data,
        )["cpu_minutes"]
        for n in (1, 2)
    ]
    of_epoch = max(cost[1] - cost[0], 1e-3)
    return max(1, round((minutes - cost[0]) / of_epoch) + 1)


def _command(training: Training, folder: Path, data: Path) -> list[str]:
    """Give the command line; its process finds the modules of this folder, and has one thread."""
    files = [str(ROOT / "configs" / config) for config in training.configs]
    if training.epoch_steps is not None:
        overlay = folder / "short_epochs.yaml"
        overlay.write_text(f'"{SHORT_EPOCH}": {training.epoch_steps}\n', encoding="utf-8")
        files.append(str(overlay))
    options = {"dataset_dir": data, "output_dir": folder, "bundle_root": ROOT, "seed": training.seed, "n_threads": 1}
    options |= training.options
    path = os.pathsep.join([str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    command = ["env", f"PYTHONPATH={path}", "OMP_NUM_THREADS=1", sys.executable, "-m", "monai.bundle", "run"]
    command += ["--config_file", str(files)]
    return command + [text for key, value in options.items() for text in (f"--{key}", str(value))]


def _value(training: Training, key: str) -> Any:
    values = {name: value for config in training.configs for name, value in config_values(config).items()}
    return (values | training.options)[key]


def _n_blocks(training: Training, data: Path) -> int:
    return len(parse_config(training, dataset_dir=data).get_parsed_content("train#dataset#data"))


def parse_config(training: Training, **options: Any) -> ConfigParser:
    """Read the configs of a training with its options and others."""
    config = ConfigParser()
    config.read_config([str(ROOT / "configs" / name) for name in training.configs])
    chosen = {"bundle_root": ROOT, "seed": training.seed, "n_threads": 1} | training.options | options
    for key, value in chosen.items():
        config[key] = str(value) if isinstance(value, Path) else value
    return config


def evaluate(work: Path, training: Training, weights: Path, recordings: Path) -> dict[str, Any]:
    """Score a trained network by the evaluator of its own training config, or find that done.

    Returns:
        `dice_lambda_10` and `dice` of the pooled maps, `cpu_seconds_per_block` of the network alone on one thread, and
        `finest_sites_per_block`.
    """
    asked = [[config_values(config) for config in training.configs], training.options, weights, recordings]
    path = work / "scores" / f"{fingerprint(asked)}.json"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as logs:
            data = data_folder(work, validation=recordings)
            budget = {"max_kept_sites": MAX_KEPT_SITES} if "max_kept_sites" in config_values("train.yaml") else {}
            config = parse_config(training, dataset_dir=data, output_dir=logs, batch_blocks=1, **budget)
            save_json(path, _evaluate(config, weights))
    return load_json(path)


def _evaluate(config: ConfigParser, weights: Path) -> dict[str, Any]:
    torch.set_num_threads(1)
    network = config.get_parsed_content("network")
    load_weights(network, weights)
    seconds, sites = [], []
    network.register_forward_pre_hook(lambda *_: seconds.append(-time.process_time()))

    def after(_module: Any, _inputs: Any, output: Any) -> None:
        seconds[-1] += time.process_time()
        sites.append(len(output.final))

    network.register_forward_hook(after)
    evaluator = config.get_parsed_content("validate#evaluator")
    evaluator.run()
    metrics = {key: float(evaluator.state.metrics[key]) for key in ("dice_lambda_10", "dice")}
    n_blocks = len(seconds)
    return metrics | {
        "cpu_seconds_per_block": sum(seconds) / n_blocks,
        "finest_sites_per_block": sum(sites) / n_blocks,
    }


def memory_of_step(work: Path, training: Training, weights: Path, recordings: Path) -> int:
    """Measure by how many bytes a fresh process grows over one step on the first block, or find that done."""
    asked = ["memory", [config_values(c) for c in training.configs], training.options, weights, recordings]
    path = work / "scores" / f"{fingerprint(asked)}.json"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        data = data_folder(work, validation=recordings)
        task = {"configs": training.configs, "options": training.options, "weights": str(weights), "data": str(data)}
        script = str(Path(__file__).with_name("step_memory.py"))
        run = run_measured(["env", "OMP_NUM_THREADS=1", sys.executable, script, json.dumps(task)])
        save_json(path, json.loads(run.output.splitlines()[-1]))
    return int(load_json(path)["peak_bytes"])
