"""How well bubbles were found: all frames of a recording matched at once, pooled, and split by crowding.

Bubbles cluster in vessels, so that the mean concentration says little about how hard a recording is. Recall is
therefore also given by the distance to the nearest other bubble of the frame, in units of the point-spread function's
full width at half maximum (FWHM): sqrt(sum over axes of (distance / FWHM)²), the radius of the FWHM ellipsoid being
1/2 in it and its diameter 1.

Positions are metres along the axes of the recording's grid.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial import KDTree

from sparse_ulm.conventions import PositionsVoxel
from sparse_ulm.metrics.matching import Matching, inside_only, match_frames, with_frame_axis

GATES_WAVELENGTHS = {"_lambda_4": 0.25, "_lambda_2": 0.5}
"""Endings of the scores, and how far a pair may be apart: PALA's true positives and PALA's pairs."""

NEIGHBOUR_EDGES = (0.25, 0.5, 0.75, 1.0)
"""Upper edges (exclusive) of the bins of neighbour distance, in PSF widths; the last bin has none."""

NEIGHBOUR_BINS = ("<0.25", "0.25-0.5", "0.5-0.75", "0.75-1", ">=1")


@dataclass(frozen=True)
class FoundByNeighbour:
    """True bubbles and those found, per bin of the distance to the nearest neighbour; counts may be added.

    Attributes:
        n_truth: True bubbles in each of `NEIGHBOUR_BINS`.
        n_found: Those of them that have a partner.
    """

    n_truth: Int[np.ndarray, " bins"]
    n_found: Int[np.ndarray, " bins"]

    @property
    def recall(self) -> dict[str, float]:
        """Share found in each bin; NaN where the bin is empty."""
        found, there = self.n_found, self.n_truth
        return {name: float(found[i] / there[i]) if there[i] else float("nan") for i, name in enumerate(NEIGHBOUR_BINS)}


def match_recording(
    predicted_frame: Int[np.ndarray, " n"],
    predicted_voxel: Float[np.ndarray, "n xyz=3"],
    truth_frame: Int[np.ndarray, " m"],
    truth_voxel: Float[np.ndarray, "m xyz=3"],
    *,
    voxel_size_m: tuple[float, float, float],
    shape: tuple[int, int, int],
    gate_m: float,
    margin_m: float = 0.0,
) -> Matching:
    """Match all frames of a recording inside its field of view.

    Args:
        predicted_frame: Frame of each predicted bubble.
        predicted_voxel: Positions in voxels of the recording's grid, from the centre of its first voxel.
        truth_frame: Frame of each true bubble.
        truth_voxel: True positions; those outside of the field of view serve as partners but are not counted.
        voxel_size_m: Step of the recording's grid along x, y and z.
        shape: Size of the recording's grid.
        gate_m: Largest distance of a pair, inclusive; see `GATES_WAVELENGTHS`.
        margin_m: Width of the border of the field of view that is left out too, as detection has a border where it
            finds nothing. Axes of one voxel have no border.

    Returns:
        Pairs that number rows of both tables, with `error_m` along the grid's axes; 0 along axes of one voxel.
    """
    # Where a bubble lies within the thickness of a 2D recording cannot be seen.
    step = np.where(np.asarray(shape) > 1, voxel_size_m, 0.0)
    matching = match_frames(predicted_frame, predicted_voxel * step, truth_frame, truth_voxel * step, gate_m=gate_m)
    return inside_only(
        matching,
        predicted_inside=inside(predicted_voxel, voxel_size_m=voxel_size_m, shape=shape, margin_m=margin_m),
        truth_inside=inside(truth_voxel, voxel_size_m=voxel_size_m, shape=shape, margin_m=margin_m),
    )


def inside(
    position_voxel: PositionsVoxel,
    *,
    voxel_size_m: tuple[float, float, float],
    shape: tuple[int, int, int],
    margin_m: float,
) -> Bool[np.ndarray, " n"]:
    """Tell which positions lie inside the grid and at least `margin_m` from its faces; no margin on flat axes."""
    size = np.asarray(shape)
    margin_voxel = np.where(size > 1, margin_m / np.asarray(voxel_size_m), 0.0)
    inner = (position_voxel >= margin_voxel - 0.5) & (position_voxel < size - margin_voxel - 0.5)
    return np.asarray(inner.all(axis=1))


def neighbour_distance(
    frame: Int[np.ndarray, " n"], position_m: Float[np.ndarray, "n xyz=3"], psf_fwhm_m: tuple[float, float, float]
) -> Float[np.ndarray, " n"]:
    """Give the distance of each bubble to the nearest other one of its frame, in PSF widths; infinity from 1 on.

    Args:
        frame: Frame of each bubble.
        position_m: All true bubbles, also those outside of the field of view, whose echoes reach into it.
        psf_fwhm_m: Full widths at half maximum along the same axes; infinity leaves an axis out.
    """
    limit = NEIGHBOUR_EDGES[-1]
    points = with_frame_axis(frame, position_m / np.asarray(psf_fwhm_m), 2 * limit)
    if len(points) < 2:
        return np.full(len(points), np.inf)
    distance, _ = KDTree(points).query(points, k=2, distance_upper_bound=limit)
    return np.asarray(distance[:, 1])


def count_by_neighbour(
    matching: Matching, distance: Float[np.ndarray, " m"], truth_inside: Bool[np.ndarray, " m"]
) -> FoundByNeighbour:
    """Count true bubbles and those found by distance to their neighbour.

    Args:
        matching: Of `match_recording`.
        distance: Of every true bubble, from `neighbour_distance`.
        truth_inside: Those that count, as for the matching.
    """
    bin_of = np.digitize(distance, NEIGHBOUR_EDGES)
    found = bin_of[matching.pairs[:, 1]]
    n_bins = len(NEIGHBOUR_BINS)
    return FoundByNeighbour(np.bincount(bin_of[truth_inside], minlength=n_bins), np.bincount(found, minlength=n_bins))


def pool_by_neighbour(counts: Iterable[FoundByNeighbour]) -> FoundByNeighbour:
    """Add the counts of several recordings."""
    every = list(counts)
    none = np.zeros(len(NEIGHBOUR_BINS), dtype=np.int64)
    return FoundByNeighbour(
        np.sum([none, *(one.n_truth for one in every)], axis=0), np.sum([none, *(one.n_found for one in every)], axis=0)
    )


def summarise(matching: Matching) -> dict[str, Any]:
    """Lay a matching out as plain numbers: counts, scores in [0, 1], and errors per axis in micrometres."""
    micrometres = {
        f"{name}_um": [1e6 * value for value in values]
        for name, values in (
            ("rmse", matching.rmse_m),
            ("bias", matching.bias_m),
            ("standard_deviation", matching.deviation_m),
        )
    }
    counts = {"n_predicted": matching.n_predicted, "n_truth": matching.n_truth, "n_pairs": len(matching.pairs)}
    return counts | matching.scores | micrometres
