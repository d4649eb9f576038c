"""From counts of bubbles and speeds to scores, beside those of the maps: recordings added, spread over seeds."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from counting_bubbles import GATES, SPEED_TOLERANCES, WIDE, Counts
from pooling import over_seeds, spread

from sparse_ulm.metrics import scores_from_counts
from sparse_ulm.metrics.localisations import NEIGHBOUR_BINS

BLOCK_FRAMES = 128
"""Of configs/inference.yaml."""


def pool_bubbles(rows: Sequence[Counts]) -> dict[str, Any]:
    """Add the counts of recordings and give their scores.

    Returns:
        Per gate `bubble_jaccard_lambda_4`, `bubble_precision_…`, `bubble_recall_…`, `bubble_f1_…`, and per axis
        `rmse_x_um_lambda_4`, `rmse_x_wavelengths_…`, `bias_x_um_…`; per tolerance `speed_error_exact` (sum of |v - w|
        over sum of w), `speed_error_per_voxel_…` (mean of |v - w| / w) and `speed_ratio_…` (sum of v over sum of w).
        None where nothing says it.
    """
    scores: dict[str, Any] = {}
    for gate in GATES:
        counts = [row["bubbles"][gate] for row in rows if row["bubbles"] is not None]
        if counts:
            scores |= {f"{name}_{gate}": value for name, value in _gate_scores(_added(counts)).items()}
    for tolerance in (*SPEED_TOLERANCES, WIDE):
        speeds = [row["speed"][tolerance] for row in rows if row["speed"] is not None and tolerance in row["speed"]]
        if speeds:
            total = _added(speeds)
            scores[f"speed_error_{tolerance}"] = _ratio(total["error"], total["true"])
            scores[f"speed_error_per_voxel_{tolerance}"] = _ratio(total["share"], total["n_voxels"])
            scores[f"speed_ratio_{tolerance}"] = _ratio(total["speed"], total["true"])
    return scores


def _gate_scores(total: Counts) -> dict[str, Any]:
    predicted, true, pairs = (int(total[name]) for name in ("n_predicted", "n_truth", "n_pairs"))
    overlap = scores_from_counts(predicted, true, pairs, pairs)
    union = predicted + true - pairs
    scores: dict[str, Any] = {f"bubble_{name}": overlap[name] for name in ("precision", "recall")}
    scores |= {"bubble_f1": overlap["dice"], "bubble_jaccard": pairs / union if union else 1.0}
    for i, axis in enumerate("xyz"):
        for unit, name in (("um", "squared_um2"), ("wavelengths", "squared_wavelengths2")):
            mean = _ratio(total[name][i], pairs)
            scores[f"rmse_{axis}_{unit}"] = None if mean is None else math.sqrt(mean)
        scores[f"bias_{axis}_um"] = _ratio(total["error_um"][i], pairs)
    return scores


def _added(counts: Sequence[Counts]) -> Counts:
    return {name: np.sum([one[name] for one in counts], axis=0) for name in counts[0]}


def _ratio(value: float, reference: float) -> float | None:
    return float(value / reference) if reference else None


def bubbles_over_seeds(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Pool each seed's recordings, then give mean and spread over seeds of every score.

    Args:
        results: One per seed, as `score_bubbles` gives them.

    Returns:
        What `pooling.over_seeds` gives of the maps, the same of the scores of `pool_bubbles` over the seeds that have
        them, `seconds_per_block` of 128 frames, and `recall_by_neighbour`, of all seeds together (None where a bin is
        empty or the width of the PSF is not known).
    """
    pooled = [pool_bubbles(result["recordings"]) for result in results]
    scores = over_seeds(results)
    for name in dict.fromkeys(name for one in pooled for name in one):
        values = [one[name] for one in pooled if one.get(name) is not None]
        scores[name] = spread(values) if values else None
    n_blocks = [sum(-(-row["n_frames"] // BLOCK_FRAMES) for row in result["recordings"]) for result in results]
    scores["seconds_per_block"] = spread([r["seconds"] / n for r, n in zip(results, n_blocks, strict=True)])
    near = [row["neighbours"] for result in results for row in result["recordings"] if row["neighbours"] is not None]
    total = _added(near) if near else {"n_found": [0] * len(NEIGHBOUR_BINS), "n_truth": [0] * len(NEIGHBOUR_BINS)}
    shares = map(_ratio, total["n_found"], total["n_truth"])
    scores["recall_by_neighbour"] = dict(zip(NEIGHBOUR_BINS, shares, strict=True))
    return scores
