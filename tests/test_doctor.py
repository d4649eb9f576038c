"""`python -m sparse_ulm.doctor`: says what runs here, finds what is broken, and names the cure."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sparse_ulm import __version__, doctor, self_test
from sparse_ulm.errors import UserError
from sparse_ulm.sparse.engines import kernels, torchsparse_failure

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer sites and no repeats; the choice of arithmetic is made anew."""
    monkeypatch.setattr(doctor, "SPEED_SITES", 300)
    monkeypatch.setattr(self_test, "SPEED_ROUNDS", (2, 2))
    monkeypatch.setattr(kernels, "_choice", None)
    monkeypatch.delenv(kernels.VARIABLE, raising=False)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Run the command in this process: status and output."""
    status = doctor.main(arguments)
    return status, capsys.readouterr().out


def test_a_sound_installation_is_fine(capsys: pytest.CaptureFixture[str]) -> None:
    status, out = run(capsys)
    choice = kernels.chosen_kernel()
    assert status == 0
    for text in (__version__, f"torch {torch.__version__}", f"{choice.name} on the CPU: {choice.reason}", "auto -> "):
        assert text in out
    assert "native on cpu ok" in out
    assert "PROBLEM" not in out
    assert len(out.splitlines()) <= 24, "one screen"
    assert max(len(line) for line in out.splitlines()) < 320


def test_json_holds_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    status, out = run(capsys, "--json")
    record = json.loads(out)
    assert (status, record["fine"], record["problems"]) == (0, True, [])
    assert record["engine"]["engine"] in ("native", "torchsparse")
    assert record["arithmetic"]["arithmetic"] == kernels.chosen_kernel().name
    assert record["machine"]["threads"] == torch.get_num_threads()
    assert 0 < record["self_test"]["errors"]["native on cpu"] < self_test.TOLERANCE
    assert record["speed"]["ms"]["torch"] > 0
    assert record["weights"]["weights"] == {"model.pt": "ok", "model_2d.pt": "ok", "localisation.pt": "ok"}


@pytest.mark.parametrize("kernel", ["compiled", "torch"])
def test_the_variable_chooses_the_arithmetic(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kernel: str
) -> None:
    if kernel == "compiled" and (failure := kernels.compile_failure()) is not None:
        pytest.skip(failure)
    monkeypatch.setenv(kernels.VARIABLE, kernel)
    status, out = run(capsys)
    assert status == 0
    assert f"{kernel} on the CPU: asked for" in out


@pytest.mark.parametrize("wrong", [0.3, float("nan")])
def test_wrong_numbers_are_a_problem(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, wrong: float
) -> None:
    monkeypatch.setattr(doctor, "convolution_error", lambda engine, device: wrong)
    status, out = run(capsys)
    assert status == 1
    assert "native on cpu WRONG" in out
    assert "Do not use its maps. Set SPARSE_ULM_KERNEL=torch" in out
    assert "All fine" not in out


def test_the_self_test_sees_a_wrong_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = self_test.SubmanifoldConv.forward
    assert self_test.convolution_error("native", "cpu") < self_test.TOLERANCE

    def one_tap_doubled(layer, x):
        layer.kernel.data[5] *= 2
        y = forward(layer, x)
        layer.kernel.data[5] /= 2
        return y

    monkeypatch.setattr(self_test.SubmanifoldConv, "forward", one_tap_doubled)
    assert self_test.convolution_error("native", "cpu") > 100 * self_test.TOLERANCE


def test_a_check_that_breaks_stops_no_other(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(engine: str, device: str) -> float:
        raise RuntimeError("no such\ninstruction")

    monkeypatch.setattr(doctor, "convolution_error", broken)
    status, out = run(capsys)
    assert status == 1
    assert "self test failed (RuntimeError: no such instruction). Install anew" in out
    assert "model.pt ok" in out


def test_loops_that_do_not_compile_are_noted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "compile_failure", lambda: "no LLVM")
    status, out = run(capsys)
    assert status == 0, "slow is not broken"
    assert "torch on the CPU: the compiled loops do not compile (no LLVM)" in out
    assert "note: arithmetic" in out
    assert "Reinstall numba" in out


@pytest.mark.skipif(torchsparse_failure() is None, reason="TorchSparse is installed")
def test_an_engine_that_is_asked_for_and_missing_is_a_problem(capsys: pytest.CaptureFixture[str]) -> None:
    status, out = run(capsys, "--engine", "torchsparse")
    assert status == 1
    assert "PROBLEM: engine: engine 'torchsparse' was asked for" in out
    assert "set engine: native" in out


def test_broken_and_missing_weights_are_problems(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    shutil.copy(ROOT / "models" / "model_2d.pt", tmp_path / "models" / "model.pt")
    status, out = run(capsys, "--bundle_root", str(tmp_path))
    assert status == 1
    assert "do not fit the network" in out
    assert "model_2d.pt do not exist" in out
    assert out.count("git checkout models") == 3


def test_without_a_bundle_no_weights_are_tried(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "find_bundle_root", lambda: None)
    status, out = run(capsys)
    assert status == 0
    assert "pass --bundle_root" in out


def test_other_versions_than_wanted_are_noted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "package_versions", lambda: {"torch": "2.13.0+cpu", "monai": "1.5.1"})
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: ["torch>=2.13,<3", "monai>=1.6.1,<1.7"])
    _, out = run(capsys)
    assert "note: packages: monai is 1.5.1; wanted <1.7,>=1.6.1" in out
    assert "torch is" not in out


def test_a_driver_that_pytorch_cannot_use_is_noted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor.torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(doctor.torch.version, "cuda", None)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    _, out = run(capsys)
    assert "there is an NVIDIA driver, but PyTorch is built without CUDA" in out


def test_nonsense_in_the_variable_is_told_by_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sparse_ulm.doctor"],
        env=os.environ | {kernels.VARIABLE: "nonsense"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "SPARSE_ULM_KERNEL is 'nonsense'; wanted one of auto, compiled, torch. Unset it" in done.stdout
    assert "self test   not run" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    with pytest.raises(UserError, match="nonsense"), kernels.use_kernel("nonsense"):
        pass
