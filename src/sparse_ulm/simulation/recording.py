"""One simulated recording: vessels, flow, image, noise, and the known truth."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sparse_ulm.acquisition import Geometry
from sparse_ulm.clutter import remove_tissue
from sparse_ulm.conventions import Frames
from sparse_ulm.simulation.flow import FlowLaw, make_flow
from sparse_ulm.simulation.imaging import Psf, carrier_phasor, psf_volume_m3, remove_carrier, render
from sparse_ulm.simulation.kernels import make_psf
from sparse_ulm.simulation.noise import baseband_response, make_noise
from sparse_ulm.simulation.parameters import RecordingParameters
from sparse_ulm.simulation.placement import Box, fill_box
from sparse_ulm.simulation.population import simulate_tracks
from sparse_ulm.simulation.tissue import TissueMotion, make_tissue
from sparse_ulm.simulation.tracks import Tracks, with_echoes
from sparse_ulm.simulation.vessels import VesselTree


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
        frames = remove_tissue(torch.from_numpy(frames), n_components=parameters.removed_components).numpy()
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
