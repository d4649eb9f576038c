"""Maps of moving tissue: how much of what motion takes does `motion` give back, against the same recording at rest.

Bubbles of simulated recordings (configs/simulate.yaml, graphs of `--vessels`) are imaged anew in tissue made of single
scatterers, `TISSUE_DB` above them, and all of it moves with a breath: a shift of one wavelength along depth and half a
wavelength along x with a turn of one degree, or the same with a bulge of half a wavelength round the middle. Bubbles
are scored where they would be at rest. Methods run through configs/inference.yaml and configs/classical.yaml, with the
clutter filter that chooses its own number of components (`adaptive`), and `motion` none, rigid and non_rigid. A second
table compares the estimates themselves with the truth, for windows of several lengths.

Run:  python benchmarks/motion.py --work build/referee --vessels seg4.swc [--json FILE]
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from counting_bubbles import score_bubbles
from machine import ROOT, describe_machine
from physics.moving_tissue import Field, Imaging, Phantom, breath, still
from pooling import Table, publish, shown, table
from pooling_bubbles import bubbles_over_seeds
from referee import PRESETS, Method, add_arguments, fingerprint, make_recordings

from sparse_ulm.acquisition import Acquisition
from sparse_ulm.blocks import truth_of
from sparse_ulm.io import find_recordings, open_recording, save_recording
from sparse_ulm.motion import Motion, MotionSettings
from sparse_ulm.motion_estimation import report_motion

SEED = 7901
TISSUE_DB, SNR_DB = 20.0, 20.0
"""Tissue rms over the median bubble peak, and that over noise."""

FWHM_WAVELENGTHS = np.array([2.0, 2.0, 1.1])
BREATHS_HZ = 4.0
"""Two breaths in half a second of recording, as of a mouse in haste: several windows of motion in each."""

MOTIONS = ("none", "rigid", "non_rigid")
SETTINGS: dict[str, Any] = {"n_tissue_components": "adaptive", "clutter_window_frames": 128, "motion_window_frames": 8}
WINDOWS = (16, 8)


def fields(acquisition: Acquisition) -> dict[str, Field]:
    """Give the ways of moving, for a recording's grid and wavelength."""
    geometry = acquisition.geometry
    lam, rate_hz = geometry.wavelength_m, geometry.frame_rate_hz
    centre_m = 0.5 * (np.array(acquisition.shape[:3]) - 1) * geometry.voxel_size_m
    pushed = {"shift_m": (0.5 * lam, 0.0, lam), "turn_rad": np.radians(1.0), "centre_m": centre_m.tolist()}
    return {
        "at rest": still,
        "breath": breath(rate_hz, **pushed, bulge_m=0.0, breaths_hz=BREATHS_HZ),
        "breath with a bulge": breath(rate_hz, **pushed, bulge_m=0.5 * lam, breaths_hz=BREATHS_HZ),
    }


def moving_recordings(work: Path, source: Path, way: str) -> Path:
    """Image the bubbles of a folder of recordings anew in moving tissue, or find it done."""
    code = fingerprint([Path(__file__), ROOT / "benchmarks" / "physics" / "moving_tissue.py"])
    folder = work / "recordings" / fingerprint([source, way, code])
    if folder.is_dir():
        return folder
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial.") as temporary:
        partial = Path(temporary) / folder.name
        partial.mkdir()
        for number, path in enumerate(find_recordings(source)):
            acquisition = open_recording(path)
            save_recording(partial / f"{acquisition.name}.nii", _image(acquisition, way, number), acquisition.geometry)
            truth = f"{acquisition.name}_truth.csv"
            (partial / truth).write_bytes((source / truth).read_bytes())
        (partial / "simulation.json").write_bytes((source / "simulation.json").read_bytes())
        os.replace(partial, folder)
    return folder


def _image(acquisition: Acquisition, way: str, seed: int) -> np.ndarray:
    """Make the frames of one recording."""
    geometry, truth = acquisition.geometry, truth_of(acquisition)
    step_m = np.array(geometry.voxel_size_m)
    imaging = Imaging(acquisition.shape[:3], step_m, FWHM_WAVELENGTHS * geometry.wavelength_m, geometry.wavelength_m)
    phantom = Phantom(fields(acquisition)[way], imaging, seed=seed)
    peak = 10.0 ** (-TISSUE_DB / 20.0)
    phase = np.exp(2j * np.pi * phantom.rng.uniform(size=truth.track_id.max() + 1))
    amplitude = truth.amplitude if truth.amplitude is not None else np.ones(len(truth))
    echo = (amplitude / np.median(amplitude) * peak * phase[truth.track_id]).astype(np.complex64)

    def bubbles(frame: int) -> tuple[np.ndarray, np.ndarray]:
        here = truth.frame == frame
        return truth.position_voxel[here] * step_m, echo[here]

    return phantom.frames(acquisition.n_frames, bubbles, noise=peak * 10.0 ** (-SNR_DB / 20.0))


def methods() -> list[tuple[str, str, Method]]:
    """List LocalisationNet and our preset with every kind of motion correction."""
    weights = {"weights": ROOT / "models" / "localisation.pt"}
    return [
        (name, motion, Method(name, config, {**options, **SETTINGS, "motion": motion}))
        for name, config, options in (
            ("LocalisationNet", "inference.yaml", weights),
            (PRESETS[0], "classical.yaml", {"preset": PRESETS[0]}),
        )
        for motion in MOTIONS
    ]


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Score everything; one row per way of moving, method and kind of correction."""
    sources = _sources(args)
    rows = []
    for way in args.ways:
        folders = [moving_recordings(args.work, source, way) for source in sources]
        for name, motion, method in methods():
            if way != "at rest" or motion == "none":
                scores = bubbles_over_seeds([score_bubbles(args.work, method, folder) for folder in folders])
                rows.append({"way": way, "method": name, "motion": motion} | scores)
    return rows


def _sources(args: argparse.Namespace) -> list[Path]:
    """Simulate the bubbles, or find them made: a folder per seed."""
    return [
        make_recordings(
            args.work,
            vessels=args.vessels,
            seed=seed,
            grid_size=args.grid_size,
            n_frames=args.n_frames,
            n_recordings=args.n_recordings,
            n_workers=args.workers,
            bubbles_per_psf_volume=[args.bubbles_per_psf_volume] * 2,
            frame_rate_hz=[500.0, 500.0],
        )
        for seed in args.seeds
    ]


def measure_estimates(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Compare estimates with the truth on the first recording of the first seed; lengths in micrometres."""
    source = _sources(args)[0]
    rows = []
    for way in args.ways:
        recording = find_recordings(moving_recordings(args.work, source, way))[0]
        acquisition = open_recording(recording)
        field, places_m = fields(acquisition)[way], _places_m(acquisition)
        for kind in MOTIONS[1:]:
            for window in WINDOWS:
                settings = MotionSettings.of({"kind": kind, "window_frames": window, "limit_mm": None})
                with tempfile.TemporaryDirectory() as folder:
                    motion = report_motion(Path(folder), acquisition, settings)
                rows.append({"way": way, "motion": kind, "window": window} | _errors(motion, field, places_m))
    return rows


def _places_m(acquisition: Acquisition) -> np.ndarray:
    """Give (n, 3) places over the inner part of the grid, from its first voxel."""
    shape, step_m = acquisition.shape[:3], np.array(acquisition.geometry.voxel_size_m)
    axes = [np.linspace(0.15, 0.85, 4) * (size - 1) for size in shape]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3) * step_m


def _errors(motion: Motion, field: Field, places_m: np.ndarray) -> dict[str, float]:
    """Give how far places are from where they were in the reference, before and after correction."""
    origin_m = motion.geometry.matrix_m[:3, 3]
    reference_m = np.mean([places_m + field(places_m, frame) for frame in range(*motion.reference_frames)], axis=0)
    moved, left = [], []
    for frame in range(len(motion.rejected)):
        here_m = places_m + field(places_m, frame)
        back_m = motion.to_reference(here_m + origin_m, np.full(len(places_m), frame)) - origin_m
        moved.append(((here_m - reference_m) ** 2).sum(axis=1).mean())
        left.append(((back_m - reference_m) ** 2).sum(axis=1).mean())
    both = {"moved": np.sqrt(moved) * 1e6, "left": np.sqrt(left) * 1e6}
    return {f"{key}_{name}": float(f(x)) for key, x in both.items() for name, f in (("rms", _rms), ("most", np.max))}


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt((values**2).mean()))


def estimate_table(rows: list[dict[str, Any]]) -> Table:
    """Lay the lengths out."""
    header = ("tissue", "motion", "window, frames", "moved, rms µm", "at most", "left, rms µm", "at most")
    keys = ("moved_rms", "moved_most", "left_rms", "left_most")
    return table(header, ([r["way"], r["motion"], r["window"], *(f"{r[key]:.1f}" for key in keys)] for r in rows))


def motion_table(rows: list[dict[str, Any]]) -> Table:
    """Lay out scores, and the share of the loss that is won back."""
    header = (
        "tissue", "method", "motion", "Dice λ/10", "of that at rest", "Jaccard of bubbles λ/4", "λ/2", "speed / truth",
    )  # fmt: skip
    rest = {row["method"]: row["dice_lambda_10"]["mean"] for row in rows if row["way"] == "at rest"}
    return table(
        header,
        (
            [
                row["way"],
                row["method"],
                row["motion"],
                shown(row["dice_lambda_10"]),
                f"{row['dice_lambda_10']['mean'] / rest[row['method']]:.2f}" if row["method"] in rest else "",
                *(shown(row[f"bubble_jaccard_{gate}"]) for gate in ("lambda_4", "lambda_2")),
                shown(row["speed_ratio_lambda_10"], 2),
            ]
            for row in rows
        ),
    )


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Run the comparison; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, n_recordings=2, grid_size=(20, 20, 24), seed=SEED)
    parser.set_defaults(n_frames=512)
    parser.add_argument("--bubbles_per_psf_volume", type=float, default=0.02)
    parser.add_argument("--ways", nargs="+", default=["at rest", "breath", "breath with a bulge"])
    args = parser.parse_args(arguments)
    started, record = time.monotonic(), describe_machine()
    rows, estimates = measure(args), measure_estimates(args)
    tables = {"motion": motion_table(rows), "motion_estimates": estimate_table(estimates)}
    publish(
        args,
        {"maps": rows, "estimates": estimates},
        tables,
        record=record,
        started=started,
        without=("weights", "network", "presets"),
    )
    return rows


if __name__ == "__main__":
    main()
