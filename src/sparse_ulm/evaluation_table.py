"""The table of an evaluation: one row per recording, rows pooled by concentration, and the total.

Scores of maps and localisations are pooled by their counts; what has no counts (gridding, resolution, saturation) is
averaged over the recordings that have it.
"""

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sparse_ulm.evaluation_localisations import (
    LOCALISATION_COLUMNS,
    TRACK_COLUMNS,
    LocalisationScore,
    pool_localisations,
)
from sparse_ulm.io import atomic_path
from sparse_ulm.metrics import TOLERANCES_WAVELENGTHS, scores_from_counts

LABEL = "bubbles_per_psf_volume"
TOLERANCES = TOLERANCES_WAVELENGTHS
"""Endings of the scores and their tolerance in wavelengths."""

CENTRE_LINE_TOLERANCE = 0.1
"""In wavelengths; its scores end in `_lambda_10`."""

SCORES = [f"{name}{ending}" for ending in TOLERANCES for name in ("dice", "precision", "recall")]
CENTRE_LINE_SCORES = [f"centre_line_{name}_lambda_10" for name in ("dice", "precision", "recall")]
AVERAGED = ["gridding_index_db", *TRACK_COLUMNS]
COLUMNS = [
    "scope", "name", "n_recordings", LABEL, "bubbles_per_frame", "bubbles_per_mm3", "bubbles_per_mm2",
    "n_frames", "wavelength_mm", "n_predicted_voxels", "n_true_voxels", *SCORES,
    *CENTRE_LINE_SCORES, *LOCALISATION_COLUMNS, *AVERAGED,
]  # fmt: skip

Counts = tuple[int, int, int, int]
"""As `metrics.overlap_counts` gives them."""


@dataclass(frozen=True)
class ScoredMap:
    """One recording: its row of the table, and what pooling needs.

    Attributes:
        row: By column, and nested details that go to the JSON file only.
        counts: Of the map, one set per tolerance.
        centre_line: Of the centre lines.
        localisations: None where the map has no table beside it.
    """

    row: dict[str, Any]
    counts: dict[str, Counts]
    centre_line: Counts
    localisations: LocalisationScore | None


def score_columns(counts: dict[str, Counts], centre_line: Counts) -> dict[str, Any]:
    """Turn counts into the table's columns."""
    columns: dict[str, Any] = {"n_predicted_voxels": counts[""][0], "n_true_voxels": counts[""][1]}
    for ending in TOLERANCES:
        scores = scores_from_counts(*counts[ending])
        columns |= {f"{name}{ending}": scores[name] for name in ("dice", "precision", "recall")}
    scores = scores_from_counts(*centre_line)
    return columns | {f"centre_line_{name}_lambda_10": scores[name] for name in ("dice", "precision", "recall")}


def pool(scope: str, name: str, members: list[ScoredMap]) -> dict[str, Any]:
    """Add the counts of several recordings, average the rest, and give the spread of their scores."""
    rows = [member.row for member in members]
    pooled = {ending: _add([m.counts[ending] for m in members]) for ending in TOLERANCES}
    averages = {
        column: _mean(rows, column)
        for column in (LABEL, "bubbles_per_frame", "bubbles_per_mm3", "bubbles_per_mm2", "wavelength_mm", *AVERAGED)
    }
    row = {"scope": scope, "name": name, "n_recordings": len(rows), "n_frames": sum(r["n_frames"] for r in rows)}
    row |= averages | score_columns(pooled, _add([m.centre_line for m in members]))
    localisations = pool_localisations([m.localisations for m in members if m.localisations is not None])
    if localisations is not None:
        row |= localisations.columns()
    spread = [*SCORES, *CENTRE_LINE_SCORES, *LOCALISATION_COLUMNS, *AVERAGED]
    return row | {"over_recordings": {column: _spread(rows, column) for column in spread if _known(rows, column)}}


def plain(value: Any) -> Any:
    """Turn NaN and infinity into None, at any depth: JSON has neither."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _add(counts: list[Counts]) -> Counts:
    """Add counts, one by one."""
    n_predicted, n_truth, predicted_found, truth_found = np.sum(counts, axis=0).tolist()
    return n_predicted, n_truth, predicted_found, truth_found


def _known(rows: list[dict[str, Any]], column: str) -> list[float]:
    """Values of a column that are there and finite."""
    return [row[column] for row in rows if row.get(column) is not None and math.isfinite(row[column])]


def _mean(rows: list[dict[str, Any]], column: str) -> float | None:
    """Mean of the known values; None without any."""
    known = _known(rows, column)
    return float(np.mean(known)) if known else None


def _spread(rows: list[dict[str, Any]], column: str) -> dict[str, Any]:
    """Mean and standard deviation (with n - 1) of the known values."""
    known = _known(rows, column)
    deviation = float(np.std(known, ddof=1)) if len(known) > 1 else None
    spread = {"mean": float(np.mean(known)), "standard_deviation": deviation}
    return spread if len(known) == len(rows) else spread | {"n_recordings": len(known)}


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
        temporary.write_text(json.dumps(plain(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write one row per recording, then per concentration, then in total."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(plain(rows))
