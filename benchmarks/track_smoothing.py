"""How tracks are smoothed: Dice and speeds of maps by the way of smoothing, for LocalisationNet and our preset.

Recordings are drawn by configs/simulate.yaml from the training graphs (`--vessels`), with a seed of their own: what is
chosen here is never seen by a table that compares methods. Rows: a moving average (`smooth_span`; 1 leaves positions
alone, and speeds are their differences), and the likeliest path whose acceleration is the track's own v² over
`bend_radius_m`. Speed over truth: sum over the map's voxels within λ/10 of a true one, over that of the true speeds;
error: sum of differences over the same.

Run:  python benchmarks/track_smoothing.py --work build/referee --vessels seg1.swc seg2.swc seg3.swc [--json FILE]
"""

import argparse
import time
from typing import Any

from counting_bubbles import score_bubbles
from machine import ROOT, describe_machine
from pooling import Table, publish, shown, table
from pooling_bubbles import bubbles_over_seeds
from referee import PRESETS, Method, add_arguments, make_recordings

from sparse_ulm.classical.presets import GAUSSIAN_KALMAN

CONCENTRATIONS = (0.01, 0.05, 0.2)
SEED = 7801
WAYS: tuple[dict[str, Any], ...] = (
    *({"smooth_span": span} for span in (1, 5)),
    *({"bend_radius_m": radius} for radius in (1e-5, 1e-4)),
)


def methods() -> list[tuple[str, dict[str, Any], Method]]:
    """List every method with every way of smoothing."""
    weights = ROOT / "models" / "localisation.pt"
    network = [
        ("LocalisationNet", way, Method("LocalisationNet", "inference.yaml", {"weights": weights, "linking": way}))
        for way in WAYS
    ]
    return network + [
        (PRESETS[0], way, Method(PRESETS[0], "classical.yaml", {"preset": PRESETS[0], **way})) for way in WAYS
    ]


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Score everything; one row per method, way and concentration."""
    size = {"grid_size": args.grid_size, "n_frames": args.n_frames, "n_recordings": args.n_recordings}
    folders = {
        c: [
            make_recordings(
                args.work,
                vessels=args.vessels,
                seed=seed,
                bubbles_per_psf_volume=[c, c],
                n_workers=args.workers,
                **size,
            )
            for seed in args.seeds
        ]
        for c in args.concentrations
    }
    return [
        {"method": name, "way": way, "concentration": c}
        | bubbles_over_seeds([score_bubbles(args.work, method, folder) for folder in of_seeds])
        for name, way, method in methods()
        for c, of_seeds in folders.items()
    ]


def smoothing_table(rows: list[dict[str, Any]]) -> Table:
    """Lay out scores, a column per concentration; bold is what is shipped."""
    concentrations = list(dict.fromkeys(r["concentration"] for r in rows))
    columns = {
        "dice_lambda_10": "Dice λ/10",
        "speed_ratio_lambda_10": "speed / truth",
        "speed_error_lambda_10": "error",
    }
    header = ["method", "smoothing", *(f"{label} at {c}" for label in columns.values() for c in concentrations)]
    lines = []
    for method, way in dict.fromkeys((r["method"], tuple(r["way"].items())) for r in rows):
        own = {r["concentration"]: r for r in rows if r["method"] == method and tuple(r["way"].items()) == way}
        told = ", ".join(f"{name} {value:g}" for name, value in way)
        is_shipped = all(getattr(GAUSSIAN_KALMAN, name) == value for name, value in way)
        cells = [shown(own[c][key], 3 if key == "dice_lambda_10" else 2) for key in columns for c in concentrations]
        lines.append([method, f"**{told}**" if is_shipped else told, *cells])
    return table(header, lines)


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Run the comparison; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, n_recordings=4, grid_size=(16, 16, 16), seed=SEED)
    parser.add_argument("--concentrations", nargs="+", type=float, default=list(CONCENTRATIONS))
    args = parser.parse_args(arguments)
    started, record = time.monotonic(), describe_machine()
    rows = measure(args)
    tables = {"track_smoothing": smoothing_table(rows)}
    publish(args, rows, tables, record=record, started=started, without=("weights", "network", "presets"))
    return rows


if __name__ == "__main__":
    main()
