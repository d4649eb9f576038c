"""How long one must record: completeness of the map over seconds of recording, by concentration and method.

For each of `--seeds` the same vessels under the same probe are recorded once per concentration, `--n_frames` at
`--frame_rate_hz` (configs/simulate.yaml: a seed draws its vessels before its bubbles). Each recording is cut to its
first 1, 2, 4, ... blocks of 128 frames, and every method makes the map of each beginning, as if recording had stopped
there.

The vessels' truth is the union of the trajectories of all bubbles of all concentrations' whole recordings, `--fill`
included, one that is only simulated for this: many times more bubbles than any one recording shows. Completeness is
the share of its voxels that the map has within λ/10; precision the share of the map's voxels that lie that near to it.
"Truth" is what a method without any error would have: the trajectories of the beginning itself.

Equal completeness: levels are shares of the largest completeness that the conventional pipeline reaches at any
concentration. Each method has the concentration that gets it there first. The factor is the conventional time over the
network's, per seed (straight lines over the logarithm of time), then mean ± standard deviation. A second table takes
the Dice λ/10 against the vessels in place of completeness, which a map of false voxels could also have.

Run:  python benchmarks/acquisition_time.py --work build/referee --vessels seg4.swc [--json FILE] [--figure FILE]
"""

import argparse
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from completeness import TRUTH, compare, curve_table, factor_table
from counting import agreement
from figures import draw_completeness, named_in_docs
from machine import ROOT, describe_machine, machine_line, write_json
from pooling import markdown, settings_of
from referee import (
    OURS,
    Method,
    add_arguments,
    config_values,
    fingerprint,
    load_json,
    make_recordings,
    maps_alone,
    methods_of,
    run_config,
    save_json,
)

from sparse_ulm.acquisition import Acquisition
from sparse_ulm.blocks import truth_of
from sparse_ulm.conventions import UPSAMPLING
from sparse_ulm.evaluate import read_map
from sparse_ulm.io import find_recordings, open_recording
from sparse_ulm.io.registry import save_recording
from sparse_ulm.mapping.truth_map import trajectory_voxels
from sparse_ulm.metrics import scores_from_counts

CONCENTRATIONS = (0.02, 0.05, 0.1, 0.2, 0.5)
FILL = 1.0
SEED = 7301
BLOCK_FRAMES = 128


def make_series(args: argparse.Namespace, seed: int) -> dict[float, Acquisition]:
    """Record the same vessels at every concentration, that of `--fill` last."""
    series = {}
    for concentration in (*args.concentrations, args.fill):
        folder = make_recordings(
            args.work, vessels=args.vessels, seed=seed, n_recordings=1, grid_size=args.grid_size,
            n_frames=args.n_frames, frame_rate_hz=args.frame_rate_hz, snr_db=args.snr_db,
            bubbles_per_psf_volume=[concentration, concentration], n_workers=1,
        )  # fmt: skip
        series[concentration] = open_recording(find_recordings(folder)[0])
    return series


def refinement(recording: Acquisition) -> tuple[int, int, int]:
    """Give the refinement of a map over its recording, per axis."""
    return UPSAMPLING, UPSAMPLING if recording.spatial_dims == 3 else 1, UPSAMPLING


def visited(recording: Acquisition, n_frames: int) -> np.ndarray:
    """List the voxels of the refined grid that bubbles visit in the first frames."""
    truth, factor = truth_of(recording), refinement(recording)
    x, y, z = (size * f for size, f in zip(recording.shape[:3], factor, strict=True))
    return trajectory_voxels(
        truth.position_voxel, truth.track_id, truth.frame, factor=factor, shape=(x, y, z), start=0, stop=n_frames
    )


def beginnings(n_frames: int) -> list[int]:
    """List 1, 2, 4, ... blocks of frames, and all.

    >>> beginnings(700)
    [128, 256, 512, 700]
    """
    doublings = range(max(0, math.ceil(math.log2(n_frames / BLOCK_FRAMES))))
    return [*(BLOCK_FRAMES * 2**i for i in doublings), n_frames]


def map_of_beginning(method: Method, recording: Acquisition, n_frames: int) -> np.ndarray:
    """Run a method on the first frames alone and list the voxels of its map."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "in" / f"{recording.name}.nii"
        save_recording(path, np.asarray(recording.frames(0, n_frames)), recording.geometry)
        run_config(
            method.config, dataset_dir=path.parent, output_dir=Path(folder) / "out", **maps_alone(), **method.options
        )
        made = Path(folder) / "out" / recording.name / f"{recording.name}_density.nii.gz"
        density, _ = read_map(made, recording.geometry)
    return np.argwhere(density > 0)


def measure_seed(args: argparse.Namespace, seed: int) -> list[dict[str, Any]]:
    """Score every method, concentration and beginning of one seed's vessels."""
    series = make_series(args, seed)
    vessels = np.unique(np.concatenate([visited(one, one.n_frames) for one in series.values()]), axis=0)
    rows = []
    for concentration in args.concentrations:
        recording = series[concentration]
        for method in (None, *methods_of(args)):
            for n_frames in beginnings(recording.n_frames):
                counts = _counts(args.work, method, recording, n_frames, vessels)
                scores = scores_from_counts(*counts["lambda_10"])
                rows.append(
                    {"seed": seed, "concentration": concentration, "method": method.name if method else TRUTH,
                     "is_network": bool(method and method.is_network),
                     "seconds": n_frames / recording.geometry.frame_rate_hz,
                     "completeness": scores["recall"], "precision": scores["precision"], "dice": scores["dice"]}
                )  # fmt: skip
    return rows


def _counts(
    work: Path, method: Method | None, recording: Acquisition, n_frames: int, vessels: np.ndarray
) -> dict[str, list[int]]:
    """Count what the map of a beginning and the vessels share, or find that done; None is the truth itself."""
    asked = [method.config, method.options, config_values(method.config)] if method else [TRUTH]
    key = fingerprint([*asked, recording.path.parent, n_frames, fingerprint(vessels.sum(axis=0).tolist())])
    path = work / "scores" / f"{key}.json"
    if not path.is_file():
        found = map_of_beginning(method, recording, n_frames) if method else visited(recording, n_frames)
        x, y, z = recording.geometry.refined(refinement(recording)).voxel_size_m
        save_json(path, agreement(found, vessels, (x, y, z), recording.geometry.wavelength_m))
    return load_json(path)


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Run the comparison; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, n_recordings=1, grid_size=(24, 24, 24), seed=SEED)
    parser.set_defaults(n_frames=2048, presets=list(OURS))
    parser.add_argument("--concentrations", nargs="+", type=float, default=list(CONCENTRATIONS))
    parser.add_argument("--fill", type=float, default=FILL, help="concentration that only fills the vessels")
    parser.add_argument("--frame_rate_hz", type=float, default=500.0)
    parser.add_argument("--snr_db", type=float, default=20.0)
    parser.add_argument("--figure", type=Path, default=ROOT / "docs" / "figures" / "acquisition_time.png")
    args = parser.parse_args(arguments)
    started, record = time.monotonic(), describe_machine()
    rows = [row for seed in args.seeds for row in measure_seed(args, seed)]
    tables = {
        "acquisition_time": factor_table(compare(rows)),
        "acquisition_time_dice": factor_table(compare(rows, "dice")),
        "acquisition_time_curves": curve_table(rows),
    }
    print(machine_line(record), *map(markdown, tables.values()), sep="\n\n")
    draw_completeness(rows, args.figure)
    minutes, figures = (time.monotonic() - started) / 60, named_in_docs("acquisition_time", args.figure.absolute())
    write_json(
        args.json, record, minutes=minutes, settings=settings_of(args), results=rows, tables=tables, figures=figures
    )
    return rows


if __name__ == "__main__":
    main()
