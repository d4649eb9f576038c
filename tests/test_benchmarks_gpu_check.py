"""The GPU check itself, on the CPU: it passes where arithmetic is right, fails where it is not, and says why."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from sparse_ulm.errors import UserError
from sparse_ulm.sparse.engines import native_torch

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
TINY = "--parity_sites 300 --sites 500 700 --channels 4 --rounds 1 --grid 8 --frames 32 --bubbles 2"


@pytest.fixture(autouse=True)
def benchmarks_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.mark.slow
def test_passes_on_the_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import gpu_check

    file = tmp_path / "gpu.json"
    status = gpu_check.main(["--device", "cpu", "--json", str(file), *TINY.split()])
    out = capsys.readouterr().out
    record = json.loads(file.read_text())
    assert status == 0, out
    assert out.splitlines()[-1].startswith("PASS: ")
    assert record["failures"] == []
    compared = {row["what"]: row for row in record["parity"]}
    for name in (
        "submanifold 3x3x3x3",
        "strided 1x1x1x4",
        "generative 2x2x2x1",
        "batch norm",
        "golden transposed_k222_5-3",
    ):
        assert compared[name]["passed"], name
        assert f"| {name} | native |" in out
    # Compiled loops and PyTorch, not twice the same; and the network is one of those compared.
    assert compared["submanifold 3x3x3x1"]["error"] > 0
    assert compared["network, one step, float64"]["error"] < 1e-9
    assert [(row["sites"], row["channels"]) for row in record["layers"]] == [(500, 4), (700, 4)]
    assert all(row["forward_backward_ms"] > row["forward_ms"] > 0 for row in record["layers"])
    first, second = record["steps"]
    assert first["loss"] == pytest.approx(second["loss"])


def test_wrong_arithmetic_on_the_device_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import gpu_check

    right = native_torch.kernel_gradient
    monkeypatch.setattr(native_torch, "kernel_gradient", lambda *given: right(*given) * 1.001)
    monkeypatch.setattr(gpu_check, "training_steps", lambda engines, args: [])
    assert gpu_check.main(["--device", "cpu", *TINY.split()]) == 1
    out = capsys.readouterr().out
    last = out.splitlines()[-1]
    assert last.startswith("FAIL: ")
    assert "native: submanifold 3x3x3x1" in last
    assert "network, one step" in last
    assert "max pool" not in last
    assert "| submanifold 1x1x1x3 | native | 1.0e-03 | 5e-05 | WRONG |" in out


def test_other_sites_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import gpu_parity

    sites = gpu_parity.two_samples(200)
    cpu = gpu_parity.results(gpu_parity.MaxPool((2, 2, 2, 4)), sites)
    coarser = gpu_parity.results(gpu_parity.MaxPool((2, 2, 2, 8)), sites)
    with pytest.raises(ValueError, match="coords differ"):
        gpu_parity.worst(coarser, cpu)
    with pytest.raises(ValueError, match="on one side only"):
        gpu_parity.worst({"coords": cpu["coords"]}, cpu)
    assert gpu_parity.worst(cpu, cpu) == 0.0
    assert math.isnan(gpu_parity.worst(cpu | {"output": cpu["output"] * math.nan}, cpu))


def test_what_raises_fails_unless_another_engine_does_not_offer_it() -> None:
    from gpu_parity import compare

    def raising(error: Exception, engine: str, device: str) -> float:
        raise error

    def row(error: Exception, engine: str) -> Any:
        return compare("a layer", 1e-5, raising, error, engine=engine, device="cpu")

    assert not row(RuntimeError("illegal memory access"), "torchsparse").passed
    assert not row(UserError("no"), "native").passed
    refused = row(UserError("four axes"), "torchsparse")
    assert refused.passed
    assert not refused.offered
    assert "four axes" in refused.remark


def test_failed_timings_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import gpu_check
    import gpu_timing

    def out_of_memory(*given: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of\nmemory")

    monkeypatch.setattr(gpu_timing, "time_layer", out_of_memory)
    times = list(gpu_timing.time_layers(["native"], "cpu", sites=[300], channels=[4], rounds=1))
    assert "OutOfMemoryError: CUDA out of memory" in gpu_check.timing_table(times)
    assert gpu_check.failures([], times, []) == ["timing native"]
    steps = [
        {"device": "cpu", "engine": "native", "loss": 0.5},
        {"device": "cuda", "engine": "native", "loss": math.nan},
    ]
    assert len(gpu_check.failures([], [], steps)) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_cuda_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    import gpu_check

    assert gpu_check.main([]) == 2
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("No CUDA: PyTorch ")
