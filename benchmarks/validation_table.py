"""The validation table: variants of TrajectoryMapNet on recordings of an unseen vessel graph, at three concentrations.

Prints, per trained variant and concentration, the Dice of the maps voxel exact and within a tenth of the wavelength,
precision and recall within that tolerance, seconds per block and sites of the finest grid; as Markdown, and as JSON
with `--json`. The recordings are simulated here from `--vessels` and a fixed seed: anybody gets the same ones.

Run:  python benchmarks/validation_table.py --vessels seg4.swc --runs plain=runs/plain cascade=runs/cascade
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser

from sparse_ulm.blocks import RecordingBlocks
from sparse_ulm.checkpoint import load_weights, read_checkpoint
from sparse_ulm.metrics import overlap_counts, scores_from_counts
from sparse_ulm.simulation import ParameterRanges, write_recordings

ROOT = Path(__file__).parents[1]
CONCENTRATIONS = (0.01, 0.05, 0.2)
SEED = 3001


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Simulate, predict, score and print; returns the rows."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for concentration in CONCENTRATIONS:
            simulate(Path(folder) / str(concentration), concentration, options)
        for run in options.runs:
            variant, _, path = run.partition("=")
            for concentration in CONCENTRATIONS:
                data = Path(folder) / str(concentration)
                rows.append(score(variant, Path(path), data, options) | {"concentration": concentration})
    print(markdown(rows))
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1))
    return rows


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", required=True, help="VARIANT=FOLDER with model.pt (and last.pt)")
    parser.add_argument("--vessels", nargs="+", default=["synthetic"], help="SWC files, or synthetic")
    parser.add_argument("--n_recordings", type=int, default=6, help="per concentration")
    parser.add_argument("--grid_size", type=int, nargs=3, default=[16, 16, 16])
    parser.add_argument("--n_frames", type=int, default=128)
    parser.add_argument("--noise_measure", default="faintest", help="the one that the runs were trained with")
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json")
    return parser.parse_args(arguments)


def simulate(folder: Path, concentration: float, options: argparse.Namespace) -> None:
    """Write the recordings of one concentration."""
    x, y, z = options.grid_size
    ranges = ParameterRanges(
        grid_size=(x, y, z), n_frames=options.n_frames, bubbles_per_psf_volume=(concentration, concentration)
    )
    vessels = options.vessels[0] if len(options.vessels) == 1 else options.vessels
    write_recordings(
        folder, vessels=vessels, ranges=ranges, n_recordings=options.n_recordings, seed=SEED, file_format="nii"
    )


def score(variant: str, run: Path, data: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Score the maps of one trained variant on one folder of recordings, voxels pooled over all blocks."""
    config = ConfigParser(ConfigParser.load_config_file(ROOT / "configs" / "train.yaml"))
    config["variant"], config["bundle_root"], config["max_kept_sites"] = variant, str(ROOT), 200_000
    config["noise_measure"] = options.noise_measure
    network = config.get_parsed_content("network_def")
    load_weights(network, run / "model.pt")
    network.eval()
    prepare = config.get_parsed_content("preprocessing")
    exact, tolerant = np.zeros(4), np.zeros(4)
    seconds, sites, n_blocks = 0.0, 0, 0
    for item in RecordingBlocks(data, block_frames=config["block_frames"], with_truth=True):
        block = prepare(item)
        started = time.perf_counter()
        with torch.no_grad():
            final = network(block["image"]).final
        seconds += time.perf_counter() - started
        predicted = final.coords[final.feats[:, 0].sigmoid() > options.threshold][:, 1:4].long().numpy()
        truth = np.unique(block["label"][:, :3].numpy(), axis=0).astype(np.int64)
        voxel_size_m = block["geometry"].refined(network.upsampling).voxel_size_m
        tolerance_m = 0.1 * block["geometry"].wavelength_m
        exact += overlap_counts(predicted, truth, voxel_size_m=voxel_size_m, tolerance_m=0.0)
        tolerant += overlap_counts(predicted, truth, voxel_size_m=voxel_size_m, tolerance_m=tolerance_m)
        sites, n_blocks = sites + len(final), n_blocks + 1
    last = run / "last.pt"
    return {
        "variant": variant,
        "dice": scores_from_counts(*exact)["dice"],
        "dice_lambda_10": scores_from_counts(*tolerant)["dice"],
        "precision_lambda_10": scores_from_counts(*tolerant)["precision"],
        "recall_lambda_10": scores_from_counts(*tolerant)["recall"],
        "seconds_per_block": seconds / n_blocks,
        "finest_sites_per_block": sites / n_blocks,
        "n_blocks": n_blocks,
        "cpu_minutes": read_checkpoint(last).get("cpu_minutes", float("nan")) if last.exists() else float("nan"),
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """Lay the rows out as a Markdown table."""
    lines = [
        "| variant | bubbles per PSF volume | Dice | Dice λ/10 | precision λ/10 | recall λ/10 | s per block | "
        "finest sites | CPU minutes trained |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['variant']} | {r['concentration']} | {r['dice']:.3f} | {r['dice_lambda_10']:.3f} | "
        f"{r['precision_lambda_10']:.3f} | {r['recall_lambda_10']:.3f} | {r['seconds_per_block']:.2f} | "
        f"{r['finest_sites_per_block']:.0f} | {r['cpu_minutes']:.0f} |"
        for r in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
