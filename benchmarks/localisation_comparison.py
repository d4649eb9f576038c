"""LocalisationNet, TrajectoryMapNet and the conventional pipeline: bubbles, maps, speeds and cost.

Sets (shifted_sets.py): as trained; kernels of probes left out of training; white noise at low signal (others by
`--sets`); and any folder given as `--extra NAME=DIR` (the same name again is another seed). At each concentration and
for each method: bubbles matched one to one within λ/4 and λ/2 (Jaccard, precision, recall, F1, error per axis, recall
by distance to the nearest neighbour), Dice of the maps within λ/10, error of the map of mean speed
(`counting_bubbles.speed_counts`), CPU seconds, everything written. Counts of a seed's recordings added, mean ± standard
deviation over seeds. Time and memory are also measured with the map of density alone (method_costs.py). The best
preset is the one of the highest Jaccard λ/4 on these recordings: in favour of the conventional pipeline.

Thresholds: `--calibrate [DIR]` runs LocalisationNet and our preset over the values of `GRIDS` on the left-out kernels
from seeds of their own (or on DIR) and chooses for each the values of the best Jaccard λ/4, averaged over
concentrations. The comparison takes them from that run's JSON, `--calibration FILE`; without, it runs the configs as
they are shipped. The other presets keep the thresholds of the tools they come from.

Run:  python benchmarks/localisation_comparison.py --work build/referee --vessels seg4.swc --train_tables FILE \
          --left_out_tables FILE [--calibrate | --calibration FILE] [--extra esdiva=DIR] [--json FILE]
"""

import argparse
import itertools
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from counting_bubbles import score_bubbles
from domain_shift import CONCENTRATIONS, SEED, Folders, calibration_folders, make_sets
from localisation_tables import JACCARD, against_others, all_scores, by_neighbour, calibration_table, errors
from machine import ROOT, describe_machine, machine_line, write_json
from method_costs import cost_table, method_cost
from pooling import by_concentration, markdown, settings_of
from pooling_bubbles import bubbles_over_seeds
from referee import PRESETS, WEIGHTS_OF_DIMS, Method, add_arguments, load_json, methods_of, network
from shifted_sets import IN_DISTRIBUTION, LEFT_OUT, extra_sets

LOW_SIGNAL = "white noise, 5 to 10 dB"
LOCALISATION_WEIGHTS = ROOT / "models" / "localisation.pt"

GRIDS: dict[str, dict[str, tuple[float, ...]]] = {
    "localisation": {"bubble_threshold": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0)},
    PRESETS[0]: {"noise_factor": (2.5, 3.0, 4.0, 5.0, 6.0, 8.0), "side_lobe_ratio": (0.15, 0.25, 0.35, 0.5)},
}
"""Values that a calibration tries, by kind of network or preset; all combinations."""


def kind_of(method: Method) -> str:
    """Tell "localisation", "map" or "preset"."""
    if not method.is_network:
        return "preset"
    return "localisation" if method.options.get("method") == "localisation" else "map"


def compared_methods(args: argparse.Namespace) -> list[Method]:
    """List the methods of the command line, with the thresholds that a calibration chose."""
    own = [network(text if "=" in text else f"LocalisationNet={text}") for text in args.localisation_weights]
    methods = [replace(one, options=one.options | {"method": "localisation"}) for one in own] + methods_of(args)
    chosen = load_json(args.calibration)["chosen"] if args.calibration else {}
    return [replace(one, options=one.options | chosen.get(one.name.split(":")[0], {})) for one in methods]


def measure(args: argparse.Namespace, folders: Folders) -> list[dict[str, Any]]:
    """Score every method on every set; one row per set, concentration and method."""
    rows = []
    for name, of_set in folders.items():
        for given, of_seeds in of_set.items():
            for method in compared_methods(args):
                results = [score_bubbles(args.work, method, folder) for folder in of_seeds]
                for concentration, own in by_concentration(given, results):
                    told = {"set": name, "concentration": concentration, "method": method.name}
                    rows.append(told | {"kind": kind_of(method)} | bubbles_over_seeds(own))
    return rows


def calibrate(args: argparse.Namespace, folders: dict[float | None, list[Path]]) -> list[dict[str, Any]]:
    """Score LocalisationNet and our preset at all of `GRIDS`; one row per method, `values` and concentration."""
    rows = []
    for method in compared_methods(args):
        kind = kind_of(method)
        grid = GRIDS.get(kind, GRIDS.get(method.name, {}))
        for values in itertools.product(*grid.values()) if grid else ():
            changes = dict(zip(grid, values, strict=True))
            changed = replace(method, options=method.options | changes)
            for given, of_seeds in folders.items():
                results = [score_bubbles(args.work, changed, folder) for folder in of_seeds]
                for concentration, own in by_concentration(given, results):
                    told = {"method": method.name, "kind": kind, "values": changes, "concentration": concentration}
                    rows.append(told | bubbles_over_seeds(own))
    return rows


def choose(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Give, per method, the values of the best mean Jaccard λ/4 over concentrations; of equal ones the first."""
    chosen = {}
    for method in dict.fromkeys(r["method"] for r in rows):
        own = [r for r in rows if r["method"] == method]
        tried = [dict(items) for items in dict.fromkeys(tuple(r["values"].items()) for r in own)]
        chosen[method] = max(
            tried, key=lambda values: statistics.fmean(r[JACCARD]["mean"] for r in own if r["values"] == values)
        )
    return chosen


def costs_of(args: argparse.Namespace, folders: Folders) -> dict[str, dict[str, float]]:
    """Measure every method on the first set's recordings of the first seed, at all its concentrations."""
    of_set = next(iter(folders.values()))
    return {m.name: method_cost(args.work, m, [seeds[0] for seeds in of_set.values()]) for m in compared_methods(args)}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, n_recordings=3, grid_size=(16, 16, 16), seed=SEED)
    parser.set_defaults(weights=[f"TrajectoryMapNet={WEIGHTS_OF_DIMS[3]}"])
    weights, sets = [str(LOCALISATION_WEIGHTS)], [IN_DISTRIBUTION, LEFT_OUT, LOW_SIGNAL]
    parser.add_argument("--localisation_weights", nargs="*", default=weights, help="[NAME=]FILE of LocalisationNets")
    parser.add_argument("--concentrations", nargs="+", type=float, default=list(CONCENTRATIONS))
    parser.add_argument("--training", nargs="*", default=[], help="KEY=VALUE of simulate.yaml, as in training")
    parser.add_argument("--train_tables", type=Path, help="kernels that training saw: 0.4 side lobes, 0.4 these")
    parser.add_argument("--left_out_tables", type=Path, help="kernels of simus3_kernels.py --family left_out")
    parser.add_argument("--extra", nargs="*", default=[], metavar="NAME=DIR", help="recordings made elsewhere")
    parser.add_argument("--sets", nargs="*", default=sets, help="of shifted_sets.py; none for those of --extra alone")
    parser.add_argument("--calibrate", nargs="?", const="", metavar="DIR", help="choose thresholds instead")
    parser.add_argument("--calibration", type=Path, metavar="FILE", help="JSON of --calibrate: take its thresholds")
    args = parser.parse_args(arguments)
    if args.calibrate == "" and args.left_out_tables is None:
        parser.error("--calibrate without a folder needs --left_out_tables.")
    if args.calibrate is None and not args.sets and not args.extra:
        parser.error("nothing to compare on: name --sets or --extra.")
    return args


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Run the comparison, or the calibration; see the module."""
    args = parse(arguments)
    started, record = time.monotonic(), describe_machine()
    if args.calibrate is None:
        folders = (make_sets(args, args.sets, args.seeds) if args.sets else {}) | extra_sets(args.extra)
        rows, found = measure(args, folders), {"costs": costs_of(args, folders)}
        reference = next((r["method"] for r in rows if r["kind"] == "map"), None)
        tables = {
            "localisation": against_others(rows),
            "localisation_costs": cost_table(found["costs"], reference),
            "localisation_by_neighbour": by_neighbour(rows),
            "localisation_errors": errors(rows),
            "localisation_all": all_scores(rows),
        }
    else:
        rows = calibrate(args, calibration_folders(args))
        found = {"chosen": choose(rows)}
        tables = {"localisation_calibration": calibration_table(rows, found["chosen"])}
    print(machine_line(record), *map(markdown, tables.values()), sep="\n\n")
    minutes = (time.monotonic() - started) / 60
    write_json(args.json, record, minutes=minutes, settings=settings_of(args), results=rows, tables=tables, **found)
    return rows


if __name__ == "__main__":
    main()
