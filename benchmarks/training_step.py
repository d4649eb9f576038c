"""Time of one training step of TrajectoryMapNet on a block in 3D and time, and how it compares with another checkout.

    git worktree add ../before 0143633                        # the commit to compare with
    python benchmarks/training_step.py --against ../before    # [--frames 128] [--threads 1] [--json FILE]

One block is simulated (synthetic vessels, 30 bubbles) and prepared with configs/train.yaml's rules; weights and
sizes are those of each checkout. Each round starts one fresh process per checkout, one after the other, which
takes a warm-up step and `--steps` steps: forward, loss, backward and Adam. Prints the medians over rounds of the
step's parts and, per part, the time of the other checkout over ours. The sites of the block are new to every step, so
that its kernel maps are built again, as in training.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from machine import ROOT, describe_machine, machine_line, write_json
from pooling import Table, markdown, settings_of, table
from training_memory import prepare_block, read_train_config

from sparse_ulm import workflow
from sparse_ulm.checkpoint import load_weights
from sparse_ulm.sparse import SparseTensor

PARTS = ("forward_ms", "loss_ms", "backward_ms", "optimiser_ms", "step_ms")


def measure_steps(path: Path, checkout: Path, *, n_steps: int, n_threads: int) -> dict[str, float]:
    """Take the median times of the parts of a step in this process; the child's part."""
    getattr(workflow, "keep_freed_memory", bool)()  # as `prepare_run` does, in the checkouts that do
    torch.manual_seed(1)
    torch.set_num_threads(n_threads)
    config = read_train_config(checkout)
    network = config.get_parsed_content("network_def").train()
    load_weights(network, checkout / "models" / "model.pt")
    loss, optimiser = config.get_parsed_content("loss"), torch.optim.Adam(network.parameters(), lr=1e-6)
    block = torch.load(path, weights_only=True)
    rounds = []
    for _ in range(n_steps + 1):
        x = SparseTensor(block["coords"], block["feats"], spatial_range=tuple(block["range"]))
        marks = [time.perf_counter()]
        output = network(x)
        marks.append(time.perf_counter())
        value = loss(output, block["label"])
        marks.append(time.perf_counter())
        value.backward()
        marks.append(time.perf_counter())
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        marks.append(time.perf_counter())
        parts = [1e3 * (stop - start) for start, stop in pairwise(marks)]
        rounds.append([*parts, sum(parts)])
    medians = [statistics.median(column) for column in zip(*rounds[1:], strict=True)]
    return dict(zip(PARTS, medians, strict=True)) | {"loss": float(value)}


def run_child(checkout: Path, path: Path, args: argparse.Namespace) -> dict[str, float]:
    """Measure in a fresh process with the package of `checkout`."""
    command = [sys.executable, __file__, "--block", str(path), "--steps", str(args.steps), "--threads",
               str(args.threads), "--checkout", str(checkout)]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": str(args.threads)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"the step of {checkout} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def step_table(results: dict[str, list[dict[str, float]]]) -> Table:
    """Lay the parts out: one column a checkout, and the ratio of the second to the first."""
    medians = {
        name: {part: statistics.median(run[part] for run in runs) for part in PARTS} for name, runs in results.items()
    }
    rows = []
    for part in PARTS:
        times = [medians[name][part] for name in medians]
        ratio = [f"{times[1] / times[0]:.2f}"] if len(times) == 2 else []
        rows.append((part.removesuffix("_ms"), *(f"{value:.0f}" for value in times), *ratio))
    header = ("part, ms", *medians, *(["ratio"] if len(medians) == 2 else []))
    return table(header, rows)


def main(arguments: list[str] | None = None) -> dict[str, list[dict[str, float]]]:
    """Run the benchmark; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="folder of another checkout of this repository")
    parser.add_argument("--frames", type=int, default=128, help="of the block")
    parser.add_argument("--grid", type=int, default=32, help="voxels along x, y and z")
    parser.add_argument("--bubbles", type=int, default=30, help="in the field of view, in every frame")
    parser.add_argument("--snr_db", type=float, default=20.0, help="median bubble peak over noise rms")
    parser.add_argument("--max_sites", type=int, help="budget of sites in place of train.yaml's")
    parser.add_argument("--seed", type=int, default=1, help="of the simulation")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3, help="timed steps per process")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="also write machine and numbers there")
    parser.add_argument("--block", type=Path, help=argparse.SUPPRESS)  # the child: steps on a saved block
    parser.add_argument("--checkout", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.block:
        print(json.dumps(measure_steps(args.block, args.checkout, n_steps=args.steps, n_threads=args.threads)))
        return {}
    checkouts = {"this checkout": ROOT} | ({args.against.name: args.against.resolve()} if args.against else {})
    started, record = time.monotonic(), describe_machine()
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "block.pt"
        block = prepare_block(path, args.frames, args)
        results: dict[str, list[dict[str, Any]]] = {name: [] for name in checkouts}
        for _ in range(args.rounds):
            for name, checkout in checkouts.items():
                results[name].append(run_child(checkout, path, args))
    print(machine_line(record))
    print(f"{args.grid}x{args.grid}x{args.grid}x{args.frames}, {block['sites']} sites, {args.threads} thread(s), "
          f"seed {args.seed}\n")  # fmt: skip
    tables = {"training_step": step_table(results)}
    print(markdown(tables["training_step"]))
    minutes, settings = (time.monotonic() - started) / 60, settings_of(args, without=("against", "block", "checkout"))
    write_json(args.json, record, minutes=minutes, settings=settings, block=block, results=results, tables=tables)
    return results


if __name__ == "__main__":
    main()
