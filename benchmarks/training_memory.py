"""Memory of one training step: the sparse network measured, the dense network of the same layers counted.

    python benchmarks/training_memory.py [--frames 128 512] [--weights FILE] [--json FILE]

For a simulated block (synthetic vessels, 30 bubbles) per number of frames, prints the machine and one table:

- sites: voxels that train.yaml's rule keeps, and how many it would keep without its budget `max_sites`.
- sparse, peak: growth of the resident memory of a fresh process over one forward and backward pass of one block, loss
  included: activations, kernel maps, gradients and all temporaries; not weights, optimiser or the loaded block.
- sparse, saved: what autograd saves for the backward pass, each storage once, parameters left out. It does not see the
  maps of strided layers; the peak does.
- dense, saved: the same count for the dense network of the same layers, widths and heads, batch norm and ReLU, on all
  voxels of the block and of the grids refined to x8; worked out on PyTorch's meta device, nothing is allocated
  (dense_counterpart.py). Its temporaries and gradients would come on top, so the ratio to the sparse peak is a low one.

Sizes, site rule and `max_kept_sites` are those of configs/train.yaml; weights are models/model.pt where it exists,
else an untrained network whose heads are made to deny nothing: it keeps as many sites as `max_kept_sites` allows.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from dense_counterpart import SavedBytes, count_dense
from machine import GIB, MIB, ROOT, describe_machine, machine_line, run_measured, write_json
from monai.bundle import ConfigParser
from pooling import Table, markdown, settings_of, table

from sparse_ulm.blocks import RecordingBlocks
from sparse_ulm.checkpoint import load_weights
from sparse_ulm.networks.trajectory_map import TrajectoryMapNet
from sparse_ulm.provenance import peak_memory_bytes
from sparse_ulm.simulation import parameter_ranges, write_recordings
from sparse_ulm.sparse import SparseTensor, stored_as

SIZES = ("encoder_widths", "refine_widths", "temporal_strides")
TARGET_RATIO = 100.0
WARM_UP_SITES = 500


def read_train_config(bundle_root: Path = ROOT, *, spatial_dims: int = 3) -> ConfigParser:
    """Read configs/train.yaml, nothing of it built yet."""
    config = ConfigParser()
    config.read_config(str(bundle_root / "configs" / "train.yaml"))
    config["bundle_root"], config["spatial_dims"] = str(bundle_root), spatial_dims
    return config


def grid_size(args: argparse.Namespace) -> list[int]:
    """Give the voxels along x, y and z; one number stands for a cube."""
    grid = [args.grid] if isinstance(args.grid, int) else args.grid
    return grid if len(grid) == 3 else grid[:1] * 3


def spatial_dims_of(grid: list[int]) -> int:
    """Tell 2D grids, one voxel thick along y, from 3D ones."""
    return 2 if grid[1] == 1 else 3


def prepare_block(path: Path, n_frames: int, args: argparse.Namespace) -> dict[str, Any]:
    """Simulate a recording of one block, run train.yaml's preprocessing, save the network's input and truth."""
    grid = grid_size(args)
    ranges = parameter_ranges(grid_size=grid, n_frames=n_frames, n_bubbles=args.bubbles, snr_db=args.snr_db)
    with tempfile.TemporaryDirectory() as name:
        summary = write_recordings(
            name, n_recordings=1, vessels="synthetic", seed=args.seed, ranges=ranges, file_format="nii"
        )
        drawn = json.loads(summary.read_text(encoding="utf-8"))["recordings"][0]
        blocks = RecordingBlocks(name, block_frames=n_frames, with_truth=True)
        config = read_train_config(spatial_dims=spatial_dims_of(grid))
        if args.max_sites is not None:
            config["max_sites"] = args.max_sites
        item = config.get_parsed_content("preprocessing")(blocks[0])
        config["max_sites"] = math.prod(grid) * n_frames
        unbounded = config.get_parsed_content("preprocessing")(blocks[0])
    image, label = item["image"], torch.nn.functional.pad(item["label"], (1, 0))
    block = {"coords": image.coords, "feats": image.feats, "range": list(image.spatial_range), "label": label}
    torch.save(block, path)
    return {key: drawn[key] for key in ("snr_db", "kernel", "psf_fwhm_m")} | {
        "sites": len(image),
        "sites_before_budget": len(unbounded["image"]),
    }


def train_step(network: TrajectoryMapNet, loss: torch.nn.Module, block: dict[str, Any]) -> list[int]:
    """Run one block forward and backward; give the sites of every head and of the final map."""
    x = SparseTensor(block["coords"], block["feats"], spatial_range=tuple(block["range"]))
    output = network(x)
    loss(output, block["label"]).backward()
    return [len(head) for head in (*output.heads, output.final)]


def measure_step(path: Path, weights: Path | None, stored: str) -> dict[str, Any]:
    """Measure one step in this process, which must be fresh; the child's part of `measure`."""
    block = torch.load(path, weights_only=True)
    config = read_train_config(spatial_dims=spatial_dims_of(block["range"][1:]))
    torch.manual_seed(1)
    torch.set_num_threads(1)  # memory hardly depends on it, and a busy machine is no place for more
    network = config.get_parsed_content("network_def").train()
    if weights is not None:
        load_weights(network, weights)
    else:
        network.keep_probability = 0.0
    loss = config.get_parsed_content("loss")
    # Compiled loops are loaded and threads started before the step that counts; batch statistics stay out of it.
    few = {"coords": block["coords"][:WARM_UP_SITES], "feats": block["feats"][:WARM_UP_SITES]}
    with stored_as(stored):
        train_step(network, loss, block | few)
    network.zero_grad(set_to_none=True)
    before = psutil.Process().memory_info().rss
    with stored_as(stored):
        sites = train_step(network, loss, block)
    peak = peak_memory_bytes() - before
    saved = SavedBytes()
    with saved.counting(), stored_as(stored):
        train_step(network, loss, block)
    return {"peak_bytes": peak, "saved_bytes": saved.total, "sites_of_heads": sites}


def measure_apart(path: Path, weights: Path | None, stored: str) -> dict[str, Any]:
    """Measure the step on a saved block in a fresh process."""
    options = ["--block", str(path), "--stored_activations", stored]
    options += ["--weights", str(weights.resolve())] if weights else []
    return json.loads(run_measured([sys.executable, __file__, *options]).output.splitlines()[-1])


def measure(n_frames: int, args: argparse.Namespace) -> dict[str, Any]:
    """Measure the sparse step in a fresh process and count the dense one."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "block.pt"
        block = prepare_block(path, n_frames, args)
        sparse = measure_apart(path, args.weights, args.stored_activations)
    config = read_train_config()
    sizes = {key: config[key] for key in SIZES} | {"in_channels": config.get_parsed_content("network_def").in_channels}
    x, y, z = grid_size(args)
    dense = count_dense(sizes, (x, y, z), n_frames, with_heads=config["variant"] != "plain")
    return {
        "n_frames": n_frames,
        "block": block,
        "sparse": sparse,
        "dense_saved_bytes": sum(dense.values()),
        "dense_saved_bytes_of_stage": dense,
    }


def memory_table(results: list[dict[str, Any]], grid: list[int]) -> Table:
    """Lay the blocks out."""
    rows = []
    for result in results:
        sparse, dense, block = result["sparse"], result["dense_saved_bytes"], result["block"]
        ratio = dense / sparse["peak_bytes"]
        rows.append(
            ("x".join(map(str, (*grid, result["n_frames"]))), f"{block['sites']} of {block['sites_before_budget']}",
             f"{sparse['peak_bytes'] / MIB:.0f} MiB", f"{sparse['saved_bytes'] / MIB:.0f} MiB",
             f"{dense / GIB:.1f} GiB", f"{ratio:.0f}",
             f"{dense / sparse['saved_bytes']:.0f}", "reached" if ratio >= TARGET_RATIO else "MISSED")
        )  # fmt: skip
    header = ("block", "sites, of those above the rule", "sparse, peak", "sparse, saved", "dense, saved",
              "dense saved / sparse peak", "saved / saved", "target ≥ 100 on the peak")  # fmt: skip
    return table(header, rows)


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Run the benchmark; see the module."""
    shipped = ROOT / "models" / "model.pt"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[128, 512], help="blocks to measure")
    parser.add_argument("--grid", type=int, nargs="+", default=[32], help="voxels along x, y and z, or of a cube")
    parser.add_argument("--bubbles", type=int, default=30, help="in the field of view, in every frame")
    parser.add_argument("--snr_db", type=float, default=20.0, help="median bubble peak over noise rms")
    parser.add_argument(
        "--weights", type=Path, default=shipped if shipped.is_file() else None, help="of train.yaml's sizes"
    )
    parser.add_argument("--max_sites", type=int, help="budget of sites per block in place of train.yaml's")
    parser.add_argument("--stored_activations", default="float32", help="float32 or bfloat16, as in train.yaml")
    parser.add_argument("--seed", type=int, default=1, help="of the simulation")
    parser.add_argument("--json", help="also write machine and numbers there")
    parser.add_argument("--block", type=Path, help=argparse.SUPPRESS)  # the child: one step on a saved block
    args = parser.parse_args(arguments)
    if args.block:
        print(json.dumps(measure_step(args.block, args.weights, args.stored_activations)))
        return []
    started, record = time.monotonic(), describe_machine()
    print(machine_line(record))
    print(f"{args.bubbles} bubbles, {args.snr_db:g} dB, seed {args.seed}; "
          f"weights: {args.weights.name if args.weights else 'none, untrained network'}\n")  # fmt: skip
    results = [measure(n_frames, args) for n_frames in args.frames]
    tables = {"training_memory": memory_table(results, grid_size(args))}
    print(markdown(tables["training_memory"]))
    minutes, settings = (time.monotonic() - started) / 60, settings_of(args, without=("block",))
    write_json(args.json, record, minutes=minutes, settings=settings, results=results, tables=tables)
    return results


if __name__ == "__main__":
    main()
