"""Recordings imaged by an independent physics simulator: eSDIva's spatial impulse responses and delay-and-sum.

Nothing is tabulated: the channel data of every frame are simulated from the exact bubble positions. Writes NAME.nii
with its sidecar, NAME_truth.csv and simulation.json, as configs/simulate.yaml does, so that inference, the conventional
pipeline and evaluation run on the folder. For evaluation only, never for training. Bubbles, vessels and flow are those
of `sparse_ulm.simulation`; every bubble scatters with the same phase. Needs:  pip install esdiva==0.3.0

Twelve recordings of 16 x 16 x 16 voxels and 64 frames take 1.2 CPU-minutes for 8mhz and 3.3 for 15mhz_rows: about 1 ms
per bubble and plane wave, 20 ms per frame and plane wave to beamform.

Run:  python benchmarks/physics/esdiva_recordings.py --family 8mhz --vessels seg4.swc --output_dir data/esdiva/8mhz
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np
from esdiva_channels import ChannelSimulator
from families import FAMILIES, Family
from matrix_imaging import Imager, PointSpread, measure_point_spread, residual_clutter
from matrix_probe import phase_screen_s
from numpy.typing import NDArray
from tqdm import tqdm

from sparse_ulm.acquisition import Geometry
from sparse_ulm.io.atomic import atomic_path
from sparse_ulm.io.registry import save_recording
from sparse_ulm.io.truth import write_truth
from sparse_ulm.simulation.flow import FlowLaw, make_flow
from sparse_ulm.simulation.generate import SUMMARY_NAME, VesselSource, draw_synthetic_tree, load_trees
from sparse_ulm.simulation.parameters import ParameterRanges, RecordingParameters, SimulationError, draw_parameters
from sparse_ulm.simulation.placement import Box, fill_box
from sparse_ulm.simulation.population import simulate_tracks
from sparse_ulm.simulation.recording import field_of_view
from sparse_ulm.simulation.tracks import Tracks, with_echoes

VOXEL_WAVELENGTHS = (0.5, 0.5, 0.35)
MARGIN_FWHM = np.array([1.0, 1.0, 2.0])
"""Bubbles are simulated this far outside of the grid: side lobes and edge waves reach furthest along z."""

SPREAD_FWHM_WAVELENGTHS = np.array([2.5, 2.5, 1.2])
"""At most; sizes the box that is simulated before the point-spread function is measured."""

FRAMES_AT_ONCE = 16


def main(arguments: list[str] | None = None) -> Path:
    """Make the recordings of one family, and the summary; returns its path."""
    options = parse(arguments)
    numba.set_num_threads(1)
    folder = Path(options.output_dir)
    if (folder / SUMMARY_NAME).exists():
        raise SimulationError(f"{folder} already holds recordings; wanted an empty folder. Choose another.")
    family, source = FAMILIES[options.family], load_trees([options.vessels])[0]
    wanted = [c for _ in range(options.n_recordings) for c in options.concentrations]
    rows = []
    for index, concentration in enumerate(tqdm(wanted, unit="recording")):
        rng = np.random.default_rng(np.random.SeedSequence(options.seed, spawn_key=(index,)))
        started = time.process_time()
        recording = make_recording(
            family, source, concentration, grid_size=tuple(options.grid_size), n_frames=options.n_frames, rng=rng
        )
        name = f"esdiva_{options.family}_{index:04d}"
        write_truth(folder / f"{name}_truth.csv", recording.tracks, recording.geometry)
        save_recording(folder / f"{name}.nii", recording.frames, recording.geometry)
        seconds = {"cpu_seconds": time.process_time() - started}
        rows.append({"name": name, "file": f"{name}.nii", "vessels": source.name, **recording.facts, **seconds})
        # After every recording, so that what is there can be used while the rest is being made.
        write_summary(folder, family, source, options.seed, rows)
    return folder / SUMMARY_NAME


def write_summary(folder: Path, family: Family, source: VesselSource, seed: int, rows: list[dict[str, Any]]) -> None:
    """Write simulation.json: what was simulated, and one row per recording."""
    summary = {
        "generator": "esdiva 0.3.0, exact in every frame; benchmarks/physics/delay_and_sum.py",
        "seed": seed,
        "vessels": [{"name": source.name, "sha256": source.sha256}],
        "family": family.description(),
        "recordings": rows,
    }
    with atomic_path(folder / SUMMARY_NAME) as temporary:
        temporary.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=FAMILIES, required=True)
    parser.add_argument("--vessels", required=True, help="an SWC file, or synthetic")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--concentrations", type=float, nargs="+", default=[0.01, 0.05, 0.2], help="per PSF volume")
    parser.add_argument("--n_recordings", type=int, default=4, help="per concentration")
    parser.add_argument("--grid_size", type=int, nargs=3, default=[16, 16, 16])
    parser.add_argument("--n_frames", type=int, default=128)
    parser.add_argument("--seed", type=int, default=7001)
    return parser.parse_args(arguments)


@dataclass(frozen=True)
class PhysicsRecording:
    """Frames (x, y, z, t) with their place, truth, and a JSON row of how they were made."""

    frames: NDArray[np.complex64]
    geometry: Geometry
    tracks: Tracks
    facts: dict[str, Any]


def make_recording(
    family: Family,
    source: VesselSource,
    concentration: float,
    *,
    grid_size: tuple[int, int, int],
    n_frames: int,
    rng: np.random.Generator,
) -> PhysicsRecording:
    """Simulate one recording.

    Args:
        family: Probe and conditions.
        source: Vessel tree, or the wish for a synthetic one.
        concentration: Bubbles per -6 dB volume of the point-spread function, measured in the middle of the grid.
        grid_size: Voxels along x, y and z.
        n_frames: Frames.
        rng: Source of all randomness.
    """
    parameters = _draw(family, concentration, grid_size, n_frames, rng)
    geometry = _place(family, parameters, rng)
    view = field_of_view(parameters, geometry)
    middle = 0.5 * (view.low_m + view.high_m)
    reach = MARGIN_FWHM * SPREAD_FWHM_WAVELENGTHS * parameters.wavelength_m
    rms_s = family.aberration_rad / (2.0 * np.pi * family.probe.centre_frequency_hz)
    screen = phase_screen_s(family.probe, rng, rms_s=rms_s, correlation_m=family.screen_correlation_m)
    simulator = ChannelSimulator(family.probe, view.grown(reach), screen)
    spread = measure_point_spread(simulator, middle)
    margin = np.minimum(MARGIN_FWHM * spread.fwhm_m, reach)
    n_bubbles = max(1, round(concentration * view.volume_m3 / (np.pi / 6.0 * float(spread.fwhm_m.prod()))))
    tracks = _tracks(parameters, source, view, margin, n_bubbles, rng)
    level = float(np.median(tracks.amplitude))
    voxels = np.stack(np.meshgrid(*(np.arange(n, dtype=np.float64) for n in grid_size), indexing="ij"), axis=-1)
    imager = Imager(simulator, geometry.to_scanner_m(voxels.reshape(-1, 3)).reshape(*grid_size, 3))
    noise_rms = level * 10.0 ** (-parameters.snr_db / 20.0)
    imager.set_levels(middle, rng, noise_rms=noise_rms)
    frames = image_tracks(imager, tracks, n_frames, rng)
    if family.clutter_db is not None:
        rms = level * 10.0 ** (family.clutter_db / 20.0)
        frames += residual_clutter(imager, n_frames, geometry.frame_rate_hz, rng, rms=rms)
    facts = _facts(parameters, concentration, spread, n_bubbles=n_bubbles, noise_rms=noise_rms)
    return PhysicsRecording(frames, geometry, tracks, facts)


def image_tracks(imager: Imager, tracks: Tracks, n_frames: int, rng: np.random.Generator) -> NDArray[np.complex64]:
    """Image every frame's bubbles at their exact positions: complex64 (x, y, z, t). The tracks' phases are not used."""
    masks = [tracks.frame == frame for frame in range(n_frames)]
    scenes = [(tracks.position_m[now], tracks.amplitude[now]) for now in masks]
    batches = [scenes[first : first + FRAMES_AT_ONCE] for first in range(0, n_frames, FRAMES_AT_ONCE)]
    return np.concatenate([imager.images(batch, rng) for batch in batches], axis=-1)


def _draw(
    family: Family, concentration: float, grid_size: tuple[int, int, int], n_frames: int, rng: np.random.Generator
) -> RecordingParameters:
    """Draw flow, vessels, frame rate and noise as for training recordings; what is about the image is not used."""
    frequency = family.probe.centre_frequency_hz
    lateral, _, axial = VOXEL_WAVELENGTHS
    ranges = ParameterRanges(
        grid_size=grid_size,
        n_frames=n_frames,
        bubbles_per_psf_volume=(concentration, concentration),
        snr_db=family.snr_db,
        transmit_frequency_hz=(frequency, frequency),
        lateral_voxel_wavelengths=(lateral, lateral),
        axial_voxel_wavelengths=(axial, axial),
    )
    return draw_parameters(rng, ranges)


def _place(family: Family, parameters: RecordingParameters, rng: np.random.Generator) -> Geometry:
    """The grid at a random depth and a random distance from the probe's axis."""
    voxel = np.asarray(parameters.voxel_size_m)
    middle = rng.uniform(-family.lateral_m, family.lateral_m, size=2)
    x, y = middle - 0.5 * (np.asarray(parameters.grid_size[:2]) - 1) * voxel[:2]
    return Geometry.from_voxel_size(
        parameters.voxel_size_m,
        (float(x), float(y), float(rng.uniform(*family.depth_m))),
        frame_rate_hz=parameters.frame_rate_hz,
        transmit_frequency_hz=parameters.transmit_frequency_hz,
        sound_speed_m_s=family.probe.sound_speed_m_s,
    )


def _tracks(
    parameters: RecordingParameters,
    source: VesselSource,
    view: Box,
    margin_m: NDArray[np.float64],
    n_bubbles: int,
    rng: np.random.Generator,
) -> Tracks:
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
    field = make_flow(source.tree or draw_synthetic_tree(rng), law, scale=parameters.vessel_scale)
    tracks = simulate_tracks(
        field,
        fill_box(field, view.grown(margin_m), rng),
        view=view,
        margin_m=margin_m,
        n_bubbles=n_bubbles,
        n_frames=parameters.n_frames,
        frame_rate_hz=parameters.frame_rate_hz,
        rng=rng,
    )
    return with_echoes(tracks, rng, amplitude_sigma=parameters.amplitude_sigma, frame_rate_hz=parameters.frame_rate_hz)


def _facts(
    parameters: RecordingParameters, concentration: float, spread: PointSpread, *, n_bubbles: int, noise_rms: float
) -> dict[str, Any]:
    return {
        "bubbles_per_psf_volume": concentration,
        "n_bubbles": n_bubbles,
        "psf_fwhm_m": spread.fwhm_m.tolist(),
        "psf_peak_offset_m": spread.peak_offset_m.tolist(),
        "carrier_over_2k0": spread.carrier_over_2k0.tolist(),
        "noise_rms": noise_rms,
        "snr_db": parameters.snr_db,
        "amplitude_sigma": parameters.amplitude_sigma,
        "frame_rate_hz": parameters.frame_rate_hz,
        "speed_at_20_um_m_s": parameters.speed_at_20_um_m_s,
        "vessel_scale": parameters.vessel_scale,
    }


if __name__ == "__main__":
    main()
