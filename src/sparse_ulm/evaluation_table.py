"""The table of an evaluation: one row per recording, rows pooled by concentration, and the total."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sparse_ulm.io import atomic_path
from sparse_ulm.metrics import scores_from_counts

LABEL = "bubbles_per_psf_volume"
TOLERANCES = {"": 0.0, "_lambda_10": 0.1}
"""Endings of the scores and their tolerance in wavelengths."""

SCORES = [f"{name}{ending}" for ending in TOLERANCES for name in ("dice", "precision", "recall")]
COLUMNS = [
    "scope", "name", "n_recordings", LABEL, "bubbles_per_frame", "bubbles_per_mm3", "bubbles_per_mm2",
    "n_frames", "wavelength_mm", "n_predicted_voxels", "n_true_voxels", *SCORES,
]  # fmt: skip

Counts = tuple[int, int, int, int]
"""As `metrics.overlap_counts` gives them."""


@dataclass(frozen=True)
class ScoredMap:
    """One recording: its row of the table, and its counts for pooling, one set per tolerance."""

    row: dict[str, Any]
    counts: dict[str, Counts]


def score_columns(counts: dict[str, Counts]) -> dict[str, Any]:
    """Turn counts into the table's columns."""
    columns: dict[str, Any] = {"n_predicted_voxels": counts[""][0], "n_true_voxels": counts[""][1]}
    for ending in TOLERANCES:
        scores = scores_from_counts(*counts[ending])
        columns |= {f"{name}{ending}": scores[name] for name in ("dice", "precision", "recall")}
    return columns


def pool(scope: str, name: str, members: list[ScoredMap]) -> dict[str, Any]:
    """Add the counts of several recordings, average their concentrations, and give the spread of their scores."""
    rows = [member.row for member in members]
    pooled = {ending: tuple(np.sum([m.counts[ending] for m in members], axis=0).tolist()) for ending in TOLERANCES}
    averages = {
        column: float(np.mean(known)) if (known := [r[column] for r in rows if r[column] is not None]) else None
        for column in (LABEL, "bubbles_per_frame", "bubbles_per_mm3", "bubbles_per_mm2", "wavelength_mm")
    }
    spread = {
        column: {
            "mean": float(np.mean([row[column] for row in rows])),
            "standard_deviation": float(np.std([row[column] for row in rows], ddof=1)) if len(rows) > 1 else None,
        }
        for column in SCORES
    }
    row = {"scope": scope, "name": name, "n_recordings": len(rows), "n_frames": sum(r["n_frames"] for r in rows)}
    return row | averages | score_columns(pooled) | {"over_recordings": spread}


def by_concentration(scored: list[ScoredMap]) -> Iterator[tuple[str, list[ScoredMap]]]:
    """Group recordings, thinnest first, between the steps 1, 2, 5, 10 ... of the first concentration that all have."""
    for column in (LABEL, "bubbles_per_mm3", "bubbles_per_mm2"):
        if all(entry.row[column] is not None for entry in scored):
            break
    else:
        column = "bubbles_per_frame"
    groups: dict[tuple[float, float], list[ScoredMap]] = {}
    for entry in scored:
        groups.setdefault(concentration_step(entry.row[column]), []).append(entry)
    for (low, high), members in sorted(groups.items()):
        yield f"{low:g} <= {column} < {high:g}", members


def concentration_step(value: float) -> tuple[float, float]:
    """Give the steps of the series 1, 2, 5, 10 ... between which a concentration lies; (0, 0) for none.

    >>> concentration_step(0.5), concentration_step(30.0), concentration_step(0.0137)
    ((0.5, 1.0), (20.0, 50.0), (0.01, 0.02))
    """
    if value <= 0:
        return 0.0, 0.0
    decade = int(np.floor(np.log10(value)))
    # Parsed from text, because 5 * 10**-1 is not 0.5 in binary for every decade.
    steps = [float(f"{digit}e{power}") for power in (decade - 1, decade, decade + 1) for digit in (1, 2, 5)]
    upper = next(i for i, step in enumerate(steps) if step > value)
    return steps[upper - 1], steps[upper]


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write the whole result."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write one row per recording, then per concentration, then in total."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
