"""The examples for schedulers: thin callers of the ordinary command, run here without their scheduler."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sparse_ulm.acquisition import Geometry
from sparse_ulm.io import save_recording

ROOT = Path(__file__).resolve().parents[1]
SBATCH = ROOT / "examples" / "slurm_array.sbatch"
GEOMETRY = Geometry.from_voxel_size(
    (1e-4, 1.1e-4, 0.9e-4), (0.0, 0.0, 0.0), frame_rate_hz=500.0, transmit_frequency_hz=8e6, sound_speed_m_s=1540.0
)


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    for name in ("a.run-1", "b.run-2"):
        frames = rng.normal(size=(2, 6, 5, 7, 8))
        save_recording(tmp_path / "in" / f"{name}.nii.gz", (frames[0] + 1j * frames[1]).astype(np.complex64), GEOMETRY)
    return tmp_path


def task(folder: Path, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run the script as Slurm runs one task of an array."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    given = {"PATH": path, "RECORDINGS": str(folder / "in"), "OUTPUT": str(folder / "out"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        ["bash", str(SBATCH), *arguments], cwd=ROOT, env=os.environ | given | variables, capture_output=True, text=True,
        check=False, timeout=500,
    )  # fmt: skip


def test_the_scripts_parse() -> None:
    subprocess.run(["bash", "-n", str(SBATCH)], check=True)
    header = [line for line in SBATCH.read_text().splitlines() if line.startswith("#SBATCH")]
    assert len(header) == 5


def test_a_task_of_the_array_makes_its_recording_alone(recordings: Path) -> None:
    done = task(recordings, "--method", "classical", "--maps", "[density]", SLURM_ARRAY_TASK_ID="1")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (recordings / "out").iterdir()] == ["b.run-2"]
    assert (recordings / "out/b.run-2/b.run-2/b.run-2_density.nii.gz").is_file()


def test_a_task_without_a_recording_is_one_line(recordings: Path) -> None:
    done = task(recordings, SLURM_ARRAY_TASK_ID="2")
    assert done.returncode == 1
    assert done.stderr.startswith("error: task 2, but ")
    assert "holds 2 recordings *.nii.gz" in done.stderr
    assert "SLURM_ARRAY_TASK_ID: sbatch --array sets it" in task(recordings).stderr


def test_the_snakefile_calls_the_same_command() -> None:
    command = "python -m monai.bundle run --config_file configs/inference.yaml --bundle_root . "
    assert command in (ROOT / "examples" / "Snakefile").read_text()
    assert command.strip() in SBATCH.read_text()
