"""The tables of localisation_comparison.py: rows of scores, laid out beside the targets."""

import statistics
from collections.abc import Sequence
from typing import Any

from pooling import Table, best, shown, table

from sparse_ulm.metrics.localisations import NEIGHBOUR_BINS

Row = dict[str, Any]
"""One method on one set at one concentration: `set`, `concentration`, `method`, `kind` and the scores."""

JACCARD, DICE = "bubble_jaccard_lambda_4", "dice_lambda_10"
CASE = ("set", "bubbles per PSF volume")


def against_others(rows: list[Row]) -> Table:
    """Set every LocalisationNet beside the best preset and the first other network, with the targets in the header."""
    header = (*CASE, "network", "Jaccard λ/4", "best preset", "its Jaccard λ/4",
              "ratio (targets: 1.1 at 0.01, 1.5 at 0.05, 2 at 0.2)", "RMSE λ/4 x, y, z (µm)",
              "the preset's (target: no worse)", "Dice λ/10", "TrajectoryMapNet's", "ratio (target: 1)",
              "the best preset's", "speed error", "in vessels as wide as a voxel (target: below 10 %)",
              "mean speed / true")  # fmt: skip
    lines = []
    for r, here in _networks(rows):
        presets = {o["method"]: o for o in here if o["kind"] == "preset"}
        other = next((o for o in here if o["kind"] == "map"), {})
        name = best(presets, JACCARD) if presets else None
        its = presets[name] if name else {}
        drawn = presets[best(presets, DICE)] if presets else {}
        lines.append(
            (*case(r), r["method"], told(r, JACCARD), name or "—", told(its, JACCARD), ratio(r, its, JACCARD),
             three(r, "rmse_{}_um_lambda_4"), three(its, "rmse_{}_um_lambda_4"), told(r, DICE), told(other, DICE),
             ratio(r, other, DICE), told(drawn, DICE), percent(r, "speed_error_lambda_10"),
             percent(r, "speed_error_wide"), told(r, "speed_ratio_lambda_10", 2))
        )  # fmt: skip
    return table(header, lines)


def by_neighbour(rows: list[Row]) -> Table:
    """Give the recall λ/4 by distance to the nearest other bubble, of the networks and of the best preset."""
    header = (*CASE, "method", *(f"{name} PSF widths" for name in NEIGHBOUR_BINS))

    def cells(r: Row) -> list[str]:
        shares = [r["recall_by_neighbour"][name] for name in NEIGHBOUR_BINS]
        return ["—" if share is None else f"{share:.2f}" for share in shares]

    return table(header, ((*case(r), r["method"], *cells(r)) for r in _with_best_preset(rows)))


def errors(rows: list[Row]) -> Table:
    """Give the error along x, y, z of the bubbles found, of the networks and of the best preset."""
    header = (*CASE, "method", "RMSE λ/4 (µm)", "RMSE λ/4 (λ)", "RMSE λ/2 (µm)", "RMSE λ/2 (λ)", "bias λ/4 (µm)")
    return table(
        header,
        (
            (*case(r), r["method"], three(r, "rmse_{}_um_lambda_4"), three(r, "rmse_{}_wavelengths_lambda_4", 3),
             three(r, "rmse_{}_um_lambda_2"), three(r, "rmse_{}_wavelengths_lambda_2", 3),
             three(r, "bias_{}_um_lambda_4"))
            for r in _with_best_preset(rows)
        ),
    )  # fmt: skip


def all_scores(rows: list[Row]) -> Table:
    """Lay out every method's scores."""
    names = [f"bubble_{score}_{gate}" for gate in ("lambda_4", "lambda_2") for score in _SCORES]
    shares = [f"{score} {gate}" for gate in ("λ/4", "λ/2") for score in ("Jaccard", "precision", "recall", "F1")]
    header = (*CASE, "method", *shares, "Dice λ/10", "speed error", "in wide vessels", "per voxel",
              "mean speed / true", "speed error, same voxel", "CPU s per block")  # fmt: skip
    return table(
        header,
        (
            (*case(r), r["method"], *(told(r, name) for name in names), told(r, DICE),
             percent(r, "speed_error_lambda_10"), percent(r, "speed_error_wide"),
             percent(r, "speed_error_per_voxel_lambda_10"),
             told(r, "speed_ratio_lambda_10", 2), percent(r, "speed_error_exact"), told(r, "seconds_per_block", 2))
            for r in rows
        ),
    )  # fmt: skip


_SCORES = ("jaccard", "precision", "recall", "f1")


def calibration_table(rows: list[Row], chosen: dict[str, dict[str, float]]) -> Table:
    """Lay out Jaccard λ/4 by values and concentration; the chosen values are bold."""
    concentrations = list(dict.fromkeys(r["concentration"] for r in rows))
    columns = ["all" if c is None else f"{c} per PSF volume" for c in concentrations]
    lines = []
    for method, items in dict.fromkeys((r["method"], tuple(r["values"].items())) for r in rows):
        own = [r for r in rows if (r["method"], tuple(r["values"].items())) == (method, items)]
        text = ", ".join(f"{key} {value:g}" for key, value in items)
        mean = statistics.fmean(r[JACCARD]["mean"] for r in own)
        name = f"**{text}**" if dict(items) == chosen[method] else text
        lines.append((method, name, *(told(r, JACCARD) for r in own), f"{mean:.3f}"))
    return table(("method", "values", *columns, "mean Jaccard λ/4"), lines)


def case(row: Row) -> tuple[str, str]:
    """Name set and concentration."""
    return row["set"], "all" if row["concentration"] is None else str(row["concentration"])


def told(row: Row, name: str, digits: int = 3) -> str:
    """Write a score, or a dash where there is none."""
    return shown(row[name], digits) if row.get(name) is not None else "—"


def percent(row: Row, name: str) -> str:
    """Write a share in percent, or a dash."""
    kept = row.get(name)
    if kept is None:
        return "—"
    sd = "" if kept["sd"] is None else f" ± {100 * kept['sd']:.1f}"
    return f"{100 * kept['mean']:.1f}{sd} %"


def three(row: Row, pattern: str, digits: int = 1) -> str:
    """Write the means along x, y and z, or a dash."""
    values = [row.get(pattern.format(axis)) for axis in "xyz"]
    return "—" if None in values else ", ".join(f"{value['mean']:.{digits}f}" for value in values if value)


def ratio(row: Row, reference: Row, name: str) -> str:
    """Divide means, where there is something to divide by."""
    value, by = row.get(name), reference.get(name)
    return f"{value['mean'] / by['mean']:.2f}" if value is not None and by is not None and by["mean"] else "—"


def _networks(rows: list[Row]) -> list[tuple[Row, list[Row]]]:
    """List the rows of LocalisationNets, each with all rows of its set and concentration."""
    return [(r, [o for o in rows if case(o) == case(r)]) for r in rows if r["kind"] == "localisation"]


def _with_best_preset(rows: Sequence[Row]) -> list[Row]:
    """List the rows with bubbles of every case: LocalisationNets, and the preset of the best Jaccard λ/4."""
    kept = []
    for one in dict.fromkeys(map(case, rows)):
        here = [r for r in rows if case(r) == one]
        presets = {r["method"]: r for r in here if r["kind"] == "preset"}
        kept += [r for r in here if r["kind"] == "localisation"]
        kept += [presets[best(presets, JACCARD)]] if presets else []
    return kept
