"""Runs that end in the middle, as users run them: killed, out of disk space; what is written is whole or not there."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from bundle_runs import GEOMETRY, ROOT, SIZES, blob_frames

from sparse_ulm.io import save_recording

FRAMES_PER_BLOCK = 5
OPTIONS = {
    "classical": ["configs/classical.yaml", "--block_frames", str(FRAMES_PER_BLOCK), "--clutter_window_frames", "20",
                  "--n_tissue_components", "1", "--min_length", "3"],
    "trajectory_map": ["configs/inference.yaml", "--method", "trajectory_map", "--block_frames", str(FRAMES_PER_BLOCK),
                       "--probability_threshold", "1e-3", "--keep_probability", "1e-3",
                       *(text for key, value in SIZES.items() for text in (f"--{key}", str(value)))],
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two recordings of eight blocks each."""
    for seed, name in enumerate(("first", "second")):
        frames = blob_frames((6, 7, 8, 8 * FRAMES_PER_BLOCK), seed=seed)
        save_recording(tmp_path / "in" / f"{name}.npz", frames, GEOMETRY)
    return tmp_path


def start(method: str, folder: Path, output: str, weights: Path, **options: object) -> subprocess.Popen[str]:
    config, *settings = OPTIONS[method]
    given = [] if method == "classical" else ["--weights", str(weights)]
    return subprocess.Popen(
        [sys.executable, "-m", "monai.bundle", "run", "--config_file", config, "--bundle_root", str(ROOT), *settings,
         "--report", "false",
         *given, "--dataset_dir", str(folder / "in"), "--output_dir", str(folder / output)],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def finished(process: subprocess.Popen[str]) -> str:
    """Wait for a run and give what it said."""
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    return said


def results(folder: Path) -> dict[str, bytes]:
    """All files but those that tell the time."""
    told = {"provenance.json", "manifest.json", "summary.csv"}
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name not in told]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def kill_after(process: subprocess.Popen[str], output: Path, n_blocks: int, pause_s: float) -> None:
    """Kill a run, with no chance to tidy up, a moment after so many blocks lie on the disk."""
    until = time.monotonic() + 60.0
    while process.poll() is None and time.monotonic() < until:
        if len(list(output.glob(".unfinished/*/*.npz"))) + 8 * len(list(output.glob("*/provenance.json"))) >= n_blocks:
            time.sleep(pause_s)
            os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(0.002)
    process.communicate()


def kill_and_go_on(method: str, folder: Path, weights: Path, *, n_kills: int, seed: int) -> None:
    finished(start(method, folder, "whole", weights))
    wanted = results(folder / "whole")
    assert len(wanted) >= 6
    rng = np.random.default_rng(seed)
    n_killed = 0
    for n_blocks in sorted(rng.integers(1, 16, size=n_kills).tolist()):
        process = start(method, folder, "killed", weights)
        kill_after(process, folder / "killed", n_blocks, float(rng.uniform(0.0, 0.03)))
        n_killed += process.returncode == -signal.SIGKILL
        for path in (folder / "killed").glob("*/*"):
            if path.parent.name in ("first", "second"):
                assert results(path.parent).get(path.name) == wanted.get(f"{path.parent.name}/{path.name}")
    assert n_killed >= max(1, n_kills - 2)  # one that came too late finds the work done
    finished(start(method, folder, "killed", weights))
    assert results(folder / "killed") == wanted
    assert not (folder / "killed" / ".unfinished").exists()


def test_a_killed_run_goes_on_to_the_same_bits(folder: Path, weights: Path) -> None:
    kill_and_go_on("classical", folder, weights, n_kills=1, seed=3)


@pytest.mark.slow  # twenty processes import everything
@pytest.mark.parametrize("method", OPTIONS)
def test_a_run_killed_twenty_times_goes_on_to_the_same_bits(folder: Path, weights: Path, method: str) -> None:
    kill_and_go_on(method, folder, weights, n_kills=20, seed=4)


def test_a_full_disk_is_one_line_and_leaves_no_half_map(folder: Path, weights: Path) -> None:
    """A limit on the size of files stands for the disk: the first map is larger."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    process = start("classical", folder, "out", weights, preexec_fn=limit)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    last = said.strip().splitlines()[-1]
    assert last.startswith("error: 2 of 2 recordings failed")
    assert "cannot be written (File too large); wanted a writable folder with space" in last
    assert not list((folder / "out").glob("*/*.nii.gz"))
    assert len(list((folder / "out").glob(".unfinished/*/*.npz"))) == 16  # what was computed is kept
