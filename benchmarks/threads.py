"""One thread against two, on an idle machine and on one whose cores are busy with something else.

    python benchmarks/threads.py [--threads 1 2] [--busy 0 1 2] [--rounds 5] [--json FILE]

Prints, per number of busy processes (each an endless loop), the median time of

- layer: forward and backward of a factorised layer (3x3x3, then 3 in time) at 200,000 sites, 16 channels;
- step: forward, loss and backward of TrajectoryMapNet with the shipped weights on one simulated block (32x32x32x128);
- map: the same network's inference on it;

with each number of threads, in turns within one process, and what the first number takes over the others: above 1 more
threads are faster.
"""

import argparse
import multiprocessing
import statistics
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from machine import ROOT, describe_machine
from pooling import Table, publish, table
from training_memory import prepare_block, read_train_config
from workload import moving_blobs

from sparse_ulm.checkpoint import load_weights
from sparse_ulm.sparse import SparseTensor, SubmanifoldConv
from sparse_ulm.sparse.threads import lend_threads
from sparse_ulm.workflow import keep_freed_memory


def be_busy() -> None:
    """Never stop."""
    while True:
        pass


@contextmanager
def busy_processes(n: int) -> Iterator[None]:
    """Keep `n` processes running at full speed meanwhile."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=be_busy, daemon=True) for _ in range(n)]
    for process in processes:
        process.start()
    time.sleep(1.0 if n else 0.0)
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def layer_work(n_sites: int, channels: int) -> Callable[[], None]:
    """Make a call that takes one factorised layer forward and backward."""
    coords, spatial_range = moving_blobs(n_sites, seed=1)
    x = SparseTensor(coords, torch.randn(len(coords), channels, requires_grad=True), spatial_range=spatial_range)
    layers = torch.nn.Sequential(*(SubmanifoldConv(channels, channels, size) for size in ((3, 3, 3, 1), (1, 1, 1, 3))))
    weights = torch.randn(len(coords), channels)

    def run() -> None:
        layers(x).feats.backward(weights)

    return run


def network_work(grid: int, n_frames: int) -> tuple[Callable[[], None], Callable[[], None]]:
    """Make calls that take the network over one block: a training step without optimiser, and an inference."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "block.pt"
        options = Namespace(grid=grid, bubbles=30, snr_db=20.0, seed=1, max_sites=None)
        prepare_block(path, n_frames, options)
        block = torch.load(path, weights_only=True)
    config = read_train_config()
    network, loss = config.get_parsed_content("network_def"), config.get_parsed_content("loss")
    load_weights(network, ROOT / "models" / "model.pt")

    def sites() -> SparseTensor:
        return SparseTensor(block["coords"], block["feats"], spatial_range=tuple(block["range"]))

    def step() -> None:
        loss(network.train()(sites()), block["label"]).backward()
        network.zero_grad(set_to_none=True)

    def infer() -> None:
        with torch.no_grad():
            network.eval()(sites())

    return step, infer


Work = Callable[[], None]


def time_in_turns(work: dict[str, Work], threads: list[int], n_rounds: int) -> dict[str, dict[int, float]]:
    """Give the median milliseconds of every work with every number of threads."""
    times: dict[str, dict[int, list[float]]] = {name: {n: [] for n in threads} for name in work}
    for turn in range(n_rounds + 1):  # the first warms up
        for name, call in work.items():
            for n in threads:
                torch.set_num_threads(n)
                start = time.perf_counter()
                with lend_threads():  # as the trainer and the evaluator do
                    call()
                if turn > 0:
                    times[name][n].append(1e3 * (time.perf_counter() - start))
    return {name: {n: statistics.median(values) for n, values in row.items()} for name, row in times.items()}


def time_table(results: list[dict[str, Any]], threads: list[int]) -> Table:
    """Lay the medians out, and the first number of threads over the others."""
    first, *others = threads
    header = ("work", "busy processes", *(f"{n} threads, ms" for n in threads), *(f"{first} over {n}" for n in others))
    rows = (
        (r["work"], r["busy"], *(f"{r['ms'][n]:.0f}" for n in threads),
         *(f"{r['ms'][first] / r['ms'][n]:.2f}" for n in others))
        for r in results
    )  # fmt: skip
    return table(header, rows)


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Run the benchmark; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2], help="busy processes beside")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sites", type=int, default=200_000, help="of the layer")
    parser.add_argument("--grid", type=int, default=32, help="voxels along x, y and z of the block")
    parser.add_argument("--frames", type=int, default=128, help="of the block")
    parser.add_argument("--json", help="also write machine and numbers there")
    args = parser.parse_args(arguments)
    started, record = time.monotonic(), describe_machine()
    keep_freed_memory()
    step, infer = network_work(args.grid, args.frames)
    work = {"layer": layer_work(args.sites, 16), "step": step, "map": infer}
    results: list[dict[str, Any]] = []
    for n_busy in args.busy:
        with busy_processes(n_busy):
            times = time_in_turns(work, args.threads, args.rounds)
        results += [{"busy": n_busy, "work": name, "ms": row} for name, row in times.items()]
    publish(args, results, {"threads": time_table(results, args.threads)}, record=record, started=started)
    return results


if __name__ == "__main__":
    main()
