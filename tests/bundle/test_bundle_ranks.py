"""The overlays for several processes: the bits of one process, a bad recording stops nobody, training goes on."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bundle_runs import GEOMETRY, ROOT, SIZES, blob_frames, infer, run_config
from rank_processes import on_ranks

from sparse_ulm import ranks
from sparse_ulm.block_store import BlockStore
from sparse_ulm.errors import RanksError, UserError
from sparse_ulm.io import save_recording
from sparse_ulm.networks.localisation import LocalisationNet
from sparse_ulm.simulation import ParameterRanges, write_recordings

N_FRAMES = 40
MAP = {"method": "trajectory_map", "probability_threshold": 1.0e-3, "keep_probability": 1.0e-3, **SIZES}
OPTIONS: dict[str, dict[str, Any]] = {
    "trajectory_map": MAP,
    "localisation": {"localisation_widths": [4, 5, 6], "context_frames": 3, "bubble_threshold": 0.06},
    "classical": {"method": "classical", "n_tissue_components": 1, "clutter_window_frames": 20},
}
TRAINING = {
    "block_frames": 32, "val_interval": 1, "n_threads": 1, "temporal_strides": [2, 2, 2], "max_kept_sites": 500,
    **SIZES,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two recordings."""
    for seed, name in enumerate(("first", "second")):
        frames = blob_frames((6, 7, 8, N_FRAMES), seed=seed)
        save_recording(tmp_path / "in" / f"{name}.npz", frames, GEOMETRY)
    return tmp_path


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three recordings to train on, which two ranks cannot divide, and two to validate."""
    folder = tmp_path_factory.mktemp("simulated")
    ranges = ParameterRanges(
        grid_size=(8, 9, 10), n_frames=32, bubbles_per_psf_volume=(0.05, 0.05), snr_db=(20.0, 20.0), side_lobe_share=0.0
    )
    for part, n, seed in (("train", 3, 1), ("validation", 2, 2)):
        write_recordings(
            folder / part, n_recordings=n, vessels="synthetic", seed=seed, ranges=ranges, file_format="npz"
        )
    return folder


def weights_of(method: str, folder: Path, weights: Path) -> Path:
    if method != "localisation":
        return weights
    torch.manual_seed(6)
    network = LocalisationNet(widths=OPTIONS[method]["localisation_widths"])
    torch.save({"model": network.state_dict()}, folder / "localisation.pt")
    return folder / "localisation.pt"


def answer(folder: Path, output: str, weights: Path, options: dict[str, Any], *overlay: str) -> None:
    run_config(
        "inference.yaml", *overlay, dataset_dir=folder / "in", output_dir=folder / output, weights=weights,
        block_frames=5, n_threads=1, **options,
    )  # fmt: skip


def results(folder: Path) -> dict[str, bytes]:
    """All files but those that tell the time."""
    told = {"provenance.json", "manifest.json", "summary.csv"}
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name not in told]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def torchrun(*files: str, **options: object) -> "subprocess.CompletedProcess[str]":
    """Run configs on two processes as users do."""
    given = [text for key, value in options.items() for text in (f"--{key}", str(value))]
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "monai.bundle",
         "run", "--config_file", str([f"configs/{file}" for file in files]), "--bundle_root", str(ROOT), *given],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False, timeout=500,
    )  # fmt: skip


@pytest.mark.parametrize("method", ["localisation", "classical"])  # trajectory_map: by torchrun
def test_two_ranks_give_the_bits_of_one_process(folder: Path, weights: Path, method: str) -> None:
    weights, options = weights_of(method, folder, weights), OPTIONS[method]
    answer(folder, "one", weights, options)
    found = on_ranks(
        2, answer, folder, "two", weights, options | {"rank_timeout_minutes": 5}, "distributed_inference.yaml",
        join=False,
    )  # fmt: skip
    assert found == [None, None]
    wanted = results(folder / "one")
    assert len(wanted) >= 6
    assert results(folder / "two") == wanted
    assert not (folder / "two" / ".unfinished").exists()


@pytest.mark.slow  # a minute; what the ranks do is tested above without torchrun
def test_torchrun_gives_the_bits_of_one_process_and_a_bad_recording_stops_nobody(folder: Path, weights: Path) -> None:
    frames = blob_frames((6, 7, 8, N_FRAMES))
    frames[1, 2, 3, 33] = np.nan  # in the second rank's share
    save_recording(folder / "in" / "damaged.npz", frames, GEOMETRY)
    done = torchrun(
        "inference.yaml", "distributed_inference.yaml", dataset_dir=folder / "in", output_dir=folder / "two",
        weights=weights, block_frames=5, report="false", **MAP,
    )  # fmt: skip
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert errors[0].startswith("error: 1 of 3 recordings failed, the others are done (damaged: damaged.npz: 1 NaN")
    assert "Traceback" not in done.stderr.partition("torch/distributed/elastic")[0]
    (folder / "in" / "damaged.npz").unlink()
    answer(folder, "one", weights, MAP)
    assert results(folder / "two") == results(folder / "one")


def die_after(n_blocks: int, folder: Path, weights: Path) -> None:
    """Let rank 1 end with no chance to tidy up once it has kept so many blocks."""
    save, n_kept = BlockStore.save, 0

    def save_then_die(self: BlockStore, start: int, result: Any) -> None:
        nonlocal n_kept
        save(self, start, result)
        n_kept += 1
        if ranks.rank() == 1 and n_kept == n_blocks:
            os.kill(os.getpid(), signal.SIGKILL)

    BlockStore.save = save_then_die  # type: ignore[method-assign]
    answer(folder, "out", weights, MAP, "distributed_inference.yaml")


def test_a_killed_rank_ends_the_others_and_the_run_goes_on(folder: Path, weights: Path) -> None:
    first, second = on_ranks(2, die_after, 2, folder, weights, join=False)
    assert second == -signal.SIGKILL
    assert isinstance(first, RanksError)
    assert len(list((folder / "out/.unfinished/first").glob("*.npz"))) == 4 + 2
    answer(folder, "out", weights, MAP)
    answer(folder, "one", weights, MAP)
    assert results(folder / "out") == results(folder / "one")


def answer_elsewhere(folder: Path, weights: Path) -> None:
    if ranks.launched_rank() == 1:
        folder = folder / "elsewhere"
    answer(folder, "out", weights, MAP, "distributed_inference.yaml")


def test_a_rank_that_does_not_see_the_recording_is_named(folder: Path, weights: Path) -> None:
    shutil.copytree(folder / "in", folder / "elsewhere" / "in")
    (folder / "elsewhere" / "in" / "second.npz").unlink()
    first, second = on_ranks(2, answer_elsewhere, folder, weights, join=False)
    assert second is None
    assert "1 of 2 recordings failed" in str(first)
    assert "second is not in" in str(first)
    assert "where rank 1 runs" in str(first)


def train(simulated: Path, output_dir: Path, *overlay: str, **options: Any) -> dict[str, Any]:
    workflow = run_config(
        "train.yaml", *overlay, workflow_type="train", dataset_dir=simulated, output_dir=output_dir,
        **(TRAINING | options),
    )  # fmt: skip
    return {"dice": workflow.evaluator.state.metrics["dice_lambda_10"], "steps": workflow.trainer.state.iteration} | {
        name: value.clone() for name, value in workflow.network_def.state_dict().items()
    }


def test_two_ranks_stay_together_resume_and_give_weights_that_inference_loads(simulated: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for n_epochs in (1, 2):  # the second call goes on from the first
        options = {"variant": "pruning", "n_epochs": n_epochs, "batch_blocks": 1}
        first, second = on_ranks(2, _train_on_rank, simulated, run, options, join=False)
        assert first["steps"] == 2 * n_epochs  # three blocks, the first of them twice
        for name, value in first.items():
            np.testing.assert_array_equal(second[name], value, err_msg=name)
    assert sorted(path.name.split(".")[0] for path in run.iterdir()) == ["events"] * 2 + ["last", "model"]
    kept = torch.load(run / "last.pt")
    assert kept["epoch"] == 2
    assert all(torch.equal(value, first[name]) for name, value in kept["model"].items())
    _infer_validation(simulated, tmp_path, run / "model.pt")


def _train_on_rank(simulated: Path, output_dir: Path, options: dict[str, Any]) -> dict[str, Any]:
    return train(simulated, output_dir, "multi_gpu_train.yaml", rank_timeout_minutes=5, **options)


def test_more_processes_than_validation_blocks_are_refused(simulated: Path, tmp_path: Path) -> None:
    found = on_ranks(3, _train_on_rank, simulated, tmp_path / "out", {"n_epochs": 1, "batch_blocks": 1}, join=False)
    for error in found:
        assert isinstance(error, UserError)
        assert "3 processes share 2 blocks" in str(error)
    assert not (tmp_path / "out").exists()


def _infer_validation(simulated: Path, folder: Path, weights: Path) -> None:
    options = {"temporal_strides": [2, 2, 2], "max_kept_sites": 500, "variant": "pruning"}
    infer(simulated / "validation", folder / "out", weights, **options)
    assert len(list((folder / "out").glob("*/*_density.nii.gz"))) == 2


@pytest.mark.slow  # three processes import everything
def test_torchrun_trains_weights_that_inference_loads(simulated: Path, tmp_path: Path) -> None:
    done = torchrun(
        "train.yaml", "multi_gpu_train.yaml", dataset_dir=simulated, output_dir=tmp_path / "run", n_epochs=1,
        batch_blocks=1, variant="pruning", **TRAINING,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Epoch: 1/1, Iter: 1/2") <= 1, "one rank logs"
    _infer_validation(simulated, tmp_path, tmp_path / "run/model.pt")
