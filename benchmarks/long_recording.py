"""Memory and time of inference on recordings of many frames: peak memory must not grow with them.

    python benchmarks/long_recording.py --work DIR [--grid 128] [--frames 1000 3000 10000] [--json FILE]

Simulates `--base_frames` frames of one recording (fixed seed) and makes of them recordings of any length, MATLAB v7.3
files whose frames are those, there and back in turns, so that bubbles move on without a jump. HDF5's virtual data sets
read them all from the one copy: a disk for 10,000 frames is not asked for, and the copy lies in the operating system's
cache, so that reading costs what decoding costs. Runs configs/inference.yaml on each in a process of its own and prints
its peak resident memory, wall and CPU seconds, and those that reading all frames takes, once, alone.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml
from machine import ROOT, describe_machine, run_measured
from pooling import Table, publish, table

from sparse_ulm.acquisition import block_ranges, memory_runs
from sparse_ulm.fit import estimate_fit
from sparse_ulm.io import atomic_path, find_recordings, open_recording
from sparse_ulm.simulation import parameter_ranges, write_recordings

RUN_BYTES = 256e6
"""`max_run_megabytes` of the configs."""

METHODS = ("localisation", "trajectory_map", "classical")
WEIGHTS = {"localisation": "localisation.pt", "trajectory_map": "model.pt"}
PAIR = np.dtype([("real", "<f4"), ("imag", "<f4")])


def simulate_base(args: argparse.Namespace) -> Path:
    """Write the frames that all recordings share, or find that done: a folder with `base.h5` and `geometry.json`."""
    folder = args.work / f"long-{args.grid}-{args.base_frames}-{args.bubbles_per_psf_volume}-{args.seed}"
    if (folder / "base.h5").is_file():
        return folder
    ranges = parameter_ranges(
        grid_size=[args.grid] * 3,
        n_frames=args.base_frames,
        bubbles_per_psf_volume=[args.bubbles_per_psf_volume] * 2,
        snr_db=[20.0, 20.0],
    )
    write_recordings(
        folder, n_recordings=1, vessels=args.vessels, seed=args.seed, ranges=ranges, file_format="npz", overwrite=True
    )
    recording = find_recordings(folder)[0]
    acquisition = open_recording(recording)
    geometry = acquisition.geometry
    stated = {
        "voxel_size_mm": [1e3 * size for size in geometry.voxel_size_m],
        "frame_rate_hz": geometry.frame_rate_hz,
        "transmit_frequency_hz": geometry.transmit_frequency_hz,
        "sound_speed_m_s": geometry.sound_speed_m_s,
    }
    (folder / "geometry.json").write_text(json.dumps(stated), encoding="utf-8")
    with atomic_path(folder / "base.h5") as temporary, h5py.File(temporary, "w") as file:
        x, y, z, t = acquisition.shape
        stored = file.create_dataset("IQ", (t, z, y, x), PAIR, chunks=(1, z, y, x))
        stored[:] = np.ascontiguousarray(acquisition.frames(0, t).T).view(PAIR)
    recording.unlink()
    return folder


def write_long(path: Path, base: Path, n_frames: int) -> None:
    """Write a recording of so many frames that takes no space."""
    with h5py.File(base, "r") as file:
        n_base, *shape = file["IQ"].shape
    source = h5py.VirtualSource(str(base.resolve()), "IQ", shape=(n_base, *shape), dtype=PAIR)
    layout = h5py.VirtualLayout(shape=(n_frames, *shape), dtype=PAIR)
    there_and_back = [*range(n_base), *range(n_base - 2, 0, -1)]
    for frame in range(n_frames):
        layout[frame] = source[there_and_back[frame % len(there_and_back)]]
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("IQ", layout)


def run_one(path: Path, method: str, args: argparse.Namespace) -> dict[str, Any]:
    """Run a method on a recording, measured."""
    geometry = json.loads((path.parent / "geometry.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(dir=path.parent) as output:
        given = {
            "config_file": ROOT / "configs" / "inference.yaml",
            "bundle_root": ROOT,
            "dataset_dir": path,
            "output_dir": output,
            "method": method,
            "maps": "[density]",
            "track_formats": "[csv]",
            "block_frames": args.block_frames,
            **geometry,
        }
        if method in WEIGHTS:
            given["weights"] = ROOT / "models" / WEIGHTS[method]
        texts = [text for key, value in given.items() for text in (f"--{key}", str(value))]
        run = run_measured([sys.executable, "-m", "monai.bundle", "run", *texts])
        written = sum(file.stat().st_size for file in Path(output).rglob("*") if file.is_file())
    return {"peak_bytes": run.peak_bytes, "wall_s": run.wall_s, "cpu_s": run.cpu_s, "written_bytes": written}


def seconds_to_read(path: Path, block_frames: int) -> float:
    """Read all frames block by block, as the runs do, and give the wall time."""
    geometry = json.loads((path.parent / "geometry.json").read_text(encoding="utf-8"))
    acquisition = open_recording(path, **geometry)
    started = time.monotonic()
    for start, stop in block_ranges(acquisition.n_frames, block_frames):
        for first, last in memory_runs(start, stop, n_bytes=RUN_BYTES, shape=acquisition.shape[:3]):
            acquisition.frames(first, last)
    return time.monotonic() - started


def estimated_bytes(path: Path, block_frames: int) -> float:
    """Give what `python -m sparse_ulm.doctor --recording` says of the memory."""
    geometry = json.loads((path.parent / "geometry.json").read_text(encoding="utf-8"))
    settings = yaml.safe_load((ROOT / "configs" / "inference.yaml").read_text(encoding="utf-8"))
    settings["block_frames"] = block_frames
    return estimate_fit(open_recording(path, **geometry), settings, output_dir=path.parent).memory


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Run every method on every length; one row each."""
    folder, rows = simulate_base(args), []
    for n_frames in args.frames:
        path = folder / f"frames_{n_frames}.mat"
        write_long(path, folder / "base.h5", n_frames)
        read_s = seconds_to_read(path, args.block_frames)
        estimated = {"estimated_bytes": estimated_bytes(path, args.block_frames)}
        for method in args.methods:
            rows.append(
                {"method": method, "n_frames": n_frames, "read_s": read_s} | estimated | run_one(path, method, args)
            )
            print(rows[-1], file=sys.stderr)
        path.unlink()
    return rows


def long_table(rows: list[dict[str, Any]], grid: int) -> Table:
    """Lay the numbers out."""
    header = (
        "method", "voxels", "frames", "peak memory, GB (target: below 4)", "against the shortest",
        "doctor's estimate, GB", "wall s per 1000 frames", "CPU s per 1000 frames",
        "of it reading, wall s", "outputs, MB",
    )  # fmt: skip
    least = {row["method"]: row["peak_bytes"] for row in reversed(rows)}
    return table(header, ([row["method"], f"{grid}³", row["n_frames"], *_numbers(row, least)] for row in rows))


def _numbers(row: dict[str, Any], least: dict[str, float]) -> list[str]:
    peak, thousands = row["peak_bytes"], row["n_frames"] / 1e3
    return [
        f"{peak / 1e9:.2f}",
        f"{peak / least[row['method']]:.2f}",
        f"{row['estimated_bytes'] / 1e9:.2f}",
        *(f"{row[key] / thousands:.0f}" for key in ("wall_s", "cpu_s", "read_s")),
        f"{row['written_bytes'] / 1e6:.1f}",
    ]


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Run the benchmark; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps the simulated frames")
    parser.add_argument("--grid", type=int, default=128, help="voxels along x, y and z")
    parser.add_argument("--frames", type=int, nargs="+", default=[1000, 3000, 10000])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["localisation"])
    parser.add_argument("--base_frames", type=int, default=64, help="simulated, and repeated")
    parser.add_argument("--bubbles_per_psf_volume", type=float, default=0.001)
    parser.add_argument("--vessels", default="synthetic")
    parser.add_argument("--block_frames", type=int, default=128)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", help="also write machine and numbers there")
    args = parser.parse_args(arguments)
    started, record = time.monotonic(), describe_machine()
    rows = measure(args)
    tables = {f"long_recording_{args.grid}": long_table(rows, args.grid)}
    publish(args, rows, tables, record=record, started=started)
    return rows


if __name__ == "__main__":
    main()
