"""Time and memory of inference on one block of the method's size: 32x32x32 voxels x 512 frames, 30 bubbles.

    python benchmarks/inference_block.py [--weights FILE] [--threads 2] [--quick] [--json FILE]

Simulates the recording (synthetic vessels, fixed seed), then runs configs/inference.yaml on it through
`python -m monai.bundle run` in a process of its own. Prints the machine and one table: wall and CPU seconds and peak
resident memory of that process from start to end (interpreter, imports, reading, writing of maps and picture included),
seconds of the work alone as provenance.json has them, threads, blocks and kept sites per block; with the targets,
60 s on 2 cores and 3 GB. `--quick` takes 16x16x16x128, to see that it runs: targets do not apply.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import ROOT, Run, describe_machine, machine_line, run_measured, write_json
from monai.bundle import ConfigParser
from pooling import Table, markdown, settings_of, table

from sparse_ulm.simulation import parameter_ranges, write_recordings

CONFIG = ROOT / "configs" / "inference.yaml"
TARGET_WALL_S = 60.0
TARGET_BYTES = 3.0e9
FULL, QUICK = (32, 512), (16, 128)
"""Voxels along each axis, and frames."""


def simulate(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Write one recording; give what was drawn for it."""
    ranges = parameter_ranges(
        grid_size=[args.grid] * 3, n_frames=args.frames, n_bubbles=args.bubbles, snr_db=args.snr_db
    )
    summary = write_recordings(
        folder, n_recordings=1, vessels="synthetic", seed=args.seed, ranges=ranges, file_format="nii"
    )
    return json.loads(summary.read_text(encoding="utf-8"))["recordings"][0]


def sites_per_block(dataset_dir: Path) -> list[int]:
    """Count the sites that the config's own preprocessing keeps of every block."""
    parser = ConfigParser()
    parser.read_config(str(CONFIG))
    parser["dataset_dir"] = str(dataset_dir)
    parser["bundle_root"] = str(ROOT)
    return [len(block["image"]) for block in parser.get_parsed_content("dataset")]


def run_inference(dataset_dir: Path, output_dir: Path, args: argparse.Namespace) -> Run:
    """Run the shipped config as its users do, measured."""
    options = {
        "config_file": CONFIG,
        "bundle_root": ROOT,
        "dataset_dir": dataset_dir,
        "output_dir": output_dir,
        "weights": args.weights.resolve(),
        "n_threads": args.threads,
    }
    arguments = [text for key, value in options.items() for text in (f"--{key}", str(value))]
    return run_measured([sys.executable, "-m", "monai.bundle", "run", *arguments])


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Simulate, run, and gather the numbers."""
    with tempfile.TemporaryDirectory() as name:
        data, output = Path(name) / "data", Path(name) / "output"
        drawn = simulate(data, args)
        run = run_inference(data, output, args)
        provenance = json.loads(next(output.glob("*/provenance.json")).read_text(encoding="utf-8"))
        sites = sites_per_block(data)
    return {
        "wall_s": run.wall_s,
        "cpu_s": run.cpu_s,
        "peak_bytes": run.peak_bytes,
        "work_s": provenance["wall_time_s"],
        "threads": provenance["threads"],
        "engine": provenance["config"]["engine"],
        "weights_sha256": provenance["weights"]["sha256"],
        "sites_per_block": sites,
        "drawn": {key: drawn[key] for key in ("snr_db", "kernel", "n_bubbles", "psf_fwhm_m")},
    }


def cost_table(result: dict[str, Any], *, with_targets: bool) -> Table:
    """Lay the numbers out."""
    sites = result["sites_per_block"]

    def verdict(value: float, target: float, text: str) -> str:
        return f"{text}: {'reached' if value < target else 'MISSED'}" if with_targets else "-"

    rows = [
        ("wall time of the process", f"{result['wall_s']:.1f} s", verdict(result["wall_s"], TARGET_WALL_S, "< 60 s")),
        ("of it, the work", f"{result['work_s']:.1f} s", ""),
        ("CPU time", f"{result['cpu_s']:.1f} s", ""),
        ("peak memory", f"{result['peak_bytes'] / 1e9:.2f} GB", verdict(result["peak_bytes"], TARGET_BYTES, "< 3 GB")),
        ("threads", result["threads"], ""),
        ("blocks", len(sites), ""),
        ("kept sites per block, mean", f"{sum(sites) / len(sites):.0f}", ""),
        ("kept sites per block, most", max(sites), ""),
    ]
    return table(("", "measured", "target"), rows)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Run the benchmark; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=ROOT / "models" / "model.pt", help="of inference.yaml's sizes")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of PyTorch")
    parser.add_argument("--bubbles", type=int, default=30, help="in the field of view, in every frame")
    parser.add_argument("--snr_db", type=float, default=20.0, help="median bubble peak over noise rms")
    parser.add_argument("--seed", type=int, default=1, help="of the simulation")
    parser.add_argument("--quick", action="store_true", help="16x16x16x128")
    parser.add_argument("--json", help="also write machine and numbers there")
    args = parser.parse_args(arguments)
    args.grid, args.frames = QUICK if args.quick else FULL
    if not args.weights.is_file():
        parser.error(f"{args.weights} does not exist; train with configs/train.yaml or pass --weights")
    started, record = time.monotonic(), describe_machine()
    print(machine_line(record))
    result = measure(args)
    size = f"{args.grid}x{args.grid}x{args.grid}x{args.frames}"
    print(f"{size}, {args.bubbles} bubbles, {args.snr_db:g} dB, seed {args.seed}\n")
    tables = {"inference_block": cost_table(result, with_targets=not args.quick)}
    print(markdown(tables["inference_block"]))
    minutes = (time.monotonic() - started) / 60
    write_json(args.json, record, minutes=minutes, settings=settings_of(args), result=result, tables=tables)
    return result


if __name__ == "__main__":
    main()
