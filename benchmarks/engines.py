"""Sparse convolution on the CPU: our engine, other libraries, a dense convolution, and what the machine could do.

    python benchmarks/engines.py --quick [--json FILE]          200k sites, 1 thread, factorised, 3 rounds: two minutes
    python benchmarks/engines.py [--sites 50000 200000] [--channels 16 32] [--threads 1 2] [--kinds factorised]
                                 [--engines native spconv] [--rounds 5] [--seed 1] [--json FILE]

Sites are those of moving blobs (workload.py), in key order. `factorised` is 3x3x3x1 then 1x1x1x3, `hypercubic` is
3x3x3x3 along (x, y, z, t), without bias, equally many channels in and out. Engines that cannot be imported are named
and left out; so is, in front of its rows, one that does not give what our PyTorch path gives (output and gradients,
relative 1e-4, on a small grid). Numbers of threads have a process each, with OMP_NUM_THREADS set. Engines take turns:
every round runs each once on the same case, and medians over the rounds are told; one that takes ten times as long as
the fastest, and more than 3 s, runs in one round only. Of calls shorter than 0.1 s a round takes the median of three.

- map: from the sites to all that the layers need to know of neighbours, hashing included. Little is put off to the
  first pass; it counts there unless the pass is short. TorchSparse's maps are for CUDA only: it is handed ready ones.
- forward: all layers, maps ready, no gradients recorded.
- fwd+bwd: forward and backward with autograd: gradients to features and kernels.
- peak MB: growth of the resident memory (1e6 bytes) over map, forward and backward, in a process of the engine's own
  that has run a small case before; features, weights and the gradient given to the backward pass are there already.
  `--quick` leaves TorchSparse's out.
- floor: the forward pass at the machine's own speed: of every layer the longer of 2 * pairs * in * out operations at
  the rate of a 1024^3 matrix product, and one reading of features and weights and one writing of results at the rate
  of a large copy; both rates are taken in every round of the same process.
- dense: torch Conv3d 3x3x3 alone, no temporal layer, on 2^18 cells' worth of frames, time and memory scaled to all.

Below the table stand the targets; each line needs the measurements it compares. The tables in the file of `--json`
leave out of kind, sites, channels and threads what is the same in all rows.
"""

import argparse
import itertools
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import engine_runs
import torch
from engine_targets import SITES, Row, check_targets, threads
from machine import BenchmarkError, describe_machine, machine_line, markdown_table, run_measured, write_json
from rivals import RIVALS
from workload import KINDS, Quad, grid_for, moving_blobs

RATES = ("gemm_flops", "copy_bytes_s", "pairs", "refused")
MEGABYTE = 1e6
MMAP_THRESHOLD = 128 * 1024  # fixed, so that freed tensors go back to the system and a peak is of living memory
KEYS = ("engine", "kind", "sites", "channels", "threads", "map_ms", "forward_ms", "forward_backward_ms", "peak_mb",
        "floor_ms")  # fmt: skip
HEADER = ("engine", "kind", "sites", "channels", "threads", "map ms", "forward ms", "fwd+bwd ms", "peak MB",
          "floor ms", "floor / forward")  # fmt: skip
TARGET_HEADER = ("target", "case", "measured", "limit", "")
NO_QUICK_PEAK = ("torchsparse",)  # a sixth of the whole time for one number
QUICK: dict[str, Any] = {"sites": [SITES], "channels": [16, 32], "threads": [1], "kinds": ["factorised"], "rounds": 3}


def run_child(job: dict[str, Any], folder: str) -> dict[str, Any]:
    """Run a job (see engine_runs) in a fresh process with its number of threads."""
    path = Path(folder) / "job.json"
    path.write_text(json.dumps(job), encoding="utf-8")
    # OpenMP and malloc read these once, when the process starts.
    settings = [f"OMP_NUM_THREADS={job['threads']}"]
    if job["do"] == "peaks":
        settings.append(f"MALLOC_MMAP_THRESHOLD_={MMAP_THRESHOLD}")
    run = run_measured(["env", *settings, sys.executable, __file__, "--job", str(path)])
    lines = run.output.splitlines()
    print(*lines[:-1], sep="\n", end="\n" if lines[:-1] else "", file=sys.stderr)
    return json.loads(lines[-1])


def measure(n_sites: int, n_threads: int, args: argparse.Namespace, folder: str) -> tuple[dict[str, Any], list[Row]]:
    """Time all engines in one process, then take the peak of each in its own; give what was found, and the rows."""
    sites = Path(folder) / f"{n_sites}.pt"
    if not sites.exists():
        torch.save(moving_blobs(n_sites, seed=args.seed)[0], sites)
    shared = {"sites": str(sites), "extent": grid_for(n_sites), "threads": n_threads, "seed": args.seed}
    job = shared | {"kinds": args.kinds, "channels": args.channels, "rounds": args.rounds}
    found = run_child(job | {"do": "times", "engines": args.engines}, folder)
    engines = dict.fromkeys(result["engine"] for result in found["times"])
    peaks = take_peaks(job, [name for name in engines if not (args.quick and name in NO_QUICK_PEAK)], folder)
    rows = []
    for result in found["times"]:
        kind, channels = result["kind"], result["channels"]
        floor = floor_ms(KINDS[kind], found["pairs"][kind], n_sites, channels, found)
        more: dict[str, Any] = {"sites": n_sites, "threads": n_threads, "floor_ms": floor}
        more["peak_mb"] = peaks.get((result["engine"], kind, channels))
        rows.append({key: (result | more)[key] for key in KEYS})
    return found, rows


def take_peaks(job: dict[str, Any], engines: list[str], folder: str) -> dict[tuple[str, str, int], float]:
    """Take the peak memory of every engine in a process of its own, MB; one that fails there has none."""
    peaks: dict[tuple[str, str, int], float] = {}
    for engine in engines:
        try:
            found = run_child(job | {"do": "peaks", "engines": [engine]}, folder)["peaks"]
        except BenchmarkError as error:
            print(f"No peak memory of {engine}: {error}", file=sys.stderr)
            continue
        peaks |= {(engine, p["kind"], p["channels"]): p["peak_bytes"] / MEGABYTE for p in found}
    return peaks


def floor_ms(sizes: tuple[Quad, ...], pairs: list[int], n_sites: int, channels: int, rates: dict[str, Any]) -> float:
    """Give the time of the layers' forward passes at the machine's rates of multiplying and copying."""
    total = 0.0
    for size, n_pairs in zip(sizes, pairs, strict=True):
        operations = 2 * n_pairs * channels**2
        moved = 4 * (2 * n_sites * channels + size[0] * size[1] * size[2] * size[3] * channels**2)
        total += max(operations / rates["gemm_flops"], moved / rates["copy_bytes_s"])
    return 1000 * total


def tell(found: dict[str, Any], n_sites: int, n_threads: int, *, known: dict[str, str]) -> str:
    """Say what the machine did and who does not take part, unless that is known."""
    pairs = (f"{kind} {' + '.join(f'{n / n_sites:.1f}' for n in layers)}" for kind, layers in found["pairs"].items())
    rates = f"matrix product {found['gemm_flops'] / 1e9:.0f} GF/s, copy {found['copy_bytes_s'] / 1e9:.1f} GB/s"
    lines = [reason for name, reason in found["missing"].items() if name not in known]
    lines += [f"{name} is not run with {threads(n_threads)}: {why}." for name, why in found["single"].items()]
    lines += [f"Refused: {case}: {why}." for case, why in found["refused"].items()]
    lines.append(f"{n_sites} sites, {threads(n_threads)}: {rates}; pairs per site {', '.join(pairs)}.")
    return "\n".join(lines)


def lines_of(rows: list[Row]) -> list[tuple[str, ...]]:
    """Write the cells of the rows, below `HEADER`."""
    lines = []
    for row in rows:
        share = f"{row['floor_ms'] / row['forward_ms']:.0%}"
        numbers = ("—" if row[key] is None else f"{row[key]:.{0 if row[key] >= 100 else 1}f}" for key in KEYS[5:])
        lines.append((*(str(row[key]) for key in KEYS[:5]), *numbers, share))
    return lines


def table(rows: list[Row]) -> str:
    """Write the rows."""
    return markdown_table(HEADER, lines_of(rows))


def target_lines(rows: list[Row]) -> list[tuple[str, ...]]:
    """Write the cells of what was asked and what was reached, below `TARGET_HEADER`."""
    return [
        (check.target, check.case, f"{check.measured:.2f}", f"{'≥' if check.at_least else '≤'} {check.limit}",
         "reached" if check.reached else "MISSED")
        for check in check_targets(rows)
    ]  # fmt: skip


def targets(rows: list[Row]) -> str:
    """Write what was asked and what was reached."""
    lines = target_lines(rows)
    return markdown_table(TARGET_HEADER, lines) if lines else "No target to check."


def kept_tables(rows: list[Row]) -> dict[str, dict[str, Any]]:
    """Give the tables of docs/benchmarks.md; what all rows share is left out of the first."""
    from pooling import table as keep  # not above: it brings MONAI, and the timed children need none of it

    same = {HEADER[i] for i, key in enumerate(KEYS[:5]) if i and len({row[key] for row in rows}) == 1}
    columns = [i for i, name in enumerate(HEADER) if name not in same]
    lines = ([line[i] for i in columns] for line in lines_of(rows))
    return {
        "engines": keep([HEADER[i] for i in columns], lines),
        "engine_targets": keep(TARGET_HEADER, target_lines(rows)),
    }


def read_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="200k sites, 1 thread, factorised, 3 rounds")
    parser.add_argument("--sites", type=int, nargs="+", default=[50_000, 200_000, 800_000, 3_200_000])
    parser.add_argument("--channels", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--engines", nargs="+", choices=list(RIVALS), default=list(RIVALS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1, help="of sites, features and weights")
    parser.add_argument("--json", help="also write machine and rows there")
    parser.add_argument("--job", help=argparse.SUPPRESS)  # the child
    args = parser.parse_args(arguments)
    if args.quick:
        vars(args).update(QUICK)
    return args


def main(arguments: list[str] | None = None) -> list[Row]:
    """Run the benchmark; see the module."""
    args = read_arguments(arguments)
    if args.job:
        engine_runs.main(args.job)
        return []
    from pooling import settings_of  # see `kept_tables`

    started, record = time.monotonic(), describe_machine()
    print(machine_line(record))
    rows: list[Row] = []
    rates: list[dict[str, Any]] = []
    missing: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for n_sites, n_threads in itertools.product(args.sites, args.threads):
            found, more = measure(n_sites, n_threads, args, folder)
            print(tell(found, n_sites, n_threads, known=missing), flush=True)
            rows += more
            missing |= found["missing"]
            rates.append({"sites": n_sites, "threads": n_threads} | {key: found[key] for key in RATES})
            minutes, settings = (time.monotonic() - started) / 60, settings_of(args, without=("job",))
            numbers = {"rates": rates, "missing": missing, "rows": rows, "tables": kept_tables(rows)}
            write_json(args.json, record, minutes=minutes, settings=settings, **numbers)
    print(f"\n{table(rows)}\n\n{targets(rows)}")
    return rows


if __name__ == "__main__":
    main()
