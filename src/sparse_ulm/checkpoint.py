"""Checkpoints: tensors and numbers only, written whole or not at all, loaded all or nothing."""

import os
from pathlib import Path
from typing import Any

import torch

from sparse_ulm.errors import UserError, WeightsError
from sparse_ulm.io.atomic import atomic_path


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Save a checkpoint so that a killed process leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        torch.save(state, temporary)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of tensors and numbers.

    Raises:
        WeightsError: If the file is missing or is not such a checkpoint.
    """
    if not os.path.exists(path):
        raise WeightsError(
            f"weights {path} do not exist; wanted a trained checkpoint. Run from the bundle root, pass --bundle_root "
            "or --weights, or train with configs/train.yaml."
        )
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise WeightsError(f"weights {path} cannot be read ({reason}); wanted a checkpoint of train.yaml.") from None
    if not isinstance(checkpoint, dict):
        raise WeightsError(f"weights {path} hold a {type(checkpoint).__name__}; wanted a checkpoint of train.yaml.")
    return checkpoint


def read_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a checkpoint's network.

    Raises:
        WeightsError: If there are other things than tensors.
    """
    return tensors_of(read_checkpoint(path), path)


def tensors_of(checkpoint: dict[str, Any], path: str | Path) -> dict[str, torch.Tensor]:
    """Take the tensors of the network out of a checkpoint that was read from `path`.

    Raises:
        WeightsError: If there are other things than tensors.
    """
    weights = checkpoint.get("model", checkpoint)
    if not isinstance(weights, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in weights.values()):
        raise WeightsError(f"weights {path} hold other things than tensors; wanted a checkpoint of train.yaml.")
    return weights


def load_weights(network: torch.nn.Module, path: str | Path) -> None:
    """Load `path` into the network, all or nothing: a network never runs with random weights.

    Raises:
        WeightsError: If a tensor is missing, left over or of another size.
    """
    fit_weights(network, read_weights(path), path)


def fit_weights(network: torch.nn.Module, weights: dict[str, torch.Tensor], path: str | Path) -> None:
    """Load tensors that were read from `path`, all or nothing.

    Raises:
        WeightsError: If a tensor is missing, left over or of another size.
    """
    own = network.state_dict()
    missing = sorted(own.keys() - weights.keys())
    extra = sorted(weights.keys() - own.keys())
    sizes = [k for k in own.keys() & weights.keys() if own[k].shape != weights[k].shape]
    if missing or extra or sizes:
        example = (
            f"{min(sizes)} is {tuple(weights[min(sizes)].shape)} there and {tuple(own[min(sizes)].shape)} here"
            if sizes
            else f"for example {(missing or extra)[0]}"
        )
        raise WeightsError(
            f"weights {path} do not fit the network: {len(missing)} tensors missing, {len(extra)} left over, "
            f"{len(sizes)} of another size ({example}). Give the widths, variant and kernel they were trained with."
        )
    network.load_state_dict(weights)


def find_method(method: str, weights: str | Path) -> str:
    """Say what makes the maps: one of the networks, or the conventional pipeline.

    Args:
        method: "localisation", "trajectory_map", "classical", or "auto" for the network that the weights belong to.
        weights: Checkpoint; read for "auto" alone.

    Returns:
        "localisation", "trajectory_map" or "classical".

    Raises:
        UserError: If `method` is none of these.
        WeightsError: If the weights cannot be read.
    """
    if method in ("localisation", "trajectory_map", "classical"):
        return method
    if method != "auto":
        raise UserError(f"method is {method!r}; wanted auto, localisation, trajectory_map or classical.")
    layers = {name.partition(".")[0] for name in read_weights(weights)}
    return "localisation" if {"hidden", "head"} <= layers else "trajectory_map"
