"""Completeness of maps over seconds of recording: when a level is reached, and by what factor sooner."""

import math
from typing import Any

from pooling import Table, shown, spread, table

LEVELS = (0.5, 0.75, 1.0)
"""Shares of what the conventional pipeline reaches at best."""

TRUTH = "truth"
"""Name of the method without error."""


def time_to(curve: list[tuple[float, float]], level: float) -> float:
    """Give the time at which a curve of (seconds, completeness) first reaches a level; infinite where it does not.

    >>> time_to([(1.0, 0.2), (4.0, 0.6)], 0.4), time_to([(1.0, 0.2), (4.0, 0.6)], 0.7)
    (2.0, inf)
    """
    before: tuple[float, float] | None = None
    for seconds, value in curve:
        if value >= level:
            if before is None:
                return seconds
            share = (level - before[1]) / (value - before[1])
            return float(before[0] * (seconds / before[0]) ** share)
        before = (seconds, value)
    return math.inf


def first_to(rows: list[dict[str, Any]], level: float, score: str) -> tuple[float, float]:
    """Give the least time of any concentration to a level, and that concentration; rows of one seed and method."""
    times = {
        c: time_to([(r["seconds"], r[score]) for r in rows if r["concentration"] == c], level)
        for c in dict.fromkeys(r["concentration"] for r in rows)
    }
    concentration = min(times, key=lambda c: times[c])
    return times[concentration], concentration


def compare(rows: list[dict[str, Any]], score: str = "completeness") -> list[dict[str, Any]]:
    """Compare times at equal completeness: per network and level, seeds side by side."""
    networks = list(dict.fromkeys(r["method"] for r in rows if r["is_network"]))
    seeds = list(dict.fromkeys(r["seed"] for r in rows))
    usual = [r for r in rows if not r["is_network"] and r["method"] != TRUTH]
    compared = []
    for name in networks:
        for share in LEVELS:
            pairs = []
            for seed in seeds:
                own = [r for r in usual if r["seed"] == seed]
                level = share * max(r[score] for r in own)
                slow = min(
                    first_to([r for r in own if r["method"] == m], level, score)
                    for m in dict.fromkeys(r["method"] for r in own)
                )
                fast = first_to([r for r in rows if r["seed"] == seed and r["method"] == name], level, score)
                pairs.append({"level": level, "conventional": slow, "network": fast, "factor": slow[0] / fast[0]})
            compared.append({"network": name, "share": share, "seeds": pairs})
    return compared


def factor_table(compared: list[dict[str, Any]]) -> Table:
    """Lay out times and factors; a level that a network never reaches has the factor 0."""
    header = ("network", "level: share of the conventional best", "completeness", "conventional, s",
              "at concentration", "network, s", "at concentration", "factor")  # fmt: skip
    lines = []
    for entry in compared:
        seeds = entry["seeds"]
        cells = [shown(spread([s["level"] for s in seeds]), 2)]
        for side in ("conventional", "network"):
            times = [s[side][0] for s in seeds]
            reached = all(map(math.isfinite, times))
            cells.append(shown(spread(times), 2) if reached else f"not reached {sum(map(math.isinf, times))} times")
            cells.append(", ".join(str(c) for c in sorted({s[side][1] for s in seeds})))
        lines.append((entry["network"], entry["share"], *cells, shown(spread([s["factor"] for s in seeds]), 1)))
    return table(header, lines)


def curve_table(rows: list[dict[str, Any]]) -> Table:
    """Lay out completeness and precision of all beginnings, mean ± standard deviation over seeds."""
    times = sorted({r["seconds"] for r in rows})
    lines = []
    for concentration in dict.fromkeys(r["concentration"] for r in rows):
        for method in dict.fromkeys(r["method"] for r in rows):
            own = [r for r in rows if (r["concentration"], r["method"]) == (concentration, method)]
            at = [[r for r in own if r["seconds"] == seconds] for seconds in times]
            cells = [shown(spread([r["completeness"] for r in here]), 2) for here in at]
            lines.append((concentration, method, *cells, shown(spread([r["precision"] for r in at[-1]]), 2)))
    return table(("bubbles per PSF volume", "method", *(f"{t:.3g} s" for t in times), "precision at the end"), lines)
