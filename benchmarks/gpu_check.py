"""Check and time the sparse engines on an NVIDIA GPU: one command for whoever has one.

    python benchmarks/gpu_check.py [--quick] [--json FILE]

1. Parity: every layer and the network on CUDA against the native engine on the CPU, outputs and all gradients, sites by
   coordinate; then the golden vectors of tests/compare/golden. For the native engine, and for TorchSparse where it can
   be imported (what it does not offer, as 3x3x3x3 kernels and float64, is skipped).
2. Timing: a factorised layer (3x3x3 in space, then 3 in time) at sites like those of moving bubbles: kernel map,
   forward, forward with backward; medians of CUDA events after a warm-up; peak of the memory that PyTorch allocated.
3. One training step of configs/train.yaml's network on a simulated block, on the CPU and on the GPU.

The last line is PASS or FAIL; exit status 0 or 1, and 2 where there is no CUDA. About five minutes; one with `--quick`.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from gpu_golden import compare_with_golden
from gpu_parity import Row, compare_with_cpu
from gpu_timing import time_layers, time_step
from machine import GIB, MIB, ROOT, describe_machine, machine_line, markdown_table, write_json
from training_memory import prepare_block

from sparse_ulm.sparse.engines import torchsparse_failure
from sparse_ulm.sparse.engines.kernels import chosen_kernel

QUICK = {"parity_sites": 5000, "sites": [200_000], "channels": [16], "rounds": 5, "frames": 64}
STEP_TOLERANCE = 1e-2
"""Between the losses of the first step on CPU and GPU: in float32 a site or two may be pruned on one of them only."""


def device_line(device: str) -> str:
    """Name the device and what PyTorch computes with on it."""
    if not device.startswith("cuda"):
        return f"Device: {device}, which only tests this script."
    card = torch.cuda.get_device_properties(device)
    return (
        f"GPU: {card.name}, {card.total_memory / GIB:.0f} GiB, capability {card.major}.{card.minor}; "
        f"CUDA {torch.version.cuda}; float32 products: {torch.get_float32_matmul_precision()}."
    )


def parity_table(rows: list[Row]) -> str:
    """Write the comparisons."""
    lines = []
    for row in rows:
        verdict = "ok" if row.passed else "WRONG"
        cells = (
            (f"{row.error:.1e}", f"{row.tolerance:.0e}") if row.error == row.error else ("—", f"{row.tolerance:.0e}")
        )
        lines.append((row.what, row.engine, *cells, verdict if row.offered else "not offered", row.remark))
    return markdown_table(("compared with the CPU", "engine", "difference", "tolerance", "", "remark"), lines)


def timing_table(times: list[dict[str, Any]]) -> str:
    """Write the times of the layers."""
    lines = []
    for row in times:
        case = (row["engine"], row["sites"], row["channels"])
        if "failed" in row:
            lines.append((*case, "FAILED", row["failed"], "", ""))
        else:
            numbers = (f"{row[key]:.2f}" for key in ("map_ms", "forward_ms", "forward_backward_ms"))
            lines.append((*case, *numbers, memory(row["peak_bytes"])))
    header = ("engine", "sites", "channels", "map, ms", "forward, ms", "forward + backward, ms", "peak memory")
    return markdown_table(header, lines)


def step_table(steps: list[dict[str, Any]]) -> str:
    """Write the training steps; the ratio is to the CPU, which comes first."""
    lines = []
    for row in steps:
        where = f"the CPU, threads: {row['threads']}" if row["device"] == "cpu" else row["device"]
        if "failed" in row:
            lines.append((where, row["engine"], "FAILED", row["failed"], "", "", ""))
        else:
            ratio = f"{steps[0]['step_ms'] / row['step_ms']:.1f}" if "step_ms" in steps[0] else "—"
            lines.append(
                (where, row["engine"], row["sites"], f"{row['step_ms']:.0f}", ratio, memory(row["peak_bytes"]),
                 f"{row['loss']:.6f}")
            )  # fmt: skip
    header = ("training step on", "engine", "sites", "ms", "times as fast as the CPU", "peak memory", "loss")
    return markdown_table(header, lines)


def memory(n_bytes: int | None) -> str:
    """Write bytes in MiB."""
    return "—" if n_bytes is None else f"{n_bytes / MIB:.0f} MiB"


def training_steps(engines: list[str], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Simulate a block and time a step on the CPU, then with every engine on the device."""
    steps = []
    with tempfile.TemporaryDirectory() as folder:
        block = Path(folder) / "block.pt"
        prepare_block(block, args.frames, args)
        for device, engine in [("cpu", "native"), *((args.device, engine) for engine in engines)]:
            try:
                steps.append(time_step(device, block, args.weights, engine=engine, rounds=args.rounds))
            except Exception as failure:
                reason = " ".join(f"{type(failure).__name__}: {failure}".split())[:200]
                steps.append({"device": device, "engine": engine, "failed": reason, "threads": torch.get_num_threads()})
    return steps


def failures(rows: list[Row], times: list[dict[str, Any]], steps: list[dict[str, Any]]) -> list[str]:
    """Name everything that did not go well."""
    wrong = [f"{row.engine}: {row.what}" for row in rows if not row.passed]
    wrong += [f"timing {row['engine']}" for row in times if "failed" in row]
    wrong += [f"training step {row['engine']} on {row['device']}" for row in steps if "failed" in row]
    losses = [row["loss"] for row in steps if "loss" in row]
    if not all(abs(loss - losses[0]) <= STEP_TOLERANCE for loss in losses):  # NaN is not
        wrong.append(f"losses of the training steps differ: {', '.join(f'{loss:.4f}' for loss in losses)}")
    return wrong


def read_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    shipped = ROOT / "models" / "model.pt"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and smaller cases")
    parser.add_argument("--sites", type=int, nargs="+", default=[200_000, 800_000], help="of the timed layers")
    parser.add_argument("--channels", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--rounds", type=int, default=11, help="passes of which the median is given")
    parser.add_argument("--parity_sites", type=int, default=20_000)
    parser.add_argument("--frames", type=int, default=128, help="of the training block")
    parser.add_argument("--grid", type=int, default=32, help="voxels of the training block along x, y and z")
    parser.add_argument("--bubbles", type=int, default=30, help="in the training block, in every frame")
    parser.add_argument("--snr_db", type=float, default=20.0, help="median bubble peak over noise rms")
    parser.add_argument("--seed", type=int, default=1, help="of the training block")
    parser.add_argument(
        "--weights", type=Path, default=shipped if shipped.is_file() else None, help="of train.yaml's sizes"
    )
    parser.add_argument("--json", help="also write machine and numbers there")
    parser.add_argument("--device", default="cuda", help=argparse.SUPPRESS)  # cpu: to test this script
    args = parser.parse_args(arguments)
    args.max_sites = None
    if args.quick:
        vars(args).update(QUICK)
    return args


def main(arguments: list[str] | None = None) -> int:
    """Run the check; see the module."""
    args = read_arguments(arguments)
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        build = "is built without CUDA" if torch.version.cuda is None else f"(CUDA {torch.version.cuda}) finds no GPU"
        print(f"No CUDA: PyTorch {torch.__version__} {build}. Run this on a machine with an NVIDIA GPU.")
        return 2
    record, missing = describe_machine(), torchsparse_failure()
    engines = ["native"] if missing or not args.device.startswith("cuda") else ["native", "torchsparse"]
    print(machine_line(record))
    print(device_line(args.device))
    print(f"CPU arithmetic: {chosen_kernel().name}. TorchSparse: {missing or 'imported'}.\n")
    rows: list[Row] = []
    for engine in engines:
        rows += compare_with_cpu(engine, args.device, n_sites=args.parity_sites, weights=args.weights)
        rows += compare_with_golden(engine, args.device)
    print(parity_table(rows), "\n", flush=True)
    times = list(time_layers(engines, args.device, sites=args.sites, channels=args.channels, rounds=args.rounds))
    print(timing_table(times), "\n", flush=True)
    steps = training_steps(engines, args)
    print(step_table(steps), "\n")
    wrong = failures(rows, times, steps)
    options = {key: value for key, value in vars(args).items() if key != "weights"}
    parity = [vars(row) | {"passed": row.passed} for row in rows]
    results = {"parity": parity, "layers": times, "steps": steps, "failures": wrong}
    write_json(
        args.json, record, options=options, torchsparse_failure=missing, device=device_line(args.device), **results
    )
    print(f"FAIL: {'; '.join(wrong)}" if wrong else f"PASS: {len(rows)} comparisons, {len(times)} timings")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
