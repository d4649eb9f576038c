"""Dice over the threshold that decides, for networks and for the conventional pipeline, on recordings of one kind."""

import statistics
from pathlib import Path
from typing import Any

from pooling import Table, by_concentration, over_seeds, shown, table
from referee import PRESETS, Method, score

from sparse_ulm.checkpoint import find_method

PROBABILITIES = tuple(round(0.2 + 0.05 * i, 2) for i in range(15))
"""0.2 to 0.9."""

NOISE_FACTORS = (2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0)
"""Of classical.yaml, in noise rms."""

DEFAULT_PRESET = PRESETS[0]
DICE = "dice_lambda_10"


def calibrate(work: Path, methods: list[Method], folders: dict[float | None, list[Path]]) -> list[dict[str, Any]]:
    """Score every network at all of `PROBABILITIES`, and our own preset at all of `NOISE_FACTORS`.

    Args:
        work: Where results are kept.
        methods: Other presets than our own are left out: their thresholds belong to the tools they come from. So are
            LocalisationNets, whose threshold localisation_comparison.py chooses.
        folders: Recordings by concentration (None: as they say themselves), one folder per seed.

    Returns:
        One row per method, value and concentration, with `parameter` and `value`.
    """
    rows = []
    for method in methods:
        if not (has_probability(method) if method.is_network else method.name == DEFAULT_PRESET):
            continue
        parameter = "probability_threshold" if method.is_network else "noise_factor"
        for given, of_seeds in folders.items():
            for value, results in _over_values(work, method, of_seeds).items():
                for concentration, own in by_concentration(given, results):
                    told = {"method": method.name, "parameter": parameter, "value": value}
                    rows.append(told | {"concentration": concentration} | over_seeds(own))
    return rows


def has_probability(method: Method) -> bool:
    """Tell whether a network makes a map of probabilities."""
    return find_method(method.options.get("method", "auto"), method.options["weights"]) == "trajectory_map"


def _over_values(work: Path, method: Method, folders: list[Path]) -> dict[float, list[dict[str, Any]]]:
    """Score one method at every value of its threshold; a network runs once, for its map of probabilities."""
    if not method.is_network:
        return {f: [score(work, method, folder, noise_factor=f) for folder in folders] for f in NOISE_FACTORS}
    results = [score(work, method, folder, kind="probability", thresholds=PROBABILITIES) for folder in folders]
    return {
        value: [r | {"recordings": [row for row in r["recordings"] if row["threshold"] == value]} for r in results]
        for value in PROBABILITIES
    }


def calibration_table(rows: list[dict[str, Any]]) -> Table:
    """Lay out Dice λ/10 by value and concentration; the value of the largest mean over concentrations is bold."""
    concentrations = list(dict.fromkeys(r["concentration"] for r in rows))
    lines = []
    for method in dict.fromkeys(r["method"] for r in rows):
        own = [r for r in rows if r["method"] == method]
        means = {value: mean_dice(own, value) for value in dict.fromkeys(r["value"] for r in own)}
        winner = max(means, key=lambda value: means[value])
        for value, mean in means.items():
            name = f"**{value}**" if value == winner else str(value)
            cells = [shown(r[DICE]) for r in own if r["value"] == value]
            lines.append((method, own[0]["parameter"], name, *cells, f"{mean:.3f}"))
    columns = ["all" if c is None else f"{c} per PSF volume" for c in concentrations]
    return table(("method", "parameter", "value", *columns, "mean Dice λ/10"), lines)


def mean_dice(rows: list[dict[str, Any]], value: float) -> float:
    """Average over concentrations, each of the same weight."""
    return statistics.fmean(r[DICE]["mean"] for r in rows if r["value"] == value)
