"""Scores of `metrics.json` as tables of text: the few that are read first, and all of them."""

import math
from collections.abc import Iterator
from typing import Any

MAIN_SCORES = {
    "dice_lambda_10": "Dice λ/10",
    "precision_lambda_10": "precision λ/10",
    "recall_lambda_10": "recall λ/10",
    "localisation_jaccard_lambda_4": "bubbles: Jaccard λ/4",
    "localisation_precision_lambda_4": "bubbles: precision λ/4",
    "localisation_recall_lambda_4": "bubbles: recall λ/4",
    "localisation_rmse_x_um": "RMSE x (µm)",
    "localisation_rmse_y_um": "RMSE y (µm)",
    "localisation_rmse_z_um": "RMSE z (µm)",
    "resolution_half_bit_um": "FSC half-bit (µm)",
    "saturation_t90_s": "t90 (s)",
}
"""Columns of the short table, by their keys; maps within a tenth of the wavelength, bubbles within a quarter."""

IDENTITY = ("scope", "name")


def main_table(scores: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Give headings and rows, a row per recording and one for all; both empty where there are no scores.

    Args:
        scores: Content of `metrics.json`.
    """
    rows = [row for row in _rows(scores) if row]
    keys = [key for key in MAIN_SCORES if any(row.get(key) is not None for row in rows)]
    if not keys:
        return [], []
    headings = ["recording", *(MAIN_SCORES[key] for key in keys)]
    return headings, [[str(row.get("name", "")), *(number_text(row.get(key)) for key in keys)] for row in rows]


def all_of_total(scores: dict[str, Any]) -> list[tuple[str, str]]:
    """List every number of all recordings together, nested names joined by a dot."""
    total = scores.get("total")
    return [(key, text) for key, text in flatten(total) if key not in IDENTITY] if isinstance(total, dict) else []


def flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Give the leaves of nested settings or scores: names joined by a dot, and values as text.

    >>> list(flatten({"clutter": {"n": 4, "band_hz": [50.0, 249.0]}, "seed": None}))
    [('clutter.n', '4'), ('clutter.band_hz', '[50, 249]'), ('seed', '–')]
    """
    if isinstance(value, dict):
        for key, one in value.items():
            yield from flatten(one, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list) and any(isinstance(one, dict | list) for one in value):
        for i, one in enumerate(value):
            yield from flatten(one, f"{prefix}.{i}")
    elif isinstance(value, list):
        yield prefix, f"[{', '.join(number_text(one) for one in value)}]"
    else:
        yield prefix, number_text(value)


def number_text(value: Any) -> str:
    """Write a value for a table: at most 4 digits of a fraction, a dash for nothing.

    >>> number_text(0.80591), number_text(12671), number_text(None), number_text(True)
    ('0.8059', '12671', '–', 'true')
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _rows(scores: dict[str, Any]) -> list[dict[str, Any]]:
    """Give the scores of each recording and, if there are several, of all."""
    listed = scores.get("recordings")
    rows = [row for row in listed if isinstance(row, dict)] if isinstance(listed, list) else []
    total = scores.get("total")
    return [*rows, total] if isinstance(total, dict) and len(rows) != 1 else rows
