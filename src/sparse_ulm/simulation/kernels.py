"""Which point-spread function a recording has: a Gaussian, the matrix-array model, or a table of another simulator."""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Complex, Float
from numpy.typing import NDArray
from scipy.ndimage import shift

from sparse_ulm.simulation.imaging import GaussianPsf, Psf, TabulatedPsf
from sparse_ulm.simulation.parameters import RecordingParameters, SimulationError
from sparse_ulm.simulation.sidelobes import Probe, matrix_array_psf

BURST_HALF_WIDTH = 1.207
"""-6 dB width of a one-cycle burst's spectrum, over its centre frequency: sinc(x) = 1/2 at x = 0.6034."""

TIME_BANDWIDTH = 4.0 * np.log(2.0) / np.pi
"""Half-maximum width of a Gaussian pulse in time times that of its amplitude spectrum."""

ATTENUATION_DB_M_HZ = 0.5e-4
"""0.5 dB/cm/MHz, one way."""

PLANE_WAVE_STEP_RAD = np.deg2rad(2.5)
KERF_SHARE = 0.08


def make_psf(parameters: RecordingParameters) -> Psf:
    """Make the point-spread function that the parameters describe, the summit of its main lobe at the bubble."""
    if parameters.kernel == "side_lobes":
        return centre_on_main_lobe(_matrix_array(parameters))
    if parameters.kernel == "table":
        return centre_on_main_lobe(_tabulated(parameters))
    lateral, axial = parameters.lateral_fwhm_wavelengths, parameters.axial_fwhm_wavelengths
    fwhm = np.array([lateral, lateral * parameters.fwhm_y_over_x, axial]) * parameters.wavelength_m
    tilt = np.asarray(parameters.tilt, dtype=np.float64)
    share = np.asarray(parameters.carrier_over_2k0, dtype=np.float64)
    return GaussianPsf(fwhm, tilt, share * 4.0 * np.pi / parameters.wavelength_m)


def centre_on_main_lobe(psf: TabulatedPsf) -> TabulatedPsf:
    """Move a table so that the summit of its main lobe lies at the bubble, with magnitude 1.

    Aberration, edge waves and missing rows move the summit by up to 0.2 wavelengths off the bubble. No method can know
    that shift from a recording: left in, it is noise on every label; our choice. Summits by a parabola on the log
    magnitude along each axis, twice, since the axes of a slanted lobe are not the grid's.
    """
    envelope = psf.envelope
    for _ in range(2):
        envelope = _shifted(envelope, _summit_offset(np.abs(envelope)))
    return replace(psf, envelope=np.ascontiguousarray(envelope, dtype=np.complex64))


def _summit_offset(magnitude: Float[np.ndarray, "px py pz"]) -> NDArray[np.float64]:
    """(3,) samples from the middle to the summit that is reached by climbing from there; 0 along axes of 3 or fewer."""
    free = [axis for axis, n in enumerate(magnitude.shape) if n > 3]
    at = [n // 2 for n in magnitude.shape]
    climbing = True
    while climbing:
        climbing = False
        for axis in free:
            line = magnitude[tuple(slice(None) if a == axis else i for a, i in enumerate(at))]
            best = at[axis] - 1 + int(np.argmax(line[at[axis] - 1 : at[axis] + 2]))
            if line[best] > line[at[axis]] and 0 < best < len(line) - 1:
                at[axis], climbing = best, True
    offset = np.array([i - n // 2 for i, n in zip(at, magnitude.shape, strict=True)], dtype=np.float64)
    for axis in free:
        line = magnitude[tuple(slice(None) if a == axis else i for a, i in enumerate(at))]
        before, here, after = np.log(np.maximum(line[at[axis] - 1 : at[axis] + 2], np.finfo(np.float32).tiny))
        bend = before - 2.0 * here + after
        offset[axis] += 0.5 * (before - after) / bend if bend < 0 else 0.0
    return offset


def _shifted(envelope: Complex[np.ndarray, "px py pz"], offset: Float[np.ndarray, " 3"]) -> Complex[np.ndarray, "..."]:
    """Move the point at `offset` samples from the middle into the middle, by cubic splines, and scale it to 1."""
    moved = shift(envelope.astype(np.complex128), -offset, order=3, mode="nearest")
    return moved / moved[tuple(n // 2 for n in moved.shape)]


def _matrix_array(parameters: RecordingParameters) -> TabulatedPsf:
    """The matrix-array kernel for a bubble in the middle of the field of view, at its place under the probe.

    One kernel serves a whole recording: our choice, as fields of view are 1 to 3 mm wide and the kernel's width
    changes by about a tenth over them; the place varies between recordings.
    """
    pitch = parameters.pitch_wavelengths * parameters.wavelength_m
    # The aperture that the F-number asks for costs time and nothing else where the array is larger than that.
    n_elements = int(np.clip(round(parameters.aperture_m / pitch), 16, 64))
    bandwidth = 0.5 * TIME_BANDWIDTH / parameters.axial_fwhm_wavelengths
    angles = PLANE_WAVE_STEP_RAD * np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]], dtype=np.float64)
    probe = Probe(
        n_elements=(n_elements, n_elements),
        pitch_m=pitch,
        kerf_m=KERF_SHARE * pitch,
        centre_frequency_hz=parameters.transmit_frequency_hz,
        fractional_bandwidth=bandwidth / np.sqrt(1.0 - parameters.burst_share),
        pulse_cycles=float(np.sqrt(parameters.burst_share)) * BURST_HALF_WIDTH / bandwidth,
        f_number=parameters.f_number,
        edge_wave_gain=parameters.edge_wave_gain,
        tilts_rad=angles[: parameters.n_plane_waves],
        aberration_rad=np.asarray(parameters.aberration_rad),
        attenuation_db_m_hz=ATTENUATION_DB_M_HZ,
        sound_speed_m_s=parameters.sound_speed_m_s,
        missing_rows=_missing(parameters),
    )
    depth = parameters.depth_m + 0.5 * parameters.grid_size[2] * parameters.voxel_size_m[2]
    half_width = np.array([4.0, 4.0, 3.0]) * parameters.wavelength_m
    step = np.asarray(parameters.voxel_size_m) / np.array([2.0, 2.0, 4.0])
    if parameters.spatial_dims == 2:
        half_width[1] = step[1]
    return matrix_array_psf(
        probe, np.array([*parameters.lateral_position_m, depth]), half_width_m=half_width, step_m=step
    )


class KernelTables:
    """Point-spread functions that another simulator made, in wavelengths, so that they serve any frequency.

    The file is a .npz with `envelope` (kernels, px, py, pz) complex64 without its carrier, odd sizes, 1 at the bubble
    in the middle; `step_wavelengths` (3,); `fwhm_wavelengths` (kernels, 3); `carrier_over_2k0` (kernels, 3).
    benchmarks/simus3_kernels.py writes one.

    Args:
        path: The .npz file.

    Raises:
        SimulationError: If the file is missing, or no such file.
    """

    def __init__(self, path: str | Path) -> None:
        """Read the whole file."""
        try:
            with np.load(path, allow_pickle=False) as file:
                self.envelope: Complex[np.ndarray, "n px py pz"] = file["envelope"].astype(np.complex64)
                self.step_wavelengths: Float[np.ndarray, " 3"] = file["step_wavelengths"].astype(np.float64)
                self.fwhm_wavelengths: Float[np.ndarray, "n 3"] = file["fwhm_wavelengths"].astype(np.float64)
                self.carrier_over_2k0: Float[np.ndarray, "n 3"] = file["carrier_over_2k0"].astype(np.float64)
        except (OSError, ValueError, KeyError) as error:
            raise SimulationError(
                f"psf_tables: {path} cannot be read ({error}); wanted a file of benchmarks/simus3_kernels.py."
            ) from None

    def __len__(self) -> int:
        """Number of kernels."""
        return len(self.envelope)

    def psf(self, index: int, *, wavelength_m: float, spatial_dims: int) -> TabulatedPsf:
        """Give one kernel at a wavelength; in 2D its plane through the bubble."""
        envelope = self.envelope[index]
        if spatial_dims == 2:
            middle = envelope.shape[1] // 2
            envelope = envelope[:, middle - 1 : middle + 2]
        wave_number = 4.0 * np.pi / wavelength_m
        return TabulatedPsf(
            self.fwhm_wavelengths[index] * wavelength_m,
            self.carrier_over_2k0[index] * wave_number,
            np.ascontiguousarray(envelope),
            self.step_wavelengths * wavelength_m,
        )


@lru_cache(maxsize=2)
def read_kernel_tables(path: str) -> KernelTables:
    """Read tables once per process."""
    return KernelTables(path)


def _tabulated(parameters: RecordingParameters) -> TabulatedPsf:
    """The table that `psf_table` (a number in [0, 1)) points at, mirrored at random along x and y."""
    if parameters.psf_tables is None:
        raise SimulationError("psf_tables is null but psf_table_share is above 0; give a file or a share of 0.")
    tables = read_kernel_tables(parameters.psf_tables)
    index = int(parameters.psf_table * len(tables))
    psf = tables.psf(index, wavelength_m=parameters.wavelength_m, spatial_dims=parameters.spatial_dims)
    step = np.where(parameters.psf_mirrored, -1, 1)
    return TabulatedPsf(
        psf.fwhm_m,
        psf.carrier_rad_m * np.append(step, 1),
        np.ascontiguousarray(psf.envelope[:: step[0], :: step[1]]),
        psf.step_m,
    )


def _missing(parameters: RecordingParameters) -> NDArray[np.bool_]:
    """Banks of receive rows along y that are not there: a row of a matrix probe that is blank or broken."""
    return np.asarray(parameters.row_draws) < parameters.missing_row_share
