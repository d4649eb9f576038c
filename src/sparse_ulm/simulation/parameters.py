"""What varies from recording to recording, and between which bounds."""

from dataclasses import Field, dataclass, fields
from typing import Any, Literal

import numpy as np

from sparse_ulm.errors import UserError

Range = tuple[float, float]
N_ABERRATION_MODES = 6
N_ROW_BANKS = 16
"""Banks of receive rows, each of which may be missing."""

SOUND_SPEED_M_S = 1540.0
"""Sound speed of every simulated recording, stated in its sidecar."""


class SimulationError(UserError):
    """A simulation that cannot be made as asked."""


@dataclass(frozen=True)
class ParameterRanges:
    """Bounds of the random draws; (a, a) fixes a value. Reasons and sources in docs/how-to/simulate.md.

    Attributes:
        grid_size: Voxels along x, y and z; y of 1 makes a 2D recording.
        n_frames: Frames.
        n_bubbles: Bubbles in the field of view; None to set them by concentration.
        bubbles_per_psf_volume: Bubbles per -6 dB volume of the PSF (per its area in 2D), log-uniform.
        snr_db: Median bubble peak over noise rms.
        transmit_frequency_hz: Centre frequency.
        frame_rate_hz: Volumes per second.
        lateral_voxel_wavelengths: Voxel size along x and y, in wavelengths.
        axial_voxel_wavelengths: Voxel size along z.
        side_lobe_share: Share of recordings imaged by the matrix-array model; those of no kind are Gaussian.
        psf_table_share: Share imaged by the kernels of `psf_tables`.
        psf_tables: File of kernels from another simulator (`kernels.KernelTables`); None where the share is 0.
        missing_row_share: Share of the receive rows of the matrix-array model that are missing.
        tissue_share: Share of recordings with moving tissue.
        tissue_db: Tissue rms over the median bubble peak.
        removed_components: Strongest temporal components taken out of recordings with tissue, whole numbers; 0 leaves
            the tissue in, for a clutter filter later.
        white_noise_share: Share of the noise power that is white over voxels.
        speed_at_20_um_m_s: Mean speed in a vessel of 20 um diameter, log-uniform.
        speed_exponent: Exponent of speed over diameter.
        vessel_scale: Factor on a tree's size.
        amplitude_sigma: Standard deviation over bubbles of the logarithm of their amplitude.
        demodulated: True takes the nominal carrier out; laboratories' recordings keep it.
    """

    grid_size: tuple[int, int, int] = (24, 24, 24)
    n_frames: int = 128
    n_bubbles: int | None = None
    bubbles_per_psf_volume: Range = (0.01, 0.7)
    snr_db: Range = (10.0, 30.0)
    transmit_frequency_hz: Range = (7e6, 16e6)
    frame_rate_hz: Range = (400.0, 1000.0)
    lateral_voxel_wavelengths: Range = (0.4, 0.6)
    axial_voxel_wavelengths: Range = (0.3, 0.5)
    side_lobe_share: float = 0.5
    psf_table_share: float = 0.0
    psf_tables: str | None = None
    missing_row_share: Range = (0.0, 0.0)
    tissue_share: float = 0.0
    tissue_db: Range = (20.0, 40.0)
    removed_components: Range = (0.0, 0.0)
    amplitude_sigma: Range = (0.2, 0.6)
    white_noise_share: Range = (0.0, 0.5)
    speed_at_20_um_m_s: Range = (0.5e-3, 3e-3)
    speed_exponent: Range = (0.6, 1.9)
    vessel_scale: Range = (0.8, 1.5)
    demodulated: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn.

        Raises:
            SimulationError: If a range runs backwards, or a count or share is impossible.
        """
        for f in fields(self):
            value = getattr(self, f.name)
            if f.type is Range and not 0.0 <= value[0] <= value[1] < np.inf:
                raise SimulationError(f"{f.name} is {value}; wanted [least, most], from 0 up. Correct it.")
            if f.type is float and not 0.0 <= value <= 1.0:
                raise SimulationError(f"{f.name} is {value}; wanted a share from 0 to 1. Correct it.")
        for name in ("transmit_frequency_hz", "frame_rate_hz", "lateral_voxel_wavelengths", "axial_voxel_wavelengths"):
            if getattr(self, name)[0] == 0.0:
                raise SimulationError(f"{name} starts at 0; wanted more than 0. Correct it.")
        if min(self.grid_size) < 1 or self.n_frames < 1:
            raise SimulationError(
                f"grid_size is {self.grid_size} and n_frames {self.n_frames}; wanted at least 1 of each. Correct them."
            )
        if self.side_lobe_share + self.psf_table_share > 1.0:
            raise SimulationError(
                f"side_lobe_share {self.side_lobe_share} and psf_table_share {self.psf_table_share} add up to more "
                "than 1. Lower one."
            )
        if self.psf_table_share > 0.0 and self.psf_tables is None:
            raise SimulationError("psf_table_share is above 0 but psf_tables is null; give a file or a share of 0.")
        if self.n_bubbles is not None and self.n_bubbles < 0:
            raise SimulationError(f"n_bubbles is {self.n_bubbles}; wanted 0 or more, or null for a concentration.")


def parameter_ranges(**values: Any) -> ParameterRanges:
    """Make the ranges of a config, whose values are lists and plain numbers.

    Args:
        values: Keys of `ParameterRanges`: [least, most] or one number for a range, a list of three for the grid.

    Raises:
        SimulationError: If a value is not of that form, or `ParameterRanges` refuses it.
    """
    settled = {}
    for f in fields(ParameterRanges):
        if f.name in values:
            try:
                settled[f.name] = _settled(f, values.pop(f.name))
            except (TypeError, ValueError) as error:
                raise SimulationError(f"{f.name}: {error}; wanted numbers as in configs/simulate.yaml.") from None
    if values:
        raise SimulationError(f"{', '.join(values)}: no such range; wanted keys of section 2 of configs/simulate.yaml.")
    return ParameterRanges(**settled)


def _settled(f: Field[Any], value: Any) -> Any:
    """One value in the type of its field."""
    if f.type is Range:
        low, high = value if isinstance(value, list | tuple) else (value, value)
        return float(low), float(high)
    if f.type is float:
        return float(value)
    if f.name == "grid_size":
        x, y, z = (int(v) for v in value)
        return x, y, z
    return value


@dataclass(frozen=True)
class RecordingParameters:
    """One draw: all that, with a vessel tree and a seed, makes a recording. Units are in the names.

    `axial_fwhm_wavelengths` is the width of the pulse; the matrix-array kernel comes out some 5 to 40 % wider.
    """

    grid_size: tuple[int, int, int]
    n_frames: int
    n_bubbles: int | None
    bubbles_per_psf_volume: float
    snr_db: float
    transmit_frequency_hz: float
    sound_speed_m_s: float
    frame_rate_hz: float
    voxel_size_wavelengths: tuple[float, float, float]
    depth_m: float
    kernel: Literal["gaussian", "side_lobes", "table"]
    lateral_fwhm_wavelengths: float
    fwhm_y_over_x: float
    axial_fwhm_wavelengths: float
    tilt: tuple[float, float]
    carrier_over_2k0: tuple[float, float, float]
    f_number: float
    pitch_wavelengths: float
    aperture_m: float
    edge_wave_gain: float
    burst_share: float
    aberration_rad: tuple[float, ...]
    lateral_position_m: tuple[float, float]
    n_plane_waves: int
    white_noise_share: float
    has_tissue: bool
    tissue_db: float
    tissue_motion_m: tuple[float, float, float]
    tissue_frequency_hz: float
    tissue_decorrelation_s: float
    amplitude_sigma: float
    vessel_scale: float
    speed_at_20_um_m_s: float
    speed_exponent: float
    leaf_weight_exponent: float
    pulsatility: float
    heart_rate_hz: float
    midway_birth_share: float
    demodulated: bool
    psf_tables: str | None
    psf_table: float
    psf_mirrored: tuple[bool, bool]
    missing_row_share: float
    row_draws: tuple[float, ...]
    removed_components: int

    @property
    def wavelength_m(self) -> float:
        """Sound speed over transmit frequency."""
        return self.sound_speed_m_s / self.transmit_frequency_hz

    @property
    def voxel_size_m(self) -> tuple[float, float, float]:
        """Voxel size along x, y and z, in metres."""
        x, y, z = (v * self.wavelength_m for v in self.voxel_size_wavelengths)
        return x, y, z

    @property
    def spatial_dims(self) -> int:
        """2 for a grid one voxel thick along y, else 3."""
        return 2 if self.grid_size[1] == 1 else 3


def draw_parameters(rng: np.random.Generator, ranges: ParameterRanges) -> RecordingParameters:
    """Draw one recording's parameters.

    All numbers are drawn in a fixed order whatever the ranges are, so that changing one range leaves the others' draws.

    Args:
        rng: Source of all randomness.
        ranges: Bounds; those not in `ParameterRanges` are fixed here (reference design in docs/how-to/simulate.md).
    """
    lateral_voxel = _uniform(rng, ranges.lateral_voxel_wavelengths)
    signs = rng.uniform(-1.0, 1.0, size=8)
    return RecordingParameters(
        grid_size=ranges.grid_size,
        n_frames=ranges.n_frames,
        n_bubbles=ranges.n_bubbles,
        bubbles_per_psf_volume=_log_uniform(rng, ranges.bubbles_per_psf_volume),
        snr_db=_uniform(rng, ranges.snr_db),
        transmit_frequency_hz=_uniform(rng, ranges.transmit_frequency_hz),
        sound_speed_m_s=SOUND_SPEED_M_S,
        frame_rate_hz=_uniform(rng, ranges.frame_rate_hz),
        voxel_size_wavelengths=(lateral_voxel, lateral_voxel, _uniform(rng, ranges.axial_voxel_wavelengths)),
        depth_m=_uniform(rng, (6e-3, 16e-3)),
        kernel=_kernel(float(rng.uniform()), ranges),
        lateral_fwhm_wavelengths=_uniform(rng, (1.6, 2.9)),
        fwhm_y_over_x=_uniform(rng, (0.85, 1.2)),
        axial_fwhm_wavelengths=_uniform(rng, (0.7, 1.4)),
        tilt=(0.15 * signs[0], 0.15 * signs[1]),
        carrier_over_2k0=(0.08 * signs[2], 0.08 * signs[3], _uniform(rng, (0.65, 1.0))),
        f_number=_uniform(rng, (0.8, 1.5)),
        pitch_wavelengths=_uniform(rng, (0.8, 2.5)),
        aperture_m=_uniform(rng, (6e-3, 10e-3)),
        edge_wave_gain=_uniform(rng, (0.0, 1.0)),
        burst_share=_uniform(rng, (0.0, 0.6)),
        aberration_rad=_aberration(rng),
        lateral_position_m=(3e-3 * signs[4], 3e-3 * signs[5]),
        n_plane_waves=int(rng.choice([1, 3, 5])),
        white_noise_share=_uniform(rng, ranges.white_noise_share),
        has_tissue=bool(rng.uniform() < ranges.tissue_share),
        tissue_db=_uniform(rng, ranges.tissue_db),
        tissue_motion_m=_motion(rng),
        tissue_frequency_hz=_uniform(rng, (1.0, 5.0)),
        tissue_decorrelation_s=_log_uniform(rng, (1.0, 10.0)),
        amplitude_sigma=_uniform(rng, ranges.amplitude_sigma),
        vessel_scale=_uniform(rng, ranges.vessel_scale),
        speed_at_20_um_m_s=_log_uniform(rng, ranges.speed_at_20_um_m_s),
        speed_exponent=_uniform(rng, ranges.speed_exponent),
        leaf_weight_exponent=_uniform(rng, (0.0, 3.7)),
        pulsatility=_uniform(rng, (0.0, 0.5)),
        heart_rate_hz=_uniform(rng, (4.0, 10.0)),
        midway_birth_share=_uniform(rng, (0.0, 0.5)),
        demodulated=ranges.demodulated,
        psf_tables=ranges.psf_tables,
        psf_table=float(rng.uniform()),
        psf_mirrored=(bool(rng.uniform() < 0.5), bool(rng.uniform() < 0.5)),
        missing_row_share=_uniform(rng, ranges.missing_row_share),
        row_draws=tuple(float(u) for u in rng.uniform(size=N_ROW_BANKS)),
        removed_components=round(_uniform(rng, ranges.removed_components)),
    )


def _kernel(draw: float, ranges: ParameterRanges) -> Literal["gaussian", "side_lobes", "table"]:
    """Kind of point-spread function; `draw` is uniform in [0, 1)."""
    if draw < ranges.side_lobe_share:
        return "side_lobes"
    return "table" if draw >= 1.0 - ranges.psf_table_share else "gaussian"


def _uniform(rng: np.random.Generator, bounds: Range) -> float:
    return float(rng.uniform(*bounds))


def _log_uniform(rng: np.random.Generator, bounds: Range) -> float:
    """Uniform in the logarithm; one number is drawn in any case."""
    share = rng.uniform()
    low, high = bounds
    return float(low * (high / low) ** share) if low > 0 else float(high * share)


def _aberration(rng: np.random.Generator) -> tuple[float, ...]:
    """Weights of the phase screen's modes, for a phase of 0 to 45 degrees rms over the aperture."""
    weights = rng.normal(size=N_ABERRATION_MODES)
    # Each mode is a product of cosines of mean square 1/2 or 1/4; 0.35 stands for both.
    rms = np.sqrt(0.35 * (weights**2).sum())
    return tuple(float(w) for w in weights * rng.uniform(0.0, np.pi / 4.0) / rms)


def _motion(rng: np.random.Generator) -> tuple[float, float, float]:
    """Amplitude of 5 to 50 um in a random direction."""
    direction = rng.normal(size=3)
    x, y, z = direction / np.linalg.norm(direction) * rng.uniform(5e-6, 50e-6)
    return float(x), float(y), float(z)
