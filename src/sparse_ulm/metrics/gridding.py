"""Gridding: whether a refined map still shows the grid it was localised on.

Localisation that is drawn to voxel centres gives a map that repeats with the input grid. Its power then stands out at
the input grid's spatial frequency and its harmonics. The index compares it with the frequencies beside: 0 dB is none.
"""

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

HARMONICS = (1, 2)
NEIGHBOURS = (-5, -4, -3, 3, 4, 5)
"""Steps of the map's own frequency resolution at which the comparison is taken (harmonics and neighbours as in PALA,
by the reference notes)."""

MIN_INPUT_VOXELS = 11
"""Below, the neighbours reach half-way to the next harmonic."""


def gridding_index_db(
    volume: Float[np.ndarray, "x y z"],
    *,
    voxel_size_m: tuple[float, float, float],
    input_voxel_size_m: tuple[float, float, float],
) -> tuple[float, float, float]:
    """Give the gridding index along each axis.

    The map is summed onto the axis, where repeats in step with the grid add up and vessels average out; windowed (Hann,
    without its mean), it is Fourier transformed at the harmonics and beside them. The index is 10 log10 of the power at
    the harmonics over the mean power beside them, averaged over harmonics in decibels.

    Args:
        volume: Density map, *not* interpolated, on a grid parallel to the input grid.
        voxel_size_m: Its step along x, y and z.
        input_voxel_size_m: Step of the grid the bubbles were localised on.

    Returns:
        Decibels along x, y and z; NaN along axes that are not refined enough to hold a harmonic or shorter than
        `MIN_INPUT_VOXELS`, and for a map without content. PALA calls 30 dB the worst; noise gives about -2.
    """
    found = []
    for axis in range(3):
        profile = volume.sum(axis=tuple(other for other in range(3) if other != axis), dtype=np.float64)
        found.append(_index_db(profile, voxel_size_m[axis] / input_voxel_size_m[axis]))
    return found[0], found[1], found[2]


def mean_gridding_db(per_axis_db: tuple[float, float, float]) -> float:
    """Average over the axes that have an index; NaN where none has.

    >>> mean_gridding_db((3.0, float("nan"), 5.0))
    4.0
    """
    known = [value for value in per_axis_db if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _index_db(profile: NDArray[np.float64], step: float) -> float:
    """Index of one profile with `step` input voxels between its samples."""
    n = len(profile)
    # The highest frequency looked at has to lie below the Nyquist frequency.
    harmonics = [h for h in HARMONICS if (h + NEIGHBOURS[-1] / (n * step)) * step <= 0.5]
    varying = (profile - profile.mean()) * np.hanning(n + 2)[1:-1]
    if not harmonics or n * step < MIN_INPUT_VOXELS or not np.abs(varying).max() > 0:
        return float("nan")
    ratios = []
    for harmonic in harmonics:
        power = _power(varying, (harmonic + np.array([0, *NEIGHBOURS]) / (n * step)) * step)
        # Rounding, so that a perfect comb stays finite.
        floor = np.finfo(float).eps * np.sum(varying**2)
        ratios.append(10.0 * np.log10((power[0] + floor) / (power[1:].mean() + floor)))
    return float(np.mean(ratios))


def _power(profile: NDArray[np.float64], frequency: NDArray[np.float64]) -> NDArray[np.float64]:
    """Power at any frequencies, in cycles per sample: the input grid need not divide the map."""
    phase = np.exp(-2j * np.pi * np.outer(frequency, np.arange(len(profile))))
    return np.asarray(np.abs(phase @ profile) ** 2)
