"""Memory of the paper's dense network against the sparse one of the same task, in 2D+t and 3D+t.

    python benchmarks/dense_memory.py [--blocks 2d_paper 2d_ours 3d_paper 3d_ours] [--inference] [--json FILE]

One training step of one block, loss included, batch size 1, float32. Blocks: the paper's, 32 voxels a side x 512
frames, and ours, 64x64x128 and 16x16x16x128. Per block:

- sparse, peak and saved: as in training_memory.py, on a simulated block (synthetic vessels; 20 bubbles in 2D and 30 in
  3D, the most of the paper's test sets), sizes and rule of configs/train.yaml, shipped weights of that number of axes.
- dense, saved: what autograd saves in DeepStulm with the paper's widths; counted on PyTorch's meta device, without the
  loss. Slots of 64 frames, as published. ELU works in place in ours, which saves less than the authors' would.
- dense, peak: growth of the resident memory of a fresh process over the step, loss included; not for the paper's block
  in 3D. That of 16x16x16x128 takes 7 GiB.

The ratio is that of the peaks, or dense *saved* over sparse peak where the dense step does not fit: a low one. Held
against the paper's claims (a half in 2D, two orders of magnitude in 3D) and the targets of issue 4.

`--inference` also runs the 3D+t form in inference, on a 16x16x16x128 block, in a fresh process, and counts (on the meta
device: tensors alive at once) what the paper's block would need, whole and refined in slabs of 4 voxels along x.
"""

import argparse
import json
import sys
import tempfile
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from dense_counterpart import SavedBytes
from dense_memory_tables import inference_line, inference_table, memory_table
from machine import ROOT, describe_machine, machine_line, run_measured, write_json
from pooling import markdown, settings_of
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from training_memory import measure_apart, prepare_block

from sparse_ulm.losses import MultiScaleDiceLoss
from sparse_ulm.networks.deep_stulm import DeepStulm
from sparse_ulm.provenance import peak_memory_bytes
from sparse_ulm.sparse import SparseTensor

HALO = 5
"""Input voxels from beyond a slab that its refinement sees: 2 before the doublings, 4 kernels at each grid."""


@dataclass(frozen=True)
class Block:
    """A block and the dense network that reads it."""

    grid: tuple[int, int, int]
    n_frames: int
    in_channels: int
    temporal_strides: tuple[int, int, int, int]
    target: float
    is_measured: bool = True

    @property
    def claim(self) -> float:
        """The paper's ratio, dense over sparse: a half in 2D, "two orders of magnitude" in 3D (issue 4)."""
        return 2.0 if self.grid[1] == 1 else 100.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a dense batch of one."""
        return 1, self.in_channels, *self.grid, self.n_frames

    def network(self) -> DeepStulm:
        """Make the dense network with the paper's widths."""
        dims = 2 if self.grid[1] == 1 else 3
        return DeepStulm(spatial_dims=dims, in_channels=self.in_channels, temporal_strides=self.temporal_strides)


BLOCKS = {
    "2d_paper": Block((32, 1, 32), 512, 2, (4, 4, 4, 4), 4.0),
    "2d_ours": Block((64, 1, 64), 128, 4, (4, 4, 4, 2), 4.0),
    "3d_paper": Block((32, 32, 32), 512, 2, (4, 4, 4, 4), 100.0, is_measured=False),
    "3d_ours": Block((16, 16, 16), 128, 4, (4, 4, 4, 2), 100.0),
}


class LiveBytes(TorchDispatchMode):
    """The most bytes of tensors alive at once, of those made inside.

    Attributes:
        peak: Bytes.
    """

    def __init__(self) -> None:
        """Start from nothing."""
        super().__init__()
        self.live = self.peak = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and note the storages that it makes."""
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage()) not in self._known:
                self._known.add(storage)
                self.live += storage.nbytes()
                weakref.finalize(storage, self._free, storage.nbytes())
        self.peak = max(self.peak, self.live)
        return result

    def _free(self, n_bytes: int) -> None:
        self.live -= n_bytes


def count_saved(block: Block) -> int:
    """Count what autograd saves for one block of the dense network."""
    saved = SavedBytes()
    network = block.network().to("meta")
    with saved.counting():
        network.logits(torch.zeros(block.shape, device="meta"))
    return saved.total


def refine_in_slabs(network: DeepStulm, x: Tensor, *, width: int) -> Tensor:
    """Refine features of the V-net slab by slab along x; exact, as the halo is thrown away.

    Args:
        network: In inference mode.
        x: (t, b, c, x, y, z) of `DeepStulm.encode`.
        width: Voxels along x that a slab contributes.
    """
    parts, size, factor = [], x.shape[3], network.upsampling[0]
    for start in range(0, size, width):
        first = max(start - HALO, 0)
        part = network.refine(x[:, :, :, first : start + width + HALO])
        parts.append(part[:, :, (start - first) * factor :][:, :, : width * factor])
    return torch.cat(parts, dim=2)


def count_inference(block: Block, *, slab: int | None) -> int:
    """Count the most bytes alive in inference on the meta device, weights left out."""
    network = block.network().to("meta").eval()
    with torch.no_grad(), LiveBytes() as live:
        x = torch.zeros(block.shape, device="meta").movedim(-1, 0)
        features = network.encode(x)
        _ = network.refine(features) if slab is None else refine_in_slabs(network, features, width=slab)
    return live.peak


def dense_step(path: Path, name: str) -> dict[str, int]:
    """Measure one dense training step in this process, which must be fresh."""
    torch.manual_seed(1)
    torch.set_num_threads(1)
    saved, network = torch.load(path, weights_only=True), BLOCKS[name].network()
    feats = saved["feats"][:, -network.in_channels :].contiguous()
    x = SparseTensor(saved["coords"], feats, spatial_range=tuple(saved["range"]))
    loss = MultiScaleDiceLoss(upsampling=network.upsampling, head_miss_weight=0.5)
    few = torch.zeros(1, network.in_channels, *network.site_multiple)
    network(few).sum().backward()  # what torch loads on first use
    network.zero_grad(set_to_none=True)
    before = psutil.Process().memory_info().rss
    loss(network(x), saved["label"]).backward()
    return {"peak_bytes": peak_memory_bytes() - before}


def dense_inference(name: str) -> dict[str, float]:
    """Run one dense block in inference in this process, which must be fresh; random weights and values."""
    block = BLOCKS[name]
    network = block.network().eval()
    before, started = psutil.Process().memory_info().rss, time.process_time()
    with torch.no_grad():
        network(torch.randn(block.shape))
    return {"peak_bytes": peak_memory_bytes() - before, "cpu_s": time.process_time() - started}


def child(*options: str) -> dict[str, Any]:
    """Run a part of this file in a fresh process."""
    return json.loads(run_measured([sys.executable, __file__, *options]).output.splitlines()[-1])


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Measure and count one block."""
    block = BLOCKS[name]
    is_2d = block.grid[1] == 1
    weights = ROOT / "models" / ("model_2d.pt" if is_2d else "model.pt")
    task = argparse.Namespace(
        grid=list(block.grid), bubbles=20 if is_2d else 30, snr_db=20.0, seed=args.seed, max_sites=None
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "block.pt"
        prepared = prepare_block(path, block.n_frames, task)
        sparse = measure_apart(path, weights if weights.is_file() else None, "float32")
        dense = child("--step", str(path), "--blocks", name) if block.is_measured else {}
    return {
        "block": "x".join(map(str, (*(n for n in block.grid if n > 1), block.n_frames))),
        "sites": prepared["sites"],
        "sparse": sparse,
        "dense_saved_bytes": count_saved(block),
        "dense_peak_bytes": dense.get("peak_bytes"),
        "claim": block.claim,
        "target": block.target,
    }


def measure_inference() -> dict[str, Any]:
    """Run the dense 3D+t network on a small block and count what the paper's needs."""
    big = BLOCKS["3d_paper"]
    return {"measured": child("--infer", "--blocks", "3d_ours"), "counted_bytes_small": count_inference(
        BLOCKS["3d_ours"], slab=None), "counted_bytes": count_inference(big, slab=None),
        "counted_bytes_in_slabs": count_inference(big, slab=4)}  # fmt: skip


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Run the benchmark; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", nargs="+", choices=list(BLOCKS), default=list(BLOCKS))
    parser.add_argument("--inference", action="store_true", help="also the dense 3D+t network in inference")
    parser.add_argument("--seed", type=int, default=1, help="of the simulation")
    parser.add_argument("--json", help="also write machine and numbers there")
    parser.add_argument("--step", type=Path, help=argparse.SUPPRESS)  # the child: a dense step on a saved block
    parser.add_argument("--infer", action="store_true", help=argparse.SUPPRESS)  # the child: dense inference
    args = parser.parse_args(arguments)
    if args.step or args.infer:
        print(json.dumps(dense_step(args.step, args.blocks[0]) if args.step else dense_inference(args.blocks[0])))
        return []
    started, record = time.monotonic(), describe_machine()
    print(machine_line(record) + "\n")
    results = [measure(name, args) for name in args.blocks]
    tables = {"dense_memory": memory_table(results)}
    inference: dict[str, Any] | None = None
    print(markdown(tables["dense_memory"]))
    if args.inference:
        inference = measure_inference()
        print("\n" + inference_line(inference))
        tables["dense_inference"] = inference_table(inference)
    minutes, settings = (time.monotonic() - started) / 60, settings_of(args, without=("step", "infer"))
    write_json(
        args.json, record, minutes=minutes, settings=settings, results=results, inference=inference, tables=tables
    )
    return results


if __name__ == "__main__":
    main()
