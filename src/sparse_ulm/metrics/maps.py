"""How well a map agrees with the truth, voxel exact and within a distance.

Maps are compared as sets of visited voxels. Dice is 2 |A ∩ B| / (|A| + |B|) on the maps of a whole recording, voxel
exact, as Rauby et al.'s released code computes it. At an eighth of a voxel that is harsh: a vessel drawn one
sub-voxel aside scores 0. The tolerant scores therefore count a voxel as found when the other map has one within a
distance, by default a tenth of the wavelength; precision is the share of predicted voxels that are found so, recall
the share of true ones, and the tolerant Dice is their harmonic mean. With a tolerance of 0 they are the exact ones.

Conventions for empty maps: both empty is full agreement, all scores 1; only one empty is none, all scores 0.
"""

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray
from scipy.spatial import KDTree

from sparse_ulm.acquisition import Geometry

TOLERANCES_WAVELENGTHS = {"": 0.0, "_lambda_10": 0.1, "_lambda_4": 0.25}
"""Endings of the scores and their tolerance: voxel exact, a tenth and a quarter of the wavelength."""

ROUNDING = 1.0 + 1.0e-9
"""Distances equal to the tolerance count as within; this factor keeps rounding from deciding."""


def dice(predicted: Int[np.ndarray, "n xyz=3"], truth: Int[np.ndarray, "m xyz=3"]) -> float:
    """Give the voxel-exact Dice of two sets of voxels, in [0, 1]; rows may repeat and come in any order."""
    return scores_from_counts(*overlap_counts(predicted, truth, voxel_size_m=(1.0, 1.0, 1.0), tolerance_m=0.0))["dice"]


def tolerant_overlap(
    predicted: Int[np.ndarray, "n xyz=3"],
    truth: Int[np.ndarray, "m xyz=3"],
    *,
    voxel_size_m: tuple[float, float, float],
    tolerance_m: float,
) -> dict[str, float]:
    """Compare two sets of voxels within a distance.

    Args:
        predicted: Voxels of the predicted map.
        truth: Voxels of the true map, on the same grid.
        voxel_size_m: Grid step along x, y and z; distances are between voxel centres.
        tolerance_m: Largest distance that counts as found, inclusive; 0 for voxel exact.

    Returns:
        `precision`, `recall` and `dice` (their harmonic mean), each in [0, 1].
    """
    return scores_from_counts(*overlap_counts(predicted, truth, voxel_size_m=voxel_size_m, tolerance_m=tolerance_m))


def overlap_counts(
    predicted: Int[np.ndarray, "n xyz=3"],
    truth: Int[np.ndarray, "m xyz=3"],
    *,
    voxel_size_m: tuple[float, float, float],
    tolerance_m: float,
) -> tuple[int, int, int, int]:
    """Count what `scores_from_counts` needs; counts of several maps may be added to pool them.

    Returns:
        Predicted voxels, true voxels, predicted voxels with a true one within the tolerance, true voxels with a
        predicted one.

    Raises:
        ValueError: If the tolerance is negative.
    """
    if tolerance_m < 0:
        raise ValueError(f"tolerance_m is {tolerance_m}; wanted 0 or more.")
    (key_predicted, key_truth), (predicted, truth) = _without_repeats(predicted, truth)
    found_predicted = np.isin(key_predicted, key_truth)
    found_truth = np.isin(key_truth, key_predicted)
    if tolerance_m * ROUNDING >= min(voxel_size_m) and len(predicted) and len(truth):
        step = np.asarray(voxel_size_m)
        found_predicted[~found_predicted] = _near(predicted[~found_predicted] * step, truth * step, tolerance_m)
        found_truth[~found_truth] = _near(truth[~found_truth] * step, predicted * step, tolerance_m)
    return len(predicted), len(truth), int(found_predicted.sum()), int(found_truth.sum())


def count_near(
    voxel: Int[np.ndarray, "n xyz=3"],
    others: Int[np.ndarray, "m xyz=3"],
    *,
    voxel_size_m: tuple[float, float, float],
    tolerance_m: float,
) -> int:
    """Count the voxels of one set that have one of another set within a distance, inclusive; 0 for voxel exact."""
    if not len(voxel) or not len(others):
        return 0
    step = np.asarray(voxel_size_m)
    # A tolerance of 0 has to find equal voxels in spite of rounding.
    return int(_near(voxel * step, others * step, max(tolerance_m, 1.0e-3 * min(voxel_size_m))).sum())


def scores_from_counts(
    n_predicted: int | float, n_truth: int | float, n_predicted_found: int | float, n_truth_found: int | float
) -> dict[str, float]:
    """Turn (pooled) counts into `precision`, `recall` and `dice`, their harmonic mean.

    >>> scores_from_counts(4, 2, 2, 2)
    {'precision': 0.5, 'recall': 1.0, 'dice': 0.6666666666666666}
    """
    if not n_predicted or not n_truth:
        score = float(n_predicted == n_truth)
        return {"precision": score, "recall": score, "dice": score}
    precision, recall = n_predicted_found / n_predicted, n_truth_found / n_truth
    both = precision + recall
    return {"precision": precision, "recall": recall, "dice": 2 * precision * recall / both if both else 0.0}


def map_scores(
    predicted: Int[np.ndarray, "n xyz=3"],
    truth: Int[np.ndarray, "m xyz=3"],
    geometry_refined: Geometry,
    wavelength_m: float,
) -> dict[str, float]:
    """Score a map voxel exact, within a tenth and within a quarter of the wavelength.

    Args:
        predicted: Voxels of the predicted map.
        truth: Voxels of the true map.
        geometry_refined: The grid of both. Where its steps exceed the tolerance, both kinds of score are the same.
        wavelength_m: Sound speed over transmit frequency.

    Returns:
        `dice`, `precision`, `recall`, and the same with the endings `_lambda_10` and `_lambda_4`.
    """
    scores: dict[str, float] = {}
    for ending, tolerance in TOLERANCES_WAVELENGTHS.items():
        found = tolerant_overlap(
            predicted, truth, voxel_size_m=geometry_refined.voxel_size_m, tolerance_m=tolerance * wavelength_m
        )
        scores |= {f"{name}{ending}": found[name] for name in ("dice", "precision", "recall")}
    return scores


def _near(position_m: NDArray[np.float64], others_m: NDArray[np.float64], tolerance_m: float) -> NDArray[np.bool_]:
    """Tell which positions have one of the others within the tolerance."""
    if not len(position_m):
        return np.zeros(0, dtype=bool)
    distance, _ = KDTree(others_m).query(position_m, distance_upper_bound=tolerance_m * ROUNDING)
    return np.isfinite(distance)


def _without_repeats(
    *voxels: NDArray[np.integer],
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.integer]]]:
    """Number the voxels of two sets alike, and drop repeats: numbers, then voxels."""
    every = np.concatenate(voxels).astype(np.int64)
    low, high = (every.min(axis=0), every.max(axis=0)) if len(every) else (np.zeros(3, int), np.zeros(3, int))
    keys, kept = [], []
    for index in voxels:
        key, first = np.unique(np.ravel_multi_index(tuple((index - low).T), tuple(high - low + 1)), return_index=True)
        keys.append(key.astype(np.int64))
        kept.append(index[first])
    return keys, kept
