"""One simulated recording: vessels, flow, image, noise, and the known truth."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_ulm.acquisition import Geometry
from sparse_ulm.conventions import Frames
from sparse_ulm.simulation.flow import FlowLaw, make_flow
from sparse_ulm.simulation.imaging import (
    GaussianPsf,
    Psf,
    carrier_phasor,
    psf_volume_m3,
    remove_carrier,
    render,
)
from sparse_ulm.simulation.noise import baseband_response, make_noise
from sparse_ulm.simulation.parameters import RecordingParameters
from sparse_ulm.simulation.placement import Box, fill_box
from sparse_ulm.simulation.population import simulate_tracks
from sparse_ulm.simulation.sidelobes import Probe, matrix_array_psf
from sparse_ulm.simulation.tissue import TissueMotion, make_tissue
from sparse_ulm.simulation.tracks import Tracks, with_echoes
from sparse_ulm.simulation.vessels import VesselTree

BURST_HALF_WIDTH = 1.207
"""-6 dB width of a one-cycle burst's spectrum, over its centre frequency: sinc(x) = 1/2 at x = 0.6034."""

TIME_BANDWIDTH = 4.0 * np.log(2.0) / np.pi
"""Half-maximum width of a Gaussian pulse in time times that of its amplitude spectrum."""

ATTENUATION_DB_M_HZ = 0.5e-4
"""0.5 dB/cm/MHz, one way."""

PLANE_WAVE_STEP_RAD = np.deg2rad(2.5)
KERF_SHARE = 0.08


@dataclass(frozen=True)
class SimulatedRecording:
    """A recording with its truth.

    Attributes:
        frames: complex64 (x, y, z, t) beamformed IQ.
        geometry: Where and when its samples lie; x and y are centred on the probe, z is depth.
        tracks: Every bubble in every frame.
        psf: What one bubble looks like.
        parameters: All that was drawn, and what came of it (`n_bubbles`, `psf_fwhm_m`, `noise_rms`), for a JSON file.
    """

    frames: Frames
    geometry: Geometry
    tracks: Tracks
    psf: Psf
    parameters: dict[str, Any]


def simulate_recording(
    parameters: RecordingParameters, tree: VesselTree, rng: np.random.Generator
) -> SimulatedRecording:
    """Simulate one recording.

    Args:
        parameters: From `draw_parameters`, or made by hand.
        tree: Vessels; copies of it are turned at random and fill the field of view.
        rng: Source of all randomness; the same state gives the same bits.

    Raises:
        VesselError: If no vessel runs through the field of view.
    """
    geometry = recording_geometry(parameters)
    psf = make_psf(parameters)
    n_bubbles = _number_of_bubbles(parameters, psf)
    tracks = _make_tracks(parameters, tree, geometry, psf, n_bubbles, rng)
    frames = render(tracks, psf, parameters.grid_size, parameters.n_frames, geometry)
    level = float(np.median(tracks.amplitude)) if len(tracks) else 1.0
    noise_rms = level * 10.0 ** (-parameters.snr_db / 20.0)
    response = baseband_response(psf, parameters.grid_size, geometry)
    carrier = carrier_phasor(psf.carrier_rad_m, parameters.grid_size, geometry.voxel_size_m)
    frames += make_noise(
        rng, response, carrier, parameters.n_frames, rms=noise_rms, white_share=parameters.white_noise_share
    )
    if parameters.has_tissue:
        frames += _tissue(parameters, psf, response, geometry, level, rng)
    if parameters.demodulated:
        frames = remove_carrier(frames, geometry)
    found = {"n_bubbles": n_bubbles, "psf_fwhm_m": [float(w) for w in psf.fwhm_m], "noise_rms": noise_rms}
    return SimulatedRecording(frames, geometry, tracks, psf, asdict(parameters) | found)


def recording_geometry(parameters: RecordingParameters) -> Geometry:
    """Give the grid's place: centred on the probe's axis along x and y, beginning at `depth_m`."""
    x, y, z = parameters.voxel_size_m
    n_x, n_y, _ = parameters.grid_size
    return Geometry.from_voxel_size(
        (x, y, z),
        (-0.5 * (n_x - 1) * x, -0.5 * (n_y - 1) * y, parameters.depth_m),
        frame_rate_hz=parameters.frame_rate_hz,
        transmit_frequency_hz=parameters.transmit_frequency_hz,
        sound_speed_m_s=parameters.sound_speed_m_s,
    )


def make_psf(parameters: RecordingParameters) -> Psf:
    """Make the point-spread function that the parameters describe."""
    if parameters.kernel == "side_lobes":
        return _matrix_array(parameters)
    lateral, axial = parameters.lateral_fwhm_wavelengths, parameters.axial_fwhm_wavelengths
    fwhm = np.array([lateral, lateral * parameters.fwhm_y_over_x, axial]) * parameters.wavelength_m
    tilt = np.asarray(parameters.tilt, dtype=np.float64)
    share = np.asarray(parameters.carrier_over_2k0, dtype=np.float64)
    return GaussianPsf(fwhm, tilt, share * 4.0 * np.pi / parameters.wavelength_m)


def _matrix_array(parameters: RecordingParameters) -> Psf:
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
    )
    depth = parameters.depth_m + 0.5 * parameters.grid_size[2] * parameters.voxel_size_m[2]
    half_width = np.array([4.0, 4.0, 3.0]) * parameters.wavelength_m
    step = np.asarray(parameters.voxel_size_m) / np.array([2.0, 2.0, 4.0])
    if parameters.spatial_dims == 2:
        half_width[1] = step[1]
    return matrix_array_psf(
        probe, np.array([*parameters.lateral_position_m, depth]), half_width_m=half_width, step_m=step
    )


def _number_of_bubbles(parameters: RecordingParameters, psf: Psf) -> int:
    """By count, or by concentration times the field of view (its area in 2D), at least 1."""
    if parameters.n_bubbles is not None:
        return parameters.n_bubbles
    x, y, z = np.asarray(parameters.voxel_size_m) * parameters.grid_size
    size = x * y * z if parameters.spatial_dims == 3 else x * z
    wanted = parameters.bubbles_per_psf_volume * size / psf_volume_m3(psf, parameters.spatial_dims)
    return max(1, round(wanted))


def _make_tracks(
    parameters: RecordingParameters,
    tree: VesselTree,
    geometry: Geometry,
    psf: Psf,
    n_bubbles: int,
    rng: np.random.Generator,
) -> Tracks:
    """Bubbles in the field of view and one -6 dB width round it; a 2D recording sees a slab projected on its plane."""
    law = FlowLaw(
        speed_at_20_um_m_s=parameters.speed_at_20_um_m_s,
        speed_exponent=parameters.speed_exponent,
        slowest_m_s=0.2e-3,
        fastest_m_s=30e-3,
        leaf_weight_exponent=parameters.leaf_weight_exponent,
        pulsatility=parameters.pulsatility,
        heart_rate_hz=parameters.heart_rate_hz,
        midway_birth_share=parameters.midway_birth_share,
    )
    field = make_flow(tree, law, scale=parameters.vessel_scale)
    margin = np.array(psf.fwhm_m)
    view = field_of_view(parameters, geometry)
    if parameters.spatial_dims == 2:
        margin[1] = 0.0
    tracks = simulate_tracks(
        field,
        fill_box(field, view.grown(margin), rng),
        view=view,
        margin_m=margin,
        n_bubbles=n_bubbles,
        n_frames=parameters.n_frames,
        frame_rate_hz=parameters.frame_rate_hz,
        rng=rng,
    )
    if parameters.spatial_dims == 2:
        tracks.position_m[:, 1] = geometry.matrix_m[1, 3]
    return with_echoes(tracks, rng, amplitude_sigma=parameters.amplitude_sigma, frame_rate_hz=parameters.frame_rate_hz)


def field_of_view(parameters: RecordingParameters, geometry: Geometry) -> Box:
    """Give the grid's outer faces; in 2D a slab of one wavelength, our choice for a focused elevation."""
    voxel: NDArray[np.float64] = np.asarray(geometry.voxel_size_m)
    first = geometry.matrix_m[:3, 3]
    low, high = first - 0.5 * voxel, first + (np.asarray(parameters.grid_size) - 0.5) * voxel
    if parameters.spatial_dims == 2:
        low[1], high[1] = first[1] - 0.5 * parameters.wavelength_m, first[1] + 0.5 * parameters.wavelength_m
    return Box(low, high)


def _tissue(
    parameters: RecordingParameters,
    psf: Psf,
    response: NDArray[np.float32],
    geometry: Geometry,
    level: float,
    rng: np.random.Generator,
) -> Frames:
    motion = TissueMotion(
        amplitude_m=np.asarray(parameters.tissue_motion_m),
        frequency_hz=parameters.tissue_frequency_hz,
        phase_rad=float(rng.uniform(0.0, 2.0 * np.pi)),
        decorrelation_time_s=parameters.tissue_decorrelation_s,
    )
    rms = level * 10.0 ** (parameters.tissue_db / 20.0)
    return make_tissue(rng, response, psf.carrier_rad_m, parameters.n_frames, geometry, motion, rms=rms)
