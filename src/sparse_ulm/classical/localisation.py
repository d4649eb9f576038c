"""Where inside its voxel a bubble lies: the position of each peak, refined below the grid.

All methods look at the magnitudes in a window around the peak, `detection.window_half_width` voxels to either side. At
the border of the grid the window is clipped: what lies outside takes no part.
"""

import numpy as np
from jaxtyping import Float

from sparse_ulm.classical.detection import Magnitude, Peaks, PsfWidth, window_half_width
from sparse_ulm.classical.gaussian_fit import fit_gaussians
from sparse_ulm.classical.radial_symmetry import radial_centres
from sparse_ulm.classical.windows import Windows, cut_windows
from sparse_ulm.errors import UserError
from sparse_ulm.localisations import Localisations

METHODS = ("weighted_average", "radial_symmetry", "gaussian_fit", "parabolic", "none")

BUBBLES_AT_ONCE = 4096
"""Peaks refined in one batch, which bounds memory."""

DARKEST_SHARE = 1.0e-3
"""Share of a window's peak that stands for darker samples before the logarithm is taken."""


def localise(
    magnitude: Magnitude, peaks: Peaks, *, method: str, psf_fwhm_voxel: PsfWidth, noise_rms: float
) -> Localisations:
    """Refine peaks to sub-voxel positions; bubbles that end more than half a PSF width from their peak are dropped.

    Args:
        magnitude: |IQ| that the peaks were found in, float32 (x, y, z, t); not its correlation with the PSF.
        peaks: From `detection.find_bubbles` on the same block.
        method: "gaussian_fit": amplitude, position and width per axis by least squares; the only one that states its
            uncertainty, and that drops what is not shaped like the PSF. "radial_symmetry": the point nearest to all
            gradient lines. "weighted_average": centroid above the window's minimum; it is drawn to the peak's voxel
            wherever the window cuts the PSF off, by a fifth of the shift for a PSF of 3 voxels, and wants whole
            windows (`find_bubbles(drop_border=True)`). "parabolic": parabola through three log-magnitudes per axis,
            exact for a Gaussian but noisy for a wide one. "none": the voxel's centre.
        psf_fwhm_voxel: PSF widths in voxels; they set the window, the axes' scales and the largest shift.
        noise_rms: RMS of the complex noise, for the uncertainty alone (`gaussian_fit.fit_gaussians`).

    Returns:
        Localisations in the order of `peaks`; `frame` counts from the first frame of the block. `amplitude` is the
        fitted one for "gaussian_fit", else the peak's.

    Raises:
        UserError: If the method is unknown or a PSF width not positive.

    Source: methods and the limit of half a width as in PALA (reference notes).
    """
    if method not in METHODS:
        raise UserError(f"method is {method!r}; wanted one of {list(METHODS)}.")
    half_width = window_half_width(psf_fwhm_voxel, magnitude.shape[:3])
    fwhm_voxel = np.array(psf_fwhm_voxel, dtype=np.float64)
    shift = np.zeros((len(peaks), 3))
    deviation = np.full((len(peaks), 3), np.nan)
    amplitude = peaks.amplitude.astype(np.float64)
    for start in range(0, len(peaks), BUBBLES_AT_ONCE):
        part = slice(start, start + BUBBLES_AT_ONCE)
        windows = cut_windows(magnitude, peaks.frame[part], peaks.voxel[part], half_width)
        if method == "weighted_average":
            shift[part] = weighted_average(windows)
        elif method == "radial_symmetry":
            shift[part] = radial_centres(windows, fwhm_voxel=fwhm_voxel)
        elif method == "parabolic":
            shift[part] = parabolic_summit(windows)
        elif method == "gaussian_fit":
            fit = fit_gaussians(windows, fwhm_voxel=fwhm_voxel, noise_rms=noise_rms)
            shift[part], deviation[part], amplitude[part] = fit.shift, fit.deviation, fit.amplitude
    is_near = (np.abs(shift) <= fwhm_voxel / 2.0).all(axis=1)  # false where a fit gave NaN
    return Localisations(
        frame=peaks.frame[is_near],
        position_voxel=(peaks.voxel + shift)[is_near],
        amplitude=amplitude[is_near],
        deviation_voxel=deviation[is_near],
    )


def weighted_average(windows: Windows) -> Float[np.ndarray, "n xyz=3"]:
    """Give the centroids of the magnitudes above each window's minimum, in voxels from the peak.

    Source: PALA's weighted average (reference notes), with the background taken off: our choice, because the centroid
    is otherwise drawn to the middle of the window.
    """
    samples = np.where(windows.is_inside, windows.samples, np.inf)
    weight = np.where(windows.is_inside, windows.samples - samples.min(axis=(1, 2, 3), keepdims=True), 0.0)
    total = weight.sum(axis=(1, 2, 3))
    moments = [np.einsum("nxyz,xyz->n", weight, offset) for offset in windows.offsets]
    # A window of one value has no centroid other than its peak's voxel.
    return np.stack(moments, axis=1) / np.where(total > 0, total, 1.0)[:, None]


def parabolic_summit(windows: Windows) -> Float[np.ndarray, "n xyz=3"]:
    """Give the summit of the parabola through the log-magnitudes of the peak and its two neighbours on each axis.

    At most half a voxel. Where a neighbour lies outside the grid, the shift along that axis is 0.

    Source: three points per axis as in Ultratrace (reference notes); of the logarithm, our choice, because that is
    exact for a Gaussian.
    """
    shift = np.zeros((len(windows.samples), 3))
    centre = [size // 2 for size in windows.samples.shape[1:]]
    peak = windows.samples[:, centre[0], centre[1], centre[2]]
    for axis in range(3):
        if windows.samples.shape[1 + axis] == 1:
            continue
        line = np.moveaxis(windows.samples, 1 + axis, 1)
        across = [c for a, c in enumerate(centre) if a != axis]
        line = line[:, centre[axis] - 1 : centre[axis] + 2, across[0], across[1]]
        before, middle, after = np.log(np.maximum(line, DARKEST_SHARE * peak[:, None])).T
        is_whole = windows.inside[axis][:, centre[axis] - 1 : centre[axis] + 2].all(axis=1)
        curvature = before - 2.0 * middle + after
        is_summit = is_whole & (curvature < 0)
        step = 0.5 * (before - after) / np.where(is_summit, curvature, 1.0)
        shift[:, axis] = np.where(is_summit, np.clip(step, -0.5, 0.5), 0.0)
    return shift
