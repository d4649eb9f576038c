"""Error of isolated bubbles over the Cramér–Rao bound, by signal over noise.

Recordings: a lattice of bubbles at least three PSF widths apart, each moved by a random part of a voxel, of equal
amplitude and random phase; a Gaussian PSF of the nominal widths and carrier; white complex noise; bubbles that rest, or
that all drift together at `SPEED_VOXEL` per frame, so that they stay apart. LocalisationNet and our preset find them
through the shipped configs; the root mean square error of the bubbles matched within λ/2 is divided by the bound.

The bound is that of one frame whose PSF is known: unknown are x, y, z and the complex amplitude, the Fisher matrix is
2/σ² Re(JᴴJ) with σ² = E|n|². Our preset looks at frames one by one, so that it cannot pass the bound but by bias.
LocalisationNet looks at neighbouring frames too. A resting bubble is then seen many times over, and the bound of one
frame is no bound for the network there; nor is it for a drifting bubble, to a method that knows how bubbles move.

Run:  python benchmarks/cramer_rao.py --work build/referee [--calibration FILE] [--json FILE]
"""

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from counting_bubbles import score_bubbles
from localisation_comparison import LOCALISATION_WEIGHTS, compared_methods
from machine import describe_machine
from pooling import Table, publish, table
from pooling_bubbles import pool_bubbles
from referee import PRESETS, Method, fingerprint

from sparse_ulm.acquisition import Geometry
from sparse_ulm.io.registry import save_recording
from sparse_ulm.io.truth import write_truth
from sparse_ulm.simulation.imaging import FWHM_PER_SIGMA, GaussianPsf, nominal_carrier_rad_m, render
from sparse_ulm.simulation.noise import complex_normal
from sparse_ulm.simulation.tracks import Tracks, join_tracks

SNRS_DB = (10.0, 15.0, 20.0, 25.0, 30.0)
SEED = 7301
FWHM_WAVELENGTHS, VOXEL_WAVELENGTHS = (2.0, 2.0, 1.1), (0.5, 0.5, 0.4)
"""Nominal widths of configs/inference.yaml and classical.yaml; middle of what simulate.yaml draws."""

FREQUENCY_HZ, FRAME_RATE_HZ, SOUND_SPEED_M_S = 12.0e6, 700.0, 1540.0
SPACING_VOXEL = (13, 13, 10)
"""Three PSF widths are 12, 12 and 8.25 voxels; places vary by up to a voxel between two bubbles."""

SPEED_VOXEL = {"resting": 0.0, "drifting": 0.05}
"""Voxels per frame; 2.2 mm/s at this frame rate and voxel size, as in a vessel of 20 µm."""

TARGET = 1.5
GATE = "lambda_2"


def geometry() -> Geometry:
    """Give the grid's place."""
    wavelength_m = SOUND_SPEED_M_S / FREQUENCY_HZ
    x, y, z = (step * wavelength_m for step in VOXEL_WAVELENGTHS)
    return Geometry.from_voxel_size(
        (x, y, z),
        (0.0, 0.0, 8.0e-3),
        frame_rate_hz=FRAME_RATE_HZ,
        transmit_frequency_hz=FREQUENCY_HZ,
        sound_speed_m_s=SOUND_SPEED_M_S,
    )


def psf_of(place: Geometry) -> GaussianPsf:
    """Give the nominal point-spread function."""
    fwhm_m = np.asarray(FWHM_WAVELENGTHS) * place.wavelength_m
    return GaussianPsf(fwhm_m, np.zeros(2), nominal_carrier_rad_m(place))


def draw_bubbles(
    rng: np.random.Generator, place: Geometry, *, per_axis: Sequence[int], n_frames: int, speed_voxel: float
) -> Tracks:
    """Draw a lattice of bubbles of amplitude 1 and random phase, each uniform in a voxel, that drift together.

    Args:
        rng: Source of all randomness.
        place: Of the grid.
        per_axis: Bubbles along x, y and z.
        n_frames: Frames that every bubble is there.
        speed_voxel: Voxels per frame, in a random direction; the middle frame is where the lattice lies.
    """
    corner = np.array(list(itertools.product(*map(range, per_axis)))) * SPACING_VOXEL
    start = corner + (np.asarray(SPACING_VOXEL) - 1) // 2 + rng.uniform(-0.5, 0.5, size=(len(corner), 3))
    direction = rng.normal(size=3)
    step = speed_voxel * direction / np.linalg.norm(direction)
    time_frames = np.arange(n_frames)
    position = start[:, None] + (time_frames - n_frames // 2)[:, None] * step
    tracks = join_tracks([time_frames] * len(start), [place.to_scanner_m(one) for one in position])
    phase = rng.uniform(-np.pi, np.pi, size=len(start))
    return replace(tracks, phase_rad=phase[tracks.track_id])


def make_isolated(work: Path, *, snr_db: float, motion: str, args: argparse.Namespace) -> Path:
    """Simulate the recordings of one SNR, or find them made; SNR is the bubble's peak over the noise rms."""
    asked = ["isolated", snr_db, SPEED_VOXEL[motion], args.seed, args.per_axis, args.n_frames, args.n_recordings]
    asked += [FWHM_WAVELENGTHS, VOXEL_WAVELENGTHS, FREQUENCY_HZ, FRAME_RATE_HZ, SPACING_VOXEL]
    folder = work / "recordings" / fingerprint(asked)
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    place, shape = geometry(), grid_shape(args.per_axis)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial.") as temporary:
        partial = Path(temporary) / folder.name
        partial.mkdir()
        for index in range(args.n_recordings):
            rng = np.random.default_rng(np.random.SeedSequence(args.seed, spawn_key=(index,)))
            tracks = draw_bubbles(
                rng, place, per_axis=args.per_axis, n_frames=args.n_frames, speed_voxel=SPEED_VOXEL[motion]
            )
            frames = render(tracks, psf_of(place), shape, args.n_frames, place)
            frames += np.float32(10.0 ** (-snr_db / 20.0)) * complex_normal(rng, frames.shape)
            write_truth(partial / f"isolated_{index:04d}_truth.csv", tracks, place)
            save_recording(partial / f"isolated_{index:04d}.nii", frames, place)
        os.replace(partial, folder)
    return folder


def grid_shape(per_axis: Sequence[int]) -> tuple[int, int, int]:
    """Give the voxels that hold so many bubbles along each axis."""
    x, y, z = (n * step for n, step in zip(per_axis, SPACING_VOXEL, strict=True))
    return x, y, z


def bound_m(
    psf: GaussianPsf, place: Geometry, shape: tuple[int, int, int], position_voxel: np.ndarray, noise_rms: float
) -> np.ndarray:
    """Give the Cramér–Rao bound of the position of a bubble of amplitude 1 in one frame.

    Args:
        psf: Without tilt; its widths and its carrier are known.
        place: Of the grid.
        shape: Of the grid; an image that its faces cut tells less.
        position_voxel: (3,) where the bubble is.
        noise_rms: Root of E|n|² of white complex noise.

    Returns:
        (3,) smallest standard deviations along x, y and z, in metres, of estimates without bias.
    """
    image = image_of(psf, place, shape, position_voxel)
    step = np.asarray(place.voxel_size_m)
    offset = [(np.arange(n) - p) * d for n, p, d in zip(shape, position_voxel, step, strict=True)]
    slope = np.meshgrid(*(u / s**2 for u, s in zip(offset, psf.fwhm_m / FWHM_PER_SIGMA, strict=True)), indexing="ij")
    # d/dp exp(-(r - p)² / 2s² + jq(r - p)) = ((r - p) / s² - jq) times it.
    by_position = [image * (g - 1j * q) for g, q in zip(slope, psf.carrier_rad_m, strict=True)]
    jacobian = np.stack([*by_position, image, 1j * image], axis=-1).reshape(-1, 5)
    fisher = 2.0 / noise_rms**2 * (jacobian.conj().T @ jacobian).real
    return np.sqrt(np.diagonal(np.linalg.inv(fisher))[:3])


def image_of(psf: GaussianPsf, place: Geometry, shape: tuple[int, int, int], position_voxel: np.ndarray) -> np.ndarray:
    """Render one bubble of amplitude 1, complex128."""
    at = place.to_scanner_m(np.asarray(position_voxel, dtype=float)[None])
    one = join_tracks([np.zeros(1, dtype=np.int64)], [at])
    return render(one, psf, shape, 1, place)[..., 0].astype(np.complex128)


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Score every method on isolated bubbles; one row per motion, SNR and method."""
    place, shape = geometry(), grid_shape(args.per_axis)
    middle = np.asarray(shape) // 2 + np.array([0.1, 0.2, 0.3])
    # At 2 to 5 samples per width the place inside the voxel changes the bound by less than a thousandth.
    unit_m = bound_m(psf_of(place), place, shape, middle, 1.0)
    rows = []
    for motion, snr_db in itertools.product(SPEED_VOXEL, args.snrs_db):
        folder = make_isolated(args.work, snr_db=snr_db, motion=motion, args=args)
        bound_um = 1e6 * 10.0 ** (-snr_db / 20.0) * unit_m
        for method in compared_methods(args):
            scores = pool_bubbles(score_bubbles(args.work, method, folder)["recordings"])
            rows.append(_row(motion, snr_db, method, bound_um, scores))
    return rows


def _row(motion: str, snr_db: float, method: Method, bound_um: np.ndarray, scores: dict[str, Any]) -> dict[str, Any]:
    rmse_um = [scores[f"rmse_{axis}_um_{GATE}"] for axis in "xyz"]
    over = [None if e is None else e / float(b) for e, b in zip(rmse_um, bound_um, strict=True)]
    told = {"motion": motion, "snr_db": snr_db, "method": method.name, "bound_um": bound_um.tolist(), "over": over}
    return told | {"rmse_um": rmse_um, "scores": scores}


def bound_table(rows: list[dict[str, Any]]) -> Table:
    """Lay the errors out beside the bound."""
    header = ("bubbles", "SNR (dB)", "method", "precision λ/2", "recall λ/2", "bound x, y, z (µm)", "RMSE x, y, z (µm)",
              "bias x, y, z (µm)", "RMSE / bound x", "y", f"z (target: {TARGET})")  # fmt: skip

    def cell(value: float | None, digits: int = 2) -> str:
        return "—" if value is None else f"{value:.{digits}f}"

    return table(
        header,
        (
            (r["motion"], f"{r['snr_db']:g}", r["method"], cell(r["scores"][f"bubble_precision_{GATE}"]),
             cell(r["scores"][f"bubble_recall_{GATE}"]), ", ".join(cell(b) for b in r["bound_um"]),
             ", ".join(cell(e) for e in r["rmse_um"]),
             ", ".join(cell(r["scores"][f"bias_{axis}_um_{GATE}"]) for axis in "xyz"), *(cell(o) for o in r["over"]))
            for r in rows
        ),
    )  # fmt: skip


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Run the comparison; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps what is finished")
    parser.add_argument("--localisation_weights", nargs="*", default=[str(LOCALISATION_WEIGHTS)])
    parser.add_argument("--presets", nargs="*", default=[PRESETS[0]], help="of configs/classical.yaml")
    parser.add_argument("--calibration", type=Path, metavar="FILE", help="of localisation_comparison.py --calibrate")
    parser.add_argument("--snrs_db", nargs="+", type=float, default=list(SNRS_DB), help="bubble's peak over noise rms")
    parser.add_argument("--per_axis", nargs=3, type=int, default=[3, 3, 3], help="bubbles along x, y, z")
    parser.add_argument("--n_frames", type=int, default=32)
    parser.add_argument("--n_recordings", type=int, default=2, help="per motion and SNR")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--json", help="also write machine, settings, numbers and tables there")
    parser.set_defaults(weights=[], network=[])
    args = parser.parse_args(arguments)
    started, record = time.monotonic(), describe_machine()
    rows = measure(args)
    tables = {"cramer_rao": bound_table(rows)}
    publish(args, rows, tables, record=record, started=started)
    return rows


if __name__ == "__main__":
    main()
