"""One process against several on the blocks of one recording, for an idle machine with as many cores.

    python benchmarks/ranks.py [--ranks 1 2] [--rounds 1] [--quick] [--json FILE]

Simulates a recording (synthetic vessels, fixed seed) and runs configs/inference.yaml with
configs/distributed_inference.yaml on it by torchrun, with each number of processes in turn, one thread each, for

- trajectory_map: models/model.pt;
- localisation: models/localisation.pt;
- classical: no network.

Prints the shortest of all rounds of the seconds of the work, as provenance.json has them, and of the whole command,
start and imports included; what the first number takes over the others; and whether all outputs are the same to the
bit. `--quick` takes a small recording, to see that it runs.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from inference_block import simulate
from machine import ROOT, describe_machine, run_measured
from pooling import Table, publish, table

METHODS = {"trajectory_map": "model.pt", "localisation": "localisation.pt", "classical": "localisation.pt"}
FULL, QUICK = (48, 2048), (16, 128)
"""Voxels along each axis, and frames."""

BLOCK_FRAMES = {False: 64, True: 32}
TOLD = {"provenance.json", "manifest.json", "summary.csv"}
"""Files that tell the time."""


def run(dataset_dir: Path, output_dir: Path, method: str, n_ranks: int, block_frames: int) -> dict[str, float]:
    """Run the shipped config by torchrun; give seconds of the work and of the whole command."""
    options = {
        "config_file": "['configs/inference.yaml','configs/distributed_inference.yaml']",
        "bundle_root": ".",
        "dataset_dir": dataset_dir,
        "output_dir": output_dir,
        "method": method,
        "weights": ROOT / "models" / METHODS[method],
        "block_frames": block_frames,
        "n_threads": 1,
        "report": "false",  # tells the time
    }
    arguments = [text for key, value in options.items() for text in (f"--{key}", str(value))]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(n_ranks)]
    cost = run_measured([sys.executable, *launch, "-m", "monai.bundle", "run", *arguments])
    provenance = json.loads(next(output_dir.glob("*/provenance.json")).read_text(encoding="utf-8"))
    return {"work_s": provenance["wall_time_s"], "whole_s": cost.wall_s}


def outputs_of(folder: Path) -> dict[str, bytes]:
    """Read all files but those that tell the time."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in TOLD]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def time_in_turns(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Give, per method, the least seconds with every number of ranks and whether their outputs are the same."""
    seconds: dict[str, dict[int, list[dict[str, float]]]] = {m: {n: [] for n in args.ranks} for m in args.methods}
    same = dict.fromkeys(args.methods, True)
    with tempfile.TemporaryDirectory() as name:
        data = Path(name) / "data"
        simulate(data, args)
        for turn in range(args.rounds):
            for method in args.methods:
                outputs = []
                for n in args.ranks:
                    output = Path(name) / f"{method}_{n}_{turn}"
                    found = run(data, output, method, n, BLOCK_FRAMES[args.quick])
                    outputs.append(outputs_of(output))
                    seconds[method][n].append(found)
                same[method] &= all(one == outputs[0] for one in outputs)
    return [
        {"method": method, "same_bits": same[method], **{key: least(by_ranks, key) for key in ("work_s", "whole_s")}}
        for method, by_ranks in seconds.items()
    ]


def least(by_ranks: dict[int, list[dict[str, float]]], key: str) -> dict[int, float]:
    """Give the shortest of all rounds of one kind of seconds, per number of ranks."""
    return {n: min(one[key] for one in rows) for n, rows in by_ranks.items()}


def time_table(results: list[dict[str, Any]], n_ranks: list[int]) -> Table:
    """Lay the seconds out, and the first number of ranks over the others."""
    first, *others = n_ranks
    kinds = {"work_s": "work", "whole_s": "command"}
    header = ["method"]
    for kind in kinds.values():
        header += [*(f"{kind}, {n} processes, s" for n in n_ranks), *(f"{first} over {n}" for n in others)]
    rows = [
        [
            r["method"],
            *(
                cell
                for key in kinds
                for cell in (
                    *(f"{r[key][n]:.1f}" for n in n_ranks),
                    *(f"{r[key][first] / r[key][n]:.2f}" for n in others),
                )
            ),
            "yes" if r["same_bits"] else "NO",
        ]
        for r in results
    ]
    return table([*header, "same bits"], rows)


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Run the benchmark; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--bubbles", type=int, default=30, help="in the field of view, in every frame")
    parser.add_argument("--snr_db", type=float, default=20.0, help="median bubble peak over noise rms")
    parser.add_argument("--seed", type=int, default=1, help="of the simulation")
    parser.add_argument("--quick", action="store_true", help="16x16x16x128")
    parser.add_argument("--json", help="also write machine and numbers there")
    args = parser.parse_args(arguments)
    args.grid, args.frames = QUICK if args.quick else FULL
    started, record = time.monotonic(), describe_machine()
    results = time_in_turns(args)
    publish(args, results, {"ranks": time_table(results, args.ranks)}, record=record, started=started)
    return results


if __name__ == "__main__":
    main()
