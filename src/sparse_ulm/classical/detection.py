"""Which voxels of |IQ| are the summits of bubbles: maxima above the noise, without side lobes.

Detection works on the magnitude itself, not on its correlation with the PSF: in the founders' prototype the blur of the
correlation map cost the conventional pipeline more than half of its Jaccard index (reference notes).
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int64

from sparse_ulm.classical.regional_maxima import FramesFirst, frames_first, regional_maxima
from sparse_ulm.errors import UserError
from sparse_ulm.sparse.loops import compiled

Magnitude = Float32[np.ndarray, "x y z t"]
PsfWidth = tuple[float, float, float]
"""Full width at half maximum of the PSF's envelope along x, y and z, in voxels; ignored along an axis of one voxel."""

CONTRAST_HALF_WIDTH = 3
NEIGHBOUR_WEIGHT = 0.2
"""Local contrast is taken in a patch of 7 voxels a side, in which next neighbours weigh 0.2 (Open-3DULM)."""


@dataclass(frozen=True)
class Peaks:
    """Voxels at which bubbles were detected, sorted by frame and then by voxel.

    Attributes:
        frame: Frame of the block, from 0.
        voxel: Index along x, y and z.
        amplitude: Magnitude of that voxel, in the recording's units.
    """

    frame: Int64[np.ndarray, " n"]
    voxel: Int64[np.ndarray, "n xyz=3"]
    amplitude: Float[np.ndarray, " n"]

    def __len__(self) -> int:
        """Number of bubbles over all frames."""
        return len(self.frame)

    def keep(self, mask: Bool[np.ndarray, " n"]) -> "Peaks":
        """Give the peaks where `mask` holds."""
        return Peaks(self.frame[mask], self.voxel[mask], self.amplitude[mask])


def find_bubbles(
    magnitude: Magnitude,
    *,
    psf_fwhm_voxel: PsfWidth,
    noise_rms: float,
    noise_factor: float | None,
    n_brightest: int | None,
    side_lobe_ratio: float,
    local_contrast_db: float | None,
    n_local_maxima: int | None = None,
    side_lobe_window_fwhm: float = 2.5,
    drop_border: bool = False,
) -> Peaks:
    """Find the voxels at which bubbles peak.

    The steps, in this order: regional maxima above the noise; those near the border dropped; side lobes dropped; faint
    local contrast dropped; the brightest of each frame kept; crowded ones dropped.

    Args:
        magnitude: |IQ| after the clutter filter, float32 (x, y, z, t).
        psf_fwhm_voxel: PSF widths in voxels.
        noise_rms: RMS of the complex noise (`sparsify.measure_noise_rms`), in the units of `magnitude`.
        noise_factor: Keep maxima above this many `noise_rms`, e.g. 3.5; noise alone exceeds it in a share
            exp(-noise_factor^2) of the voxels. None: no threshold.
        n_brightest: Per frame, keep the maxima strictly above the (n + 1)-th brightest: PALA's rule. None: all.
        side_lobe_ratio: Drop maxima below this share of the largest magnitude near them, in [0, 1), e.g. 0.3; 0 keeps
            all.
        local_contrast_db: Drop maxima less than this above the weighted mean of the patch around them (Open-3DULM: 9).
            None: keep all.
        n_local_maxima: Drop a bubble when its window holds more maxima than this, itself included (PALA: 3).
            None: keep all.
        side_lobe_window_fwhm: "Near" for side lobes: this many PSF widths to either side.
        drop_border: True drops maxima nearer to the border than floor(fwhm / 2 + 1/2) + 1 voxels, as PALA does, so
            that every window lies inside. False keeps them, with clipped windows: in a small volume most bubbles are
            near a border.

    Returns:
        Peaks; `frame` counts from the first frame of the block.

    Raises:
        UserError: If a setting is out of range, or neither `noise_factor` nor `n_brightest` is given.

    Source: PALA and Open-3DULM as in the reference notes. Unlike PALA, maxima are sought before the border is cut off,
    because a border of zeros makes maxima of slopes. Side lobes relative to the local maximum are from the founders'
    prototype; 2.5 widths and the factors named above did best on simulated recordings with the Gaussian fit.
    """
    _check_settings(noise_factor, n_brightest, side_lobe_ratio, side_lobe_window_fwhm)
    frames = frames_first(magnitude)
    half_width = window_half_width(psf_fwhm_voxel, magnitude.shape[:3])
    rows = regional_maxima(frames, threshold=(noise_factor or 0.0) * noise_rms)
    every_peak = Peaks(rows[:, 0], rows[:, 1:], frames[tuple(rows.T)])
    peaks = every_peak.keep(_is_inside(every_peak, frames, half_width + 1)) if drop_border else every_peak
    if side_lobe_ratio > 0:
        reach = np.array([max(1, round(side_lobe_window_fwhm * fwhm)) for fwhm in psf_fwhm_voxel])
        peaks = peaks.keep(peaks.amplitude >= side_lobe_ratio * _largest_near(frames, peaks, reach))
    if local_contrast_db is not None:
        peaks = peaks.keep(local_contrast(frames, peaks) >= local_contrast_db)
    if n_brightest is not None:
        peaks = peaks.keep(_is_among_brightest(peaks, n_brightest))
    if n_local_maxima is not None:
        peaks = peaks.keep(_count_near(every_peak, peaks, half_width, n_x=magnitude.shape[0]) <= n_local_maxima)
    return peaks


def window_half_width(psf_fwhm_voxel: PsfWidth, shape: tuple[int, ...]) -> Int64[np.ndarray, "xyz=3"]:
    """Give the half width of a bubble's window: floor(fwhm / 2 + 1/2) voxels, at least 1, 0 along an axis of one voxel.

    MATLAB rounds halves up and Python to even: for PALA's fwhm of 3 the window must be 5 voxels wide in both.

    Raises:
        UserError: If a width is not a positive number.

    >>> window_half_width((3.0, 3.0, 2.5), (20, 1, 20)).tolist()
    [2, 0, 1]
    """
    if not all(math.isfinite(fwhm) and fwhm > 0 for fwhm in psf_fwhm_voxel):
        raise UserError(f"psf_fwhm_voxel is {psf_fwhm_voxel}; wanted three positive widths. Correct the PSF's width.")
    half = [max(1, math.floor(fwhm / 2.0 + 0.5)) for fwhm in psf_fwhm_voxel]
    return np.where(np.array(shape[:3]) > 1, half, 0).astype(np.int64)


def local_contrast(frames: FramesFirst, peaks: Peaks) -> Float[np.ndarray, " n"]:
    """Give how far each peak stands above the weighted mean of the patch around it, in dB (Open-3DULM)."""
    mean = np.empty(len(peaks), dtype=np.float64)
    _patch_means(frames, peaks.frame, peaks.voxel, CONTRAST_HALF_WIDTH, NEIGHBOUR_WEIGHT, mean)
    with np.errstate(divide="ignore"):
        return 20.0 * np.log10(peaks.amplitude / mean)


def _check_settings(
    noise_factor: float | None,
    n_brightest: int | None,
    side_lobe_ratio: float,
    side_lobe_window_fwhm: float,
) -> None:
    """Refuse settings that no recording can be meant by."""
    if noise_factor is None and n_brightest is None:
        raise UserError("noise_factor and n_brightest are both None; wanted one, or all noise is kept. Set one.")
    if noise_factor is not None and not noise_factor >= 0:
        raise UserError(f"noise_factor is {noise_factor}; wanted 0 or more, e.g. 3. Correct it.")
    if n_brightest is not None and n_brightest < 1:
        raise UserError(f"n_brightest is {n_brightest}; wanted at least 1 bubble per frame. Correct it or set None.")
    if not 0 <= side_lobe_ratio < 1:
        raise UserError(f"side_lobe_ratio is {side_lobe_ratio}; wanted a share in [0, 1), e.g. 0.25. Correct it.")
    if not side_lobe_window_fwhm > 0:
        raise UserError(f"side_lobe_window_fwhm is {side_lobe_window_fwhm}; wanted a positive number. Correct it.")


def _is_inside(peaks: Peaks, frames: FramesFirst, margin: Int64[np.ndarray, "xyz=3"]) -> Bool[np.ndarray, " n"]:
    """Tell which peaks lie at least `margin` voxels from the border; an axis of one voxel has no border."""
    size = np.array(frames.shape[1:])
    inside = (peaks.voxel >= margin) & (peaks.voxel < size - margin)
    return np.asarray((inside | (size == 1)).all(axis=1))


def _largest_near(frames: FramesFirst, peaks: Peaks, reach: Int64[np.ndarray, "xyz=3"]) -> Float32[np.ndarray, " n"]:
    """Give the largest magnitude within `reach` voxels of each peak, in its frame."""
    largest = np.empty(len(peaks), dtype=np.float32)
    _box_maxima(frames, peaks.frame, peaks.voxel, reach, largest)
    return largest


def _is_among_brightest(peaks: Peaks, n_brightest: int) -> Bool[np.ndarray, " n"]:
    """Tell which peaks are strictly brighter than the (n + 1)-th of their frame; frames with n or fewer keep all."""
    order = np.lexsort((-peaks.amplitude, peaks.frame))
    first_of_frame = np.searchsorted(peaks.frame, peaks.frame)
    next_rank = first_of_frame + n_brightest
    is_crowded = next_rank < np.searchsorted(peaks.frame, peaks.frame, side="right")
    limit = peaks.amplitude[order[np.where(is_crowded, next_rank, 0)]] if len(peaks) else peaks.amplitude
    return ~is_crowded | (peaks.amplitude > limit)


def _count_near(
    every_peak: Peaks, peaks: Peaks, half_width: Int64[np.ndarray, "xyz=3"], *, n_x: int
) -> Int64[np.ndarray, " n"]:
    """Count the maxima inside each peak's window, itself included."""
    # Peaks are sorted by frame and x, so that those of the right frame and x lie in one run of rows.
    plane = every_peak.frame * n_x + every_peak.voxel[:, 0]
    x = peaks.voxel[:, 0]
    first = np.searchsorted(plane, peaks.frame * n_x + np.maximum(x - half_width[0], 0))
    last = np.searchsorted(plane, peaks.frame * n_x + np.minimum(x + half_width[0], n_x - 1), side="right")
    count = np.zeros(len(peaks), dtype=np.int64)
    _count_in_windows(every_peak.voxel, first, last, peaks.voxel, half_width, count)
    return count


@compiled
def _count_in_windows(every_voxel, first, last, voxel, half_width, count):
    """Count rows first ... last - 1 of `every_voxel` that lie in the window around each voxel."""
    for row in range(len(voxel)):
        for other in range(first[row], last[row]):
            inside = True
            for axis in range(3):
                inside &= abs(every_voxel[other, axis] - voxel[row, axis]) <= half_width[axis]
            count[row] += inside


@compiled
def _box_maxima(frames, frame, voxel, reach, largest):
    """Write the largest sample of the box around each voxel, cut at the border."""
    for row in range(len(frame)):
        x, y, z = voxel[row]
        image = frames[frame[row]]
        highest = image[x, y, z]
        for i in range(max(x - reach[0], 0), min(x + reach[0] + 1, image.shape[0])):
            for j in range(max(y - reach[1], 0), min(y + reach[1] + 1, image.shape[1])):
                for k in range(max(z - reach[2], 0), min(z + reach[2] + 1, image.shape[2])):
                    highest = max(highest, image[i, j, k])
        largest[row] = highest


@compiled
def _patch_means(frames, frame, voxel, half, neighbour_weight, mean):
    """Write the mean of the patch around each voxel without the voxel itself; its next neighbours weigh less."""
    for row in range(len(frame)):
        x, y, z = voxel[row]
        image = frames[frame[row]]
        total, weights = 0.0, 0.0
        for i in range(max(x - half, 0), min(x + half + 1, image.shape[0])):
            for j in range(max(y - half, 0), min(y + half + 1, image.shape[1])):
                for k in range(max(z - half, 0), min(z + half + 1, image.shape[2])):
                    distance = max(abs(i - x), abs(j - y), abs(k - z))
                    weight = 0.0 if distance == 0 else neighbour_weight if distance == 1 else 1.0
                    total += weight * image[i, j, k]
                    weights += weight
        mean[row] = total / weights
