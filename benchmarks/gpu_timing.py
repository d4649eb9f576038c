"""The timing part of gpu_check.py: maps, passes and memory of a factorised layer, and a whole training step."""

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from training_memory import read_train_config
from workload import KINDS, moving_blobs

from sparse_ulm.checkpoint import load_weights
from sparse_ulm.sparse import SparseTensor, SubmanifoldConv

LR = 1e-6


class Clock:
    """Times what a device does: CUDA events on CUDA, the wall elsewhere; medians after a warm-up."""

    def __init__(self, device: str, rounds: int) -> None:
        """Keep the device and how often to repeat."""
        self.device, self.rounds = torch.device(device), rounds

    @property
    def is_cuda(self) -> bool:
        """Whether there are events and a memory counter."""
        return self.device.type == "cuda"

    def once_ms(self, action: Callable[[], Any]) -> float:
        """Time one call, all that it has started on the device included."""
        if not self.is_cuda:
            start = time.perf_counter()
            action()
            return 1e3 * (time.perf_counter() - start)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        action()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end)

    def median_ms(self, action: Callable[[], Any]) -> float:
        """Time an action that has run before: the first call counts for nothing."""
        action()
        return statistics.median(self.once_ms(action) for _ in range(self.rounds))

    def peak_bytes(self, action: Callable[[], Any]) -> int | None:
        """Give the growth of allocated memory on CUDA; None elsewhere."""
        if not self.is_cuda:
            return None
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        action()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before


def time_layers(
    engines: list[str], device: str, *, sites: list[int], channels: list[int], rounds: int
) -> Iterator[dict[str, Any]]:
    """Time 3x3x3 in space, then 3 in time, for every size and engine; what fails is told and stops no other."""
    for n_sites in sites:
        coords, extent = moving_blobs(n_sites, seed=1)
        for width in channels:
            generator = torch.Generator().manual_seed(2)
            feats = torch.randn(n_sites, width, generator=generator)
            x = SparseTensor(coords, feats, spatial_range=extent).to(device)
            for engine in engines:
                case = {"engine": engine, "sites": n_sites, "channels": width}
                try:
                    yield case | time_layer(x.with_engine(engine), width, Clock(device, rounds))
                except Exception as failure:
                    yield case | {"failed": " ".join(f"{type(failure).__name__}: {failure}".split())[:200]}


def time_layer(x: SparseTensor, width: int, clock: Clock) -> dict[str, float | int | None]:
    """Time one size.

    The map is what the first pass at new sites takes beyond a pass at known ones: some engines build it nowhere else.
    """
    torch.manual_seed(3)
    layers = nn.Sequential(*(SubmanifoldConv(width, width, size) for size in KINDS["factorised"])).to(x.device)
    feats = x.feats.detach().clone().requires_grad_()

    def fresh() -> SparseTensor:
        return x.to(x.device).with_feats(feats)

    def both(sites: SparseTensor) -> None:
        feats.grad = None
        layers.zero_grad(set_to_none=True)
        layers(sites).feats.sum().backward()

    known = fresh()
    with torch.no_grad():
        forward = clock.median_ms(lambda: layers(known))
        first = clock.median_ms(lambda: layers(fresh()))
    both_known = fresh()
    return {
        "map_ms": max(0.0, first - forward),
        "forward_ms": forward,
        "forward_backward_ms": clock.median_ms(lambda: both(both_known)),
        "peak_bytes": clock.peak_bytes(lambda: both(fresh())),
    }


def time_step(device: str, block: Path, weights: Path | None, *, engine: str, rounds: int) -> dict[str, Any]:
    """Time a training step of train.yaml's network on one block, sites new to every step, on `device`."""
    config = read_train_config()
    config["engine"] = engine
    torch.manual_seed(1)
    network = config.get_parsed_content("network_def")
    if weights is not None:
        load_weights(network, weights)
    network, loss = network.to(device).train(), config.get_parsed_content("loss")
    optimiser = torch.optim.Adam(network.parameters(), lr=LR)
    saved = torch.load(block, weights_only=True)
    x = SparseTensor(saved["coords"], saved["feats"], spatial_range=tuple(saved["range"])).to(device)
    label = saved["label"].to(device)
    losses = []

    def step() -> None:
        value = loss(network(x.to(x.device)), label)
        value.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        losses.append(float(value.detach()))

    clock = Clock(device, rounds)
    step_ms = clock.median_ms(step)
    found = {"device": device, "engine": engine, "sites": len(x), "threads": torch.get_num_threads()}
    return found | {"step_ms": step_ms, "peak_bytes": clock.peak_bytes(step), "loss": losses[0]}
