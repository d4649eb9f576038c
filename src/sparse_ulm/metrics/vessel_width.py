"""Width of a vessel in a map: profiles normal to its centre line, each fitted by a Gaussian."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from scipy.optimize import least_squares
from scipy.stats import t as student_t

from sparse_ulm.psf import FWHM_PER_SIGMA

CONFIDENCE = 0.95


@dataclass(frozen=True)
class VesselWidth:
    """Full width at half maximum (FWHM) of a vessel.

    Attributes:
        fwhm_m: Mean over profiles; NaN without any.
        standard_deviation_m: Over profiles, with n - 1; NaN with fewer than two.
        confidence_m: 95 % confidence interval of the mean, by Student's t; NaN with fewer than two. It takes profiles
            as independent: those closer than the vessel is wide are not, so sample the centre line no denser.
        n_profiles: Profiles that could be fitted.
        n_rejected: Profiles that could not: no peak in the middle, or wider than the profile is long.
    """

    fwhm_m: float
    standard_deviation_m: float
    confidence_m: tuple[float, float]
    n_profiles: int
    n_rejected: int


def vessel_width(
    volume: Float[np.ndarray, "x y z"],
    centre_line_voxel: Float[np.ndarray, "n xyz=3"],
    *,
    voxel_size_m: tuple[float, float, float],
    half_length_m: float,
) -> VesselWidth:
    """Measure the width of one vessel along its centre line.

    Args:
        volume: Density map; axes of one voxel (2D recordings) are left out.
        centre_line_voxel: Points along the vessel, in order, in voxels of the map from the centre of its first voxel;
            at least two, a step apart that suits the direction (a few voxels).
        voxel_size_m: Step of the map along x, y and z.
        half_length_m: Length of a profile to each side of the centre line: about twice the width expected, and short of
            the next vessel.

    Returns:
        Over all points and normals: two per point in 3D, one in 2D.

    Raises:
        ValueError: If there are fewer than two points or two following ones coincide.
    """
    step = np.asarray(voxel_size_m)
    along = np.diff(centre_line_voxel * step, axis=0)
    if len(along) < 1 or not (np.linalg.norm(along, axis=1) > 0).all():
        raise ValueError("centre_line_voxel needs at least two points, none equal to the next.")
    n_samples = 2 * int(np.ceil(2.0 * half_length_m / min(voxel_size_m))) + 1  # half a voxel apart
    offset_m = np.linspace(-half_length_m, half_length_m, n_samples)
    widths = []
    direction = np.gradient(centre_line_voxel * step, axis=0)
    for point, tangent in zip(centre_line_voxel, direction, strict=True):
        for normal in _normals(tangent, volume.shape):
            places = point[:, None] + normal[:, None] * offset_m / step[:, None]
            profile = map_coordinates(volume, places, order=1, mode="constant", output=np.float64)
            widths.append(fit_fwhm_m(offset_m, profile))
    return _summarise(np.array(widths))


def fit_fwhm_m(offset_m: Float[np.ndarray, " n"], profile: Float[np.ndarray, " n"]) -> float:
    """Fit a Gaussian on a constant background; NaN where none fits.

    Args:
        offset_m: Distance from the centre line, even steps, symmetric about 0.
        profile: Map along the profile.

    Returns:
        FWHM in metres. Refused (NaN): a flat profile, a peak farther from the middle than half a profile's side, a
        width beyond the profile's length.
    """
    length, reach = offset_m[-1] - offset_m[0], offset_m[-1]
    low, high = float(profile.min()), float(profile.max())
    if not high > low:
        return float("nan")
    start = (1.0, float(offset_m[np.argmax(profile)]) / reach, 0.4, 0.0)
    scaled = (profile - low) / (high - low)
    fit = least_squares(lambda fitted: _gaussian(offset_m / reach, *fitted) - scaled, start)
    amplitude, centre, sigma, _ = fit.x
    fwhm_m = float(abs(sigma) * FWHM_PER_SIGMA * reach)
    usable = fit.success and amplitude > 0 and abs(centre) <= 0.5 and fwhm_m <= length
    return fwhm_m if usable else float("nan")


def _gaussian(
    x: NDArray[np.float64], amplitude: float, centre: float, sigma: float, background: float
) -> NDArray[np.float64]:
    """Gaussian on a constant background."""
    return np.asarray(background + amplitude * np.exp(-0.5 * ((x - centre) / sigma) ** 2))


def _normals(tangent_m: NDArray[np.float64], shape: tuple[int, ...]) -> list[NDArray[np.float64]]:
    """Unit vectors normal to a direction: two in a volume, the one in the plane of a picture."""
    along = tangent_m / np.linalg.norm(tangent_m)
    flat = [axis for axis in range(3) if shape[axis] == 1]
    if flat:
        return [_unit(np.cross(along, np.eye(3)[flat[0]]))]
    first = _unit(np.cross(along, np.eye(3)[np.argmin(np.abs(along))]))
    return [first, np.cross(along, first)]


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale to length 1."""
    return np.asarray(vector / np.linalg.norm(vector))


def _summarise(widths_m: NDArray[np.float64]) -> VesselWidth:
    """Mean, spread and confidence interval over the profiles that were fitted."""
    known = widths_m[~np.isnan(widths_m)]
    n, nothing = len(known), float("nan")
    mean = float(known.mean()) if n else nothing
    deviation = float(known.std(ddof=1)) if n > 1 else nothing
    reach = float(student_t.ppf(0.5 + CONFIDENCE / 2, n - 1)) * deviation / np.sqrt(n) if n > 1 else nothing
    return VesselWidth(mean, deviation, (float(mean - reach), float(mean + reach)), n, len(widths_m) - n)
