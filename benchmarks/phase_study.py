"""What the phase is worth to LocalisationNet: Re c and Im c as given, steps to neighbours, or magnitudes alone.

Every form (`phase` of configs/train_localisation.yaml) is trained from `--seeds` on the same recordings, for the same
steps, and asked by configs/inference.yaml for the bubbles of recordings of `--vessels`, other graphs than those trained
on. Prints, mean ± standard deviation over training seeds: Jaccard index within λ/4 and λ/2 per concentration at the
shipped threshold, largest root mean square error of the three axes, CPU minutes of training.

Run:  python benchmarks/phase_study.py --work build/referee --train_vessels seg1.swc seg2.swc --vessels seg3.swc \
          [--spatial_dims 3] [--json FILE]
"""

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from counting_bubbles import score_bubbles
from machine import describe_machine
from pooling import Table, publish, shown, spread, table
from pooling_bubbles import pool_bubbles
from referee import Method, make_recordings
from trainings import Training, data_folder, train

from sparse_ulm.networks.phase import PHASES

CONCENTRATIONS = (0.05, 0.2)
DATA_SEED = 7901
GRIDS = {2: [32, 1, 32], 3: [12, 12, 12]}
SCORES = {"bubble_jaccard_lambda_4": "Jaccard λ/4", "bubble_jaccard_lambda_2": "Jaccard λ/2"}


def make_data(args: argparse.Namespace) -> tuple[Path, dict[float, Path]]:
    """Make the recordings to train on, and those to score, by concentration."""
    size = {"grid_size": GRIDS[args.spatial_dims], "n_frames": 128, "n_workers": args.workers}
    wide = {"bubbles_per_psf_volume": [0.01, 0.5], "vessels": args.train_vessels} | size
    data = data_folder(
        args.work,
        train=make_recordings(args.work, seed=DATA_SEED, n_recordings=args.n_train, **wide),
        validation=make_recordings(args.work, seed=DATA_SEED + 1, n_recordings=args.n_validation, **wide),
    )
    tests = {
        c: make_recordings(
            args.work, vessels=args.vessels, seed=DATA_SEED + 2, n_recordings=args.n_test,
            bubbles_per_psf_volume=[c, c], **size,
        )
        for c in args.concentrations
    }  # fmt: skip
    return data, tests


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Train and score; one row per form of the phase."""
    data, tests = make_data(args)
    cases = [(phase, seed) for phase in PHASES for seed in args.seeds]

    def trained(case: tuple[str, int]) -> dict[str, Any]:
        phase, seed = case
        options = {"spatial_dims": args.spatial_dims, "n_epochs": args.n_epochs, "phase": phase}
        options["val_interval"] = args.n_epochs
        return train(args.work, Training(("train_localisation.yaml",), options, seed), data)

    with ThreadPoolExecutor(args.jobs) as pool:
        facts = dict(zip(cases, pool.map(trained, cases), strict=True))
    rows = []
    for phase in PHASES:
        members = [facts[phase, seed] for seed in args.seeds]
        row: dict[str, Any] = {"phase": phase, "n_steps": members[0]["n_steps"]}
        row["cpu_minutes"] = spread([one["cpu_minutes"] for one in members])
        for concentration, folder in tests.items():
            scores = [_scores(args, phase, one["folder"] / "model.pt", folder) for one in members]
            row[str(concentration)] = {key: _spread([one[key] for one in scores]) for key in scores[0]}
        rows.append(row)
    return rows


def _scores(args: argparse.Namespace, phase: str, weights: Path, folder: Path) -> dict[str, float | None]:
    options = {"weights": weights, "spatial_dims": args.spatial_dims, "phase": phase}
    scores = pool_bubbles(score_bubbles(args.work, Method(phase, "inference.yaml", options), folder)["recordings"])
    errors = [scores[f"rmse_{axis}_wavelengths_lambda_2"] for axis in "xyz"]
    known = [e for e in errors if e is not None]
    return {key: scores[key] for key in SCORES} | {"rmse_wavelengths": max(known, default=None)}


def _spread(values: list[float | None]) -> dict[str, Any] | None:
    """Spread over the seeds that have a value; None where none has."""
    known = [value for value in values if value is not None]
    return spread(known) if known else None


def phase_table(rows: list[dict[str, Any]], concentrations: list[float]) -> Table:
    """Lay out scores and costs."""
    header = ["phase", *(f"{label} at {c}" for label in SCORES.values() for c in concentrations),
              *(f"RMSE (λ) at {c}" for c in concentrations), "steps", "CPU minutes"]  # fmt: skip
    return table(
        header,
        (
            [r["phase"], *(_cell(r[str(c)][key]) for key in (*SCORES, "rmse_wavelengths") for c in concentrations),
             r["n_steps"], f"{r['cpu_minutes']['mean']:.1f}"]
            for r in rows
        ),
    )  # fmt: skip


def _cell(value: dict[str, Any] | None) -> str:
    return "—" if value is None else shown(value)


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Run the study; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps what is finished")
    parser.add_argument("--train_vessels", nargs="+", default=["synthetic"], help="SWC files to train on")
    parser.add_argument("--vessels", nargs="+", default=["synthetic"], help="SWC files to score on")
    parser.add_argument("--spatial_dims", type=int, choices=(2, 3), default=2)
    parser.add_argument("--n_train", type=int, default=120, help="recordings to train on")
    parser.add_argument("--n_validation", type=int, default=6, help="recordings of the last epoch's check")
    parser.add_argument("--n_test", type=int, default=10, help="recordings per concentration to score")
    parser.add_argument("--n_epochs", type=int, default=6)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="of the trainings")
    parser.add_argument("--concentrations", nargs="+", type=float, default=list(CONCENTRATIONS))
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--workers", type=int, default=1, help="processes that simulate")
    parser.add_argument("--json", help="also write machine, settings, numbers and tables there")
    args = parser.parse_args(arguments)
    started, record = time.monotonic(), describe_machine()
    rows = measure(args)
    tables = {f"phase_{args.spatial_dims}d": phase_table(rows, args.concentrations)}
    publish(args, rows, tables, record=record, started=started)
    return rows


if __name__ == "__main__":
    main()
