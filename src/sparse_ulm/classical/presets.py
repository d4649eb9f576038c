"""Settings of the conventional pipeline by name: those of the field's tools, and our own.

What belongs to a recording (voxel size, frame rate, frequency, clutter and the PSF's width) is no part of a preset.
The tools count lengths in pixels; where their pixel is a wavelength, these are wavelengths here.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

from sparse_ulm.errors import UserError


@dataclass(frozen=True)
class Preset:
    """How bubbles are found, localised and followed.

    Attributes:
        noise_factor: Maxima above this many noise rms are bubbles; None for no threshold.
        n_brightest: Brightest maxima per frame that are bubbles; None for all.
        side_lobe_ratio: Maxima below this share of the largest magnitude near them are side lobes; 0 keeps all.
        local_contrast_db: Least height above the mean of the patch around a maximum; None for any.
        n_local_maxima: Most maxima in the window of a bubble; None for any number.
        drop_border: Leave out maxima whose window the border of the grid cuts.
        localisation: Method of `localisation.localise`.
        linking: Method of `linking.Linker`.
        max_speed_m_s: Largest speed that is linked; None where `max_link_wavelengths` says it.
        max_link_wavelengths: Largest distance between frames that is linked; None where `max_speed_m_s` says it.
        acceleration_m_s2: Standard deviation of a bubble's acceleration, for Kalman linking.
        max_gap_frames: Frames in which a bubble may be missing.
        min_length: Fewest localisations of a track.
        smooth_span: Samples of a track that are averaged; None for the likeliest path by `bend_radius_m`.
        bend_radius_m: Radius of the sharpest bends, which tells by a track's speed how much it may turn
            (`smoothing.smooth_along_bends`).
    """

    noise_factor: float | None
    n_brightest: int | None
    side_lobe_ratio: float
    local_contrast_db: float | None
    n_local_maxima: int | None
    drop_border: bool
    localisation: str
    linking: str
    max_speed_m_s: float | None
    max_link_wavelengths: float | None
    acceleration_m_s2: float | None
    max_gap_frames: int
    min_length: int
    smooth_span: int | None
    bend_radius_m: float | None

    def max_speed(self, *, frame_rate_hz: float, wavelength_m: float) -> float:
        """Give the largest speed that is linked in a recording, in m/s: the smaller of what both limits allow.

        Raises:
            UserError: If neither is set.
        """
        limits = [self.max_speed_m_s] if self.max_speed_m_s is not None else []
        if self.max_link_wavelengths is not None:
            limits.append(self.max_link_wavelengths * wavelength_m * frame_rate_hz)
        if not limits:
            raise UserError("max_speed_m_s and max_link_wavelengths are both null; wanted one of them. Set one.")
        return min(limits)


GAUSSIAN_KALMAN = Preset(
    noise_factor=3.0,
    n_brightest=None,
    side_lobe_ratio=0.25,
    local_contrast_db=None,
    n_local_maxima=None,
    drop_border=False,
    localisation="gaussian_fit",
    linking="kalman",
    max_speed_m_s=0.03,
    max_link_wavelengths=None,
    acceleration_m_s2=3.0,
    max_gap_frames=1,
    min_length=5,
    smooth_span=None,
    bend_radius_m=1.0e-4,
)
"""Ours, tuned on simulated recordings of the training vessels (docs/benchmarks.md).

Bubbles of LocalisationNet are linked and smoothed so too.
"""

PALA_RAT = Preset(
    noise_factor=None,
    n_brightest=90,
    side_lobe_ratio=0.0,
    local_contrast_db=None,
    n_local_maxima=3,
    drop_border=True,
    localisation="radial_symmetry",
    linking="nearest",
    max_speed_m_s=None,
    max_link_wavelengths=2.0,
    acceleration_m_s2=None,
    max_gap_frames=0,
    min_length=16,
    smooth_span=19,
    bend_radius_m=None,
)
"""PALA's rat brain: 90 bubbles a frame, 2 pixels of a wavelength, more than 15 positions (notes §5)."""

OPEN3DULM = Preset(
    noise_factor=None,
    n_brightest=900,
    side_lobe_ratio=0.0,
    local_contrast_db=9.0,
    n_local_maxima=10,
    drop_border=True,
    localisation="radial_symmetry",
    linking="nearest",
    max_speed_m_s=0.03,
    max_link_wavelengths=None,
    acceleration_m_s2=None,
    max_gap_frames=0,
    min_length=9,
    smooth_span=5,
    bend_radius_m=None,
)
"""Open-3DULM: 900 bubbles a volume, 9 dB of local contrast, 30 mm/s, 9 positions (notes §5)."""

CLINICAL_INTERPOLATED = Preset(
    noise_factor=None,
    n_brightest=100,
    side_lobe_ratio=0.0,
    local_contrast_db=None,
    n_local_maxima=3,
    drop_border=True,
    localisation="weighted_average",
    linking="nearest",
    max_speed_m_s=None,
    max_link_wavelengths=1.5,
    acceleration_m_s2=None,
    max_gap_frames=0,
    min_length=16,
    smooth_span=19,
    bend_radius_m=None,
)
"""Clinical scanners' interpolated images: 100 bubbles a frame and 1.5 pixels, as PALA for a kidney, and the weighted
average, which long windows of many pixels suit (our choice; reference notes §1.2 and §5)."""

PRESETS = {
    "gaussian_kalman": GAUSSIAN_KALMAN,
    "pala_rat": PALA_RAT,
    "open3dulm": OPEN3DULM,
    "clinical_interpolated": CLINICAL_INTERPOLATED,
}


def find_preset(name: str, **changes: Any) -> Preset:
    """Look up a preset and change some of its settings.

    Args:
        name: A key of `PRESETS`.
        changes: Settings by name; None keeps the preset's.

    Raises:
        UserError: If there is no such preset or setting.
    """
    if name not in PRESETS:
        raise UserError(f"preset is {name!r}; wanted one of {', '.join(PRESETS)}.")
    return changed(PRESETS[name], **changes)


def changed(preset: Preset, **changes: Any) -> Preset:
    """Change some settings; None keeps the preset's.

    Raises:
        UserError: If there is no such setting.
    """
    unknown = changes.keys() - {field.name for field in fields(Preset)}
    if unknown:
        raise UserError(
            f"{', '.join(sorted(unknown))}: no such setting of a preset; wanted those of classical.presets."
        )
    return replace(preset, **{key: value for key, value in changes.items() if value is not None})
