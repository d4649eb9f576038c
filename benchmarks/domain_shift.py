"""Network and conventional pipeline on recordings of another kind than those that trained the network.

Sets (shifted_sets.py): as trained; kernels of probes left out of training; white noise at low signal; frame rates of
200 and 2000 Hz; clutter that a weak filter leaves; a quarter of the receive rows missing; aberration of 60 degrees; and
any folder given as `--extra NAME=DIR` (recordings with a simulation.json, or one folder per concentration, "0.05"; the
same name again is another seed). At each concentration: Dice of the maps within λ/10 of each network and of the best
preset, their ratio, and how much of the Dice as trained each one keeps. Mean ± standard deviation over seeds.

Calibration, `--calibrate` (on the left-out kernels, other seeds) or `--calibrate DIR`: the same Dice over the
network's probability threshold and over the conventional pipeline's noise factor. Choose both there, not on the sets.

Run:  python benchmarks/domain_shift.py --work build/referee --vessels seg4.swc --train_tables kernels_train.npz \
          --left_out_tables kernels_left_out.npz [--extra esdiva=DIR] [--calibrate [DIR]] [--json FILE]
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from calibration import calibrate, calibration_table
from machine import describe_machine, machine_line, write_json
from pooling import Table, best, by_concentration, markdown, over_seeds, settings_of, shown, table
from referee import add_arguments, methods_of, score
from shifted_sets import IN_DISTRIBUTION, LEFT_OUT, extra_sets, make_set, shifts

CONCENTRATIONS = (0.01, 0.05, 0.2)
SEED = 7101
CALIBRATION_SEED = 7201
DICE = "dice_lambda_10"

Folders = dict[str, dict[float | None, list[Path]]]
"""Recordings by set and concentration (None: as they say themselves), one folder per seed."""


def training_options(args: argparse.Namespace) -> dict[str, Any]:
    """Give the options of simulate.yaml that made the training recordings."""
    options = {key: yaml.safe_load(value) for key, _, value in (text.partition("=") for text in args.training)}
    if args.train_tables is not None:
        options = {"side_lobe_share": 0.4, "psf_table_share": 0.4, "psf_tables": args.train_tables} | options
    return options


def make_sets(args: argparse.Namespace, names: Sequence[str] | None, seeds: Sequence[int]) -> Folders:
    """Make the sets of these names, all for None, for every seed."""
    size = {"n_recordings": args.n_recordings, "grid_size": args.grid_size, "n_frames": args.n_frames,
            "n_workers": args.workers}  # fmt: skip
    sets = shifts(training_options(args), args.left_out_tables)
    return {
        name: {
            c: [
                make_set(args.work, name, options, vessels=args.vessels, seed=seed,
                         bubbles_per_psf_volume=[c, c], **size)
                for seed in seeds
            ]
            for c in args.concentrations
        }
        for name, options in sets.items()
        if names is None or name in names
    }  # fmt: skip


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Score every method on every set; one row per set, concentration and method."""
    folders = make_sets(args, args.sets, args.seeds) | extra_sets(args.extra)
    rows = []
    for name, of_set in folders.items():
        for given, of_seeds in of_set.items():
            for method in methods_of(args):
                results = [score(args.work, method, folder) for folder in of_seeds]
                for concentration, own in by_concentration(given, results):
                    told = {"set": name, "concentration": concentration, "method": method.name}
                    rows.append(told | {"is_network": method.is_network} | over_seeds(own))
    return rows


def against_best(rows: list[dict[str, Any]]) -> Table:
    """Set every network beside the best preset of that set and concentration, and both beside the set as trained."""
    header = ("set", "bubbles per PSF volume", "network", "Dice λ/10", "precision", "recall", "best preset",
              "its Dice λ/10", "network / preset", "of in distribution: network", "preset")  # fmt: skip
    dice = {(r["set"], r["concentration"], r["method"]): r[DICE]["mean"] for r in rows}
    lines = []
    for r in rows:
        here = [o for o in rows if (o["set"], o["concentration"]) == (r["set"], r["concentration"])]
        presets = {o["method"]: o for o in here if not o["is_network"]}
        if not r["is_network"]:
            continue
        name = best(presets) if presets else None
        line = [r["set"], "all" if r["concentration"] is None else r["concentration"], r["method"], shown(r[DICE]),
                shown(r["precision_lambda_10"]), shown(r["recall_lambda_10"])]  # fmt: skip
        its = presets[name][DICE] if name else None
        line += [name, shown(its), ratio(r[DICE]["mean"], its["mean"])] if its else ["—"] * 3
        usual = [dice.get((IN_DISTRIBUTION, r["concentration"], method)) for method in (r["method"], name)]
        own = (r[DICE]["mean"], its["mean"] if its else None)
        lines.append([*line, *(ratio(a, b) for a, b in zip(own, usual, strict=True))])
    return table(header, lines)


def ratio(value: float | None, reference: float | None) -> str:
    """Divide, where there is something to divide by."""
    return "—" if value is None or not reference else f"{value / reference:.2f}"


def all_scores(rows: list[dict[str, Any]]) -> Table:
    """Lay out every method's scores."""
    header = ("set", "bubbles per PSF volume", "method", "Dice λ/10", "precision λ/10", "recall λ/10", "Dice exact",
              "Dice λ/4")  # fmt: skip
    names = (DICE, "precision_lambda_10", "recall_lambda_10", "dice_exact", "dice_lambda_4")
    return table(
        header,
        ((r["set"], "all" if r["concentration"] is None else r["concentration"], r["method"],
          *(shown(r[name]) for name in names)) for r in rows),
    )  # fmt: skip


def calibration_folders(args: argparse.Namespace) -> dict[float | None, list[Path]]:
    """Give the recordings of a calibration: a folder, or the left-out kernels from seeds of their own."""
    if args.calibrate:
        return extra_sets([f"given={args.calibrate}"])["given"]
    return make_sets(args, [LEFT_OUT], [CALIBRATION_SEED + i for i in range(len(args.seeds))])[LEFT_OUT]


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Run the comparison, or the calibration; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, n_recordings=6, grid_size=(16, 16, 16), seed=SEED)
    parser.add_argument("--concentrations", nargs="+", type=float, default=list(CONCENTRATIONS))
    parser.add_argument("--training", nargs="*", default=[], help="KEY=VALUE of simulate.yaml, as in training")
    parser.add_argument("--train_tables", type=Path, help="kernels that training saw: 0.4 side lobes, 0.4 these")
    parser.add_argument("--left_out_tables", type=Path, help="kernels of simus3_kernels.py --family left_out")
    parser.add_argument("--extra", nargs="*", default=[], metavar="NAME=DIR", help="recordings made elsewhere")
    parser.add_argument("--sets", nargs="+", help="only these")
    parser.add_argument("--calibrate", nargs="?", const="", metavar="DIR", help="choose thresholds instead")
    args = parser.parse_args(arguments)
    if args.calibrate == "" and args.left_out_tables is None:
        parser.error("--calibrate without a folder needs --left_out_tables.")
    started, record = time.monotonic(), describe_machine()
    if args.calibrate is None:
        rows = measure(args)
        tables = {"domain_shift": against_best(rows), "domain_shift_all": all_scores(rows)}
    else:
        rows = calibrate(args.work, methods_of(args), calibration_folders(args))
        tables = {"calibration": calibration_table(rows)}
    print(machine_line(record), *map(markdown, tables.values()), sep="\n\n")
    minutes = (time.monotonic() - started) / 60
    write_json(args.json, record, minutes=minutes, settings=settings_of(args), results=rows, tables=tables)
    return rows


if __name__ == "__main__":
    main()
