"""The ablation: plain, deep supervision, site pruning, cascade, and the heads' temporal strides as released.

Every variant is trained from `--seeds` by configs/train.yaml on the same recordings, for the same number of steps (or,
with `--minutes`, as many epochs as fit), and scored by that config's own evaluator on recordings of `--vessels`, which
no training saw. Prints, mean ± standard deviation over training seeds: Dice of the maps within λ/10 and voxel exact per
concentration; CPU seconds of the network per block at the highest one, on one thread; sites of the finest grid there;
growth of the memory of a fresh process over one training step of one block there; CPU minutes and steps of training.
The rows "strides as released" train heads against truth in slots of half their length (ablation_loss.py). The row
`dense` (2D only) is configs/dense_train.yaml, trained for as many CPU minutes as `cascade` took.

Run:  python benchmarks/ablation.py --work build/referee --train_vessels seg1.swc seg2.swc seg3.swc --vessels seg4.swc \
          [--spatial_dims 3] [--jobs 2] [--json FILE]
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ablation_loss import OVERRIDES
from machine import MIB, describe_machine
from pooling import Table, publish, shown, spread, table
from referee import make_recordings
from trainings import Training, data_folder, epochs_within, evaluate, memory_of_step, train

CONCENTRATIONS = (0.01, 0.05, 0.2)
DATA_SEED = 7401
RELEASED = ", strides as released"
DENSE = "dense"
GRIDS = {2: [32, 1, 32], 3: [16, 16, 16]}
VARIANTS = ("plain", "deep_supervision", "pruning", "cascade", f"pruning{RELEASED}")
DENSE_STEPS = 5
"""Steps that make an epoch of the dense network, whose budget may be less than all blocks once."""


def training_of(name: str, args: argparse.Namespace, seed: int, n_epochs: int) -> Training:
    """Give the training of one row and seed."""
    options: dict[str, Any] = {"spatial_dims": args.spatial_dims, "n_epochs": n_epochs}
    if name == DENSE:
        options["val_interval"] = max(1, n_epochs // 2)
        return Training(("train.yaml", "dense_train.yaml"), options, seed, epoch_steps=DENSE_STEPS)
    options |= {"variant": name.removesuffix(RELEASED), "val_interval": max(1, n_epochs // 4)}
    options["cascade_epochs"] = [max(1, n_epochs // 15)] * 3
    return Training(("train.yaml",), options | (OVERRIDES if name.endswith(RELEASED) else {}), seed)


def make_data(args: argparse.Namespace) -> tuple[Path, dict[float, Path]]:
    """Make the recordings to train on, and those to score, by concentration."""
    size = {"grid_size": args.grid_size or GRIDS[args.spatial_dims], "n_frames": args.n_frames,
            "n_workers": args.workers}  # fmt: skip
    wide = {"bubbles_per_psf_volume": [0.01, 0.5]} | size
    data = data_folder(
        args.work,
        train=make_recordings(args.work, vessels=args.train_vessels, seed=DATA_SEED, n_recordings=args.n_train, **wide),
        validation=make_recordings(
            args.work, vessels=args.train_vessels, seed=DATA_SEED + 1, n_recordings=args.n_validation, **wide
        ),
    )
    tests = {
        c: make_recordings(
            args.work,
            vessels=args.vessels,
            seed=DATA_SEED + 2,
            n_recordings=args.n_test,
            bubbles_per_psf_volume=[c, c],
            **size,
        )
        for c in args.concentrations
    }
    return data, tests


def train_all(args: argparse.Namespace, data: Path) -> dict[str, list[tuple[Training, dict[str, Any]]]]:
    """Train every row from every seed; the dense one last, since its budget is what the cascade took."""
    done: dict[str, list[tuple[Training, dict[str, Any]]]] = {}
    for name in sorted(args.variants, key=lambda name: name == DENSE):
        n_epochs = args.n_epochs
        minutes = args.minutes
        if name == DENSE and minutes is None:
            minutes = statistics.fmean(facts["cpu_minutes"] for _, facts in done["cascade"])
        if minutes is not None:
            # The cascade's first epochs are short: pruning tells what a whole one takes.
            timed = training_of(name.replace("cascade", "pruning"), args, 0, 1)
            n_epochs = epochs_within(args.work, timed, data, minutes)
        trainings = [training_of(name, args, seed, n_epochs) for seed in args.seeds]
        with ThreadPoolExecutor(args.jobs) as pool:
            facts = list(pool.map(lambda training: train(args.work, training, data), trainings))
        done[name] = list(zip(trainings, facts, strict=True))
    return done


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Train and score; one row per variant."""
    data, tests = make_data(args)
    rows = []
    for name, members in train_all(args, data).items():
        row: dict[str, Any] = {"variant": name, "n_steps": members[0][1]["n_steps"]}
        row["cpu_minutes"] = spread([facts["cpu_minutes"] for _, facts in members])
        for concentration, folder in tests.items():
            scores = [evaluate(args.work, t, facts["folder"] / "model.pt", folder) for t, facts in members]
            row[str(concentration)] = {key: spread([one[key] for one in scores]) for key in scores[0]}
        dense_block = tests[max(tests)]
        peaks = [memory_of_step(args.work, t, facts["folder"] / "model.pt", dense_block) for t, facts in members]
        rows.append(row | {"peak_bytes": spread(peaks)})
    return rows


def ablation_table(rows: list[dict[str, Any]], concentrations: Sequence[float]) -> Table:
    """Lay out scores and costs; those that depend on the recording are of the highest concentration."""
    header = ("variant", *(f"Dice λ/10 at {c}" for c in concentrations), *(f"exact at {c}" for c in concentrations),
              "CPU s per block", "finest sites", "step, peak MiB", "steps", "CPU minutes")  # fmt: skip
    last = str(max(concentrations))
    return table(
        header,
        (
            (
                r["variant"],
                *(shown(r[str(c)]["dice_lambda_10"]) for c in concentrations),
                *(shown(r[str(c)]["dice"]) for c in concentrations),
                shown(r[last]["cpu_seconds_per_block"], 2),
                f"{r[last]['finest_sites_per_block']['mean']:.0f}",
                f"{r['peak_bytes']['mean'] / MIB:.0f}",
                r["n_steps"],
                f"{r['cpu_minutes']['mean']:.1f}",
            )
            for r in rows
        ),
    )


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Run the ablation; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps what is finished")
    parser.add_argument("--train_vessels", nargs="+", default=["synthetic"], help="SWC files to train on")
    parser.add_argument("--vessels", nargs="+", default=["synthetic"], help="SWC files to score on")
    parser.add_argument("--spatial_dims", type=int, choices=(2, 3), default=2)
    parser.add_argument("--grid_size", nargs=3, type=int, help="voxels along x, y, z")
    parser.add_argument("--n_frames", type=int, default=128)
    parser.add_argument("--n_train", type=int, default=120, help="recordings to train on")
    parser.add_argument("--n_validation", type=int, default=12, help="recordings that choose the epoch")
    parser.add_argument("--n_test", type=int, default=10, help="recordings per concentration to score")
    parser.add_argument("--n_epochs", type=int, default=12)
    parser.add_argument("--minutes", type=float, help="CPU minutes per training in place of --n_epochs")
    parser.add_argument("--variants", nargs="+", default=[*VARIANTS, DENSE])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="of the trainings")
    parser.add_argument("--concentrations", nargs="+", type=float, default=list(CONCENTRATIONS))
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--workers", type=int, default=1, help="processes that simulate")
    parser.add_argument("--json", help="also write machine, settings, numbers and tables there")
    args = parser.parse_args(arguments)
    if args.spatial_dims == 3:
        args.variants = [name for name in args.variants if name != DENSE]
    if DENSE in args.variants and "cascade" not in args.variants and args.minutes is None:
        parser.error("dense needs cascade, whose CPU minutes it gets, or --minutes.")
    started, record = time.monotonic(), describe_machine()
    rows = measure(args)
    tables = {f"ablation_{args.spatial_dims}d": ablation_table(rows, args.concentrations)}
    publish(args, rows, tables, record=record, started=started)
    return rows


if __name__ == "__main__":
    main()
