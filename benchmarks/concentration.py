"""Network and conventional pipeline from 0.01 to 1 bubbles per volume of the point-spread function.

For every concentration simulates `--n_recordings` recordings for each of `--seeds` by configs/simulate.yaml (its
default ranges, everything but the concentration drawn alike), makes maps by configs/inference.yaml and by every
preset of configs/classical.yaml, and prints per method: Dice of the maps within a tenth of the wavelength, precision
and recall within it, Dice voxel exact and within a quarter; counts of a seed's recordings added, mean ± standard
deviation over seeds; CPU seconds per recording, all reading and writing included. A second table sets the network
beside the best preset.

Run:  python benchmarks/concentration.py --work build/referee --vessels seg4.swc [--json FILE] [--figure FILE]
"""

import argparse
import time
from pathlib import Path
from typing import Any

from figures import draw_concentration, named_in_docs
from machine import ROOT, describe_machine, machine_line, write_json
from pooling import Table, best, markdown, over_seeds, settings_of, shown, table
from referee import Method, add_arguments, make_recordings, methods_of, score

CONCENTRATIONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
SEED = 7001
SCORES = ("dice_lambda_10", "precision_lambda_10", "recall_lambda_10", "dice_exact", "dice_lambda_4")


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Score every method at every concentration; one row each."""
    rows = []
    for concentration in args.concentrations:
        folders = [
            make_recordings(
                args.work,
                vessels=args.vessels,
                seed=seed,
                n_recordings=args.n_recordings,
                grid_size=args.grid_size,
                n_frames=args.n_frames,
                bubbles_per_psf_volume=[concentration, concentration],
                n_workers=args.workers,
            )
            for seed in args.seeds
        ]
        for method in methods_of(args):
            scores = over_seeds([score(args.work, method, folder) for folder in folders])
            rows.append({"concentration": concentration, **_told(method), **scores})
    return rows


def _told(method: Method) -> dict[str, Any]:
    return {"method": method.name, "is_network": method.is_network}


def all_scores(rows: list[dict[str, Any]]) -> Table:
    """Lay out every method's scores."""
    header = ("bubbles per PSF volume", "per mm³", "method", "Dice λ/10", "precision λ/10", "recall λ/10", "Dice exact",
              "Dice λ/4", "CPU s per recording")  # fmt: skip
    return table(
        header,
        (
            (r["concentration"], density(r), r["method"], *(shown(r[name]) for name in SCORES),
             f"{r['seconds_per_recording']:.2f}")
            for r in rows
        ),
    )  # fmt: skip


def against_best(rows: list[dict[str, Any]]) -> Table:
    """Set every network beside the preset that is best at that concentration; the ratio is of the means."""
    header = ("bubbles per PSF volume", "per mm³", "network", "Dice λ/10", "recall λ/10", "best preset",
              "its Dice λ/10", "its recall λ/10", "network / preset")  # fmt: skip
    lines = []
    for concentration in dict.fromkeys(r["concentration"] for r in rows):
        here = [r for r in rows if r["concentration"] == concentration]
        presets = {r["method"]: r for r in here if not r["is_network"]}
        for r in here:
            if r["is_network"] and presets:
                other = presets[best(presets)]
                mean, its = r["dice_lambda_10"]["mean"], other["dice_lambda_10"]["mean"]
                lines.append(
                    (concentration, density(r), r["method"], shown(r["dice_lambda_10"]), shown(r["recall_lambda_10"]),
                     other["method"], shown(other["dice_lambda_10"]), shown(other["recall_lambda_10"]),
                     f"{mean / its:.2f}" if its else "—")
                )  # fmt: skip
    return table(header, lines)


def density(row: dict[str, Any]) -> str:
    """Write bubbles per mm³; recordings of one slice have none."""
    return "—" if row["bubbles_per_mm3"] is None else f"{row['bubbles_per_mm3']:.0f}"


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Run the comparison; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, n_recordings=6, grid_size=(16, 16, 16), seed=SEED)
    parser.add_argument("--concentrations", nargs="+", type=float, default=list(CONCENTRATIONS))
    parser.add_argument("--figure", type=Path, default=ROOT / "docs" / "figures" / "concentration.png")
    args = parser.parse_args(arguments)
    started, record = time.monotonic(), describe_machine()
    rows = measure(args)
    tables = {"concentration": against_best(rows), "concentration_all": all_scores(rows)}
    print(machine_line(record), *map(markdown, tables.values()), sep="\n\n")
    draw_concentration(rows, args.figure)
    minutes, figures = (time.monotonic() - started) / 60, named_in_docs("concentration", args.figure.absolute())
    write_json(
        args.json, record, minutes=minutes, settings=settings_of(args), results=rows, tables=tables, figures=figures
    )
    return rows


if __name__ == "__main__":
    main()
