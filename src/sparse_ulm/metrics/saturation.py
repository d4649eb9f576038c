"""How fast a map fills: the share of its voxels that were visited, against time of recording.

S(t) is counted on a reference: the true map where it is known, else the final map itself, whose share is then 1 at the
end by definition, however incomplete it is. The model S(t) = S_inf (1 - exp(-t / tau)) gives the time to 90 % of the
plateau, t90 = tau ln 10 (the fit is the usual one; the reference notes give it from memory).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import least_squares
from scipy.spatial import KDTree

from sparse_ulm.metrics.maps import ROUNDING


@dataclass(frozen=True)
class SaturationFit:
    """The model fitted to a curve; all NaN where the curve is flat zero or has fewer than three points.

    Attributes:
        plateau_share: S_inf in (0, 1].
        time_constant_s: tau; far beyond the recording where the curve is still straight, and then hardly known.
        t90_s: Time to 90 % of the plateau.
        rms_residual: Root mean square of data minus model: says whether the model holds.
    """

    plateau_share: float
    time_constant_s: float
    t90_s: float
    rms_residual: float


def first_visit_s(
    reference: Int[np.ndarray, "m xyz=3"],
    visited: Int[np.ndarray, "n xyz=3"],
    time_s: Float[np.ndarray, " n"],
    *,
    voxel_size_m: tuple[float, float, float],
    tolerance_m: float,
) -> Float[np.ndarray, " m"]:
    """Give the time of the first visit to each voxel of the reference.

    Args:
        reference: Voxels of the true map, or of the final one, each once.
        visited: Voxels visited, in any order, repeats allowed.
        time_s: When.
        voxel_size_m: Grid step along x, y and z.
        tolerance_m: A visit within this distance counts, inclusive; 0 for voxel exact.

    Returns:
        Seconds; infinity where there was none.
    """
    first = np.full(len(reference), np.inf)
    if not len(reference) or not len(visited):
        return first
    order = np.argsort(time_s, kind="stable")
    place, earliest = np.unique(visited[order], axis=0, return_index=True)
    step = np.asarray(voxel_size_m)
    radius = max(tolerance_m * ROUNDING, 1.0e-3 * min(voxel_size_m))
    near = KDTree(reference * step).sparse_distance_matrix(KDTree(place * step), radius, output_type="ndarray")
    np.minimum.at(first, near["i"], time_s[order][earliest[near["j"]]])
    return first


def saturation_curve(
    first_visit: Float[np.ndarray, " m"], time_s: Float[np.ndarray, " times"]
) -> Float[np.ndarray, " times"]:
    """Give the share of the reference that was visited at each time, in [0, 1]; 0 for an empty reference.

    Args:
        first_visit: Of each voxel, from `first_visit_s`.
        time_s: In any order; visits at that very time count.
    """
    visited = np.searchsorted(np.sort(first_visit), time_s, side="right")
    return np.asarray(visited / max(len(first_visit), 1))


def fit_saturation(time_s: Float[np.ndarray, " times"], share: Float[np.ndarray, " times"]) -> SaturationFit:
    """Fit S_inf (1 - exp(-t / tau)) by least squares, with S_inf at most 1.

    Args:
        time_s: Times since the start of the recording.
        share: S(t), from `saturation_curve`.
    """
    if len(share) < 3 or not share.max() > 0:
        return SaturationFit(*4 * (float("nan"),))
    end_s, last = float(time_s.max()), float(share.max())
    # The time to 63 % of the last share starts the search at about the right scale.
    start_s = float(np.clip(time_s[share >= 0.63 * last].min(), 1.0e-3 * end_s, end_s))
    # Beyond a thousand recordings a curve is a straight line, and its time constant has no meaning.
    bounds = ([0.0, 1.0e-6 * end_s], [1.0, 1.0e3 * end_s])
    start = (min(last, 1.0), start_s)
    fit = least_squares(lambda p: model(time_s, *p) - share, start, bounds=bounds, x_scale=start, xtol=1.0e-12)
    plateau, constant_s = fit.x
    return SaturationFit(
        float(plateau), float(constant_s), float(constant_s * np.log(10.0)), float(np.sqrt(np.mean(fit.fun**2)))
    )


def model(
    time_s: Float[np.ndarray, " times"], plateau_share: float, time_constant_s: float
) -> Float[np.ndarray, " times"]:
    """Give S_inf (1 - exp(-t / tau))."""
    return np.asarray(-plateau_share * np.expm1(-time_s / time_constant_s))


def time_to_share_s(first_visit: Float[np.ndarray, " m"], share: float) -> float:
    """Give the time at which a share of the reference was visited; infinity where it never was.

    Args:
        first_visit: Of each voxel, from `first_visit_s`.
        share: In (0, 1].

    Raises:
        ValueError: If the share is outside (0, 1].
    """
    if not 0.0 < share <= 1.0:
        raise ValueError(f"share is {share}; wanted a number in (0, 1].")
    needed = int(np.ceil(share * len(first_visit) - 1.0e-9))
    return float(np.sort(first_visit)[needed - 1]) if needed else float("inf")
