"""Write folders of simulated recordings with their truth; the function that configs/simulate.yaml calls."""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from sparse_ulm import __version__
from sparse_ulm.io.atomic import atomic_path
from sparse_ulm.io.matlab_write import MatlabVersion
from sparse_ulm.io.registry import find_recordings, save_recording
from sparse_ulm.io.truth import write_truth
from sparse_ulm.simulation.correlation import save_correlation_training
from sparse_ulm.simulation.growth import grow_vessel_tree
from sparse_ulm.simulation.parameters import ParameterRanges, SimulationError, draw_parameters
from sparse_ulm.simulation.recording import simulate_recording
from sparse_ulm.simulation.vessels import VesselTree, read_swc

SYNTHETIC = "synthetic"
SUMMARY_NAME = "simulation.json"
SUFFIX_OF_FORMAT = {
    "nifti": ".nii.gz",
    "nii": ".nii",
    "npz": ".npz",
    "npy": ".npy",
    "mat": ".mat",
    "mat73": ".mat",
    "h5": ".h5",
}
"""Formats by the names the config uses; h5 holds PSF correlation maps and not IQ."""


def write_recordings(
    output_dir: str | Path,
    *,
    n_recordings: int,
    vessels: str | Sequence[str],
    seed: int,
    ranges: ParameterRanges,
    file_format: str = "nifti",
    n_workers: int = 1,
    overwrite: bool = False,
) -> Path:
    """Simulate recordings and write them, each with its truth, and `simulation.json` with all that was drawn.

    Recording i follows from (seed, i) alone: neither the number of recordings nor of workers changes it.

    Args:
        output_dir: Folder for NAME.*, NAME.json (sidecar) and NAME_truth.csv; made if absent.
        n_recordings: How many, at least 1.
        vessels: "synthetic", an SWC file, a folder of them, or a list of these; each recording draws one at random.
        seed: Any whole number from 0 up.
        ranges: Bounds of everything that varies.
        file_format: nifti, nii, npz, npy, mat (version 5), mat73, or h5 (PSF correlation maps, the method's own form).
        n_workers: Processes; 1 runs in this one.
        overwrite: True replaces the recordings of an earlier simulation in that folder.

    Returns:
        Path of the summary.

    Raises:
        SimulationError: If an option is impossible, or the folder already holds recordings and `overwrite` is false.
        VesselError: If a vessel file cannot be read.
    """
    folder = Path(output_dir)
    if n_recordings < 1 or n_workers < 1 or seed < 0:
        raise SimulationError(
            f"n_recordings {n_recordings}, n_workers {n_workers}, seed {seed}; wanted at least 1, 1 and 0."
        )
    if file_format not in SUFFIX_OF_FORMAT:
        raise SimulationError(f"format is {file_format!r}; wanted one of {', '.join(SUFFIX_OF_FORMAT)}.")
    trees = load_trees([vessels] if isinstance(vessels, str) else list(vessels))
    _clear(folder, overwrite=overwrite)
    digits = max(4, len(str(n_recordings - 1)))
    jobs = [_Job(folder, f"simulated_{i:0{digits}d}", i, seed, ranges, file_format) for i in range(n_recordings)]
    rows = list(tqdm(_run(jobs, trees, n_workers), total=n_recordings, desc="Simulating", unit="recording"))
    summary = {
        "generator": "sparse_ulm.simulation",
        "version": __version__,
        "seed": seed,
        "format": file_format,
        "vessels": [{"name": source.name, "sha256": source.sha256} for source in trees],
        "ranges": asdict(ranges),
        "recordings": rows,
    }
    with atomic_path(folder / SUMMARY_NAME) as temporary:
        temporary.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return folder / SUMMARY_NAME


@dataclass(frozen=True)
class VesselSource:
    """A tree that was read, or the wish for a synthetic one (`tree` is None).

    Attributes:
        name: File name, or "synthetic".
        sha256: Of the file's bytes; None for a synthetic tree.
        tree: The tree.
    """

    name: str
    sha256: str | None
    tree: VesselTree | None


def load_trees(vessels: Sequence[str]) -> list[VesselSource]:
    """Read every SWC file once.

    Args:
        vessels: "synthetic", SWC files, or folders, whose .swc files are taken in order of name.

    Raises:
        VesselError: If a file is missing or damaged.
        SimulationError: If a folder holds no .swc file, or nothing is named.
    """
    sources = []
    for name in vessels:
        if name == SYNTHETIC:
            sources.append(VesselSource(SYNTHETIC, None, None))
            continue
        path = Path(name)
        files = sorted(path.glob("*.swc")) if path.is_dir() else [path]
        if not files:
            raise SimulationError(f"vessels: {path} holds no .swc file; name files, a folder of them, or 'synthetic'.")
        for file in files:
            tree = read_swc(file)
            sources.append(VesselSource(file.name, hashlib.sha256(file.read_bytes()).hexdigest(), tree))
    if not sources:
        raise SimulationError("vessels is empty; name SWC files, a folder of them, or 'synthetic'.")
    return sources


def draw_synthetic_tree(rng: np.random.Generator) -> VesselTree:
    """Grow a tree in a cube of 0.5 to 0.9 mm with 100 to 400 leaves: as dense as the mouse cortex, or sparser."""
    edge = float(rng.uniform(0.5e-3, 0.9e-3))
    return grow_vessel_tree(
        rng,
        box_size_m=(edge, edge, edge),
        n_leaves=int(rng.integers(100, 400)),
        leaf_radius_m=float(rng.uniform(2.5e-6, 4e-6)),
        tortuosity=float(rng.uniform(0.05, 0.2)),
    )


@dataclass(frozen=True)
class _Job:
    folder: Path
    name: str
    index: int
    seed: int
    ranges: ParameterRanges
    file_format: str


_worker_trees: list[VesselSource] = []
"""Trees of this process, so that they are sent to a worker once and not with every job."""


def _set_trees(trees: list[VesselSource]) -> None:
    _worker_trees[:] = trees


def _run(jobs: list[_Job], trees: list[VesselSource], n_workers: int) -> Any:
    """Rows of the summary, in order of the jobs."""
    if n_workers == 1:
        _set_trees(trees)
        yield from map(_write_one, jobs)
        return
    # "spawn": a fork of a process in which PyTorch has started threads can hang.
    with ProcessPoolExecutor(n_workers, get_context("spawn"), initializer=_set_trees, initargs=(trees,)) as pool:
        yield from pool.map(_write_one, jobs)


def _write_one(job: _Job) -> dict[str, Any]:
    """Simulate and write one recording; its row of the summary."""
    rng = np.random.default_rng(np.random.SeedSequence(job.seed, spawn_key=(job.index,)))
    parameters = draw_parameters(rng, job.ranges)
    source = _worker_trees[int(rng.integers(len(_worker_trees)))]
    tree = source.tree if source.tree is not None else draw_synthetic_tree(rng)
    recording = simulate_recording(parameters, tree, rng)
    path = job.folder / f"{job.name}{SUFFIX_OF_FORMAT[job.file_format]}"
    # The truth first: a recording that is there has its truth beside it.
    write_truth(job.folder / f"{job.name}_truth.csv", recording.tracks, recording.geometry)
    if job.file_format == "h5":
        save_correlation_training(path, recording.frames, recording.geometry, recording.tracks)
    else:
        version: MatlabVersion = "7.3" if job.file_format == "mat73" else "5"
        save_recording(path, recording.frames, recording.geometry, matlab_version=version)
    return {"name": job.name, "file": path.name, "vessels": source.name, **recording.parameters}


def _clear(folder: Path, *, overwrite: bool) -> None:
    """Keep an earlier simulation from mixing with the new one."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    summary = folder / SUMMARY_NAME
    earlier = [row["name"] for row in json.loads(summary.read_text())["recordings"]] if summary.is_file() else []
    if not overwrite and (earlier or _holds_recordings(folder)):
        raise SimulationError(
            f"{folder} already holds recordings; wanted an empty folder. Choose another, or pass --overwrite true."
        )
    for name in earlier:
        for file in folder.glob(f"{name}[._]*"):
            file.unlink()
    summary.unlink(missing_ok=True)


def _holds_recordings(folder: Path) -> bool:
    try:
        return bool(find_recordings(folder))
    except ValueError:
        return False
