"""Choice of the native engine's arithmetic, and the threads that it runs on."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import llvmlite.binding as llvm
import pytest
import torch

from sparse_ulm.errors import UserError
from sparse_ulm.sparse import threads
from sparse_ulm.sparse.engines import kernels, native_compiled
from sparse_ulm.sparse.engines.kernels import chosen_kernel, runs_compiled, use_kernel
from sparse_ulm.sparse.threads import in_parallel, lend_threads


@pytest.fixture(autouse=True)
def _helpers_are_welcome(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget helpers that stalled in other tests."""
    monkeypatch.setattr(threads, "_rest", 0)


@pytest.fixture
def undecided(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Forget what was chosen, for the test."""
    monkeypatch.setattr(kernels, "_choice", None)
    monkeypatch.delenv(kernels.VARIABLE, raising=False)
    return monkeypatch


def test_loops_compile_here_and_are_taken(undecided: pytest.MonkeyPatch) -> None:
    assert chosen_kernel().name == "compiled"


def test_variable_decides(undecided: pytest.MonkeyPatch) -> None:
    undecided.setenv(kernels.VARIABLE, "torch")
    assert chosen_kernel().name == "torch"
    assert not runs_compiled(torch.zeros(1))


def test_loops_that_do_not_compile_leave_pytorch_and_say_why(undecided: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError("no cache\nfolder")

    undecided.setattr(native_compiled, "self_test", fail)
    choice = chosen_kernel()
    assert choice.name == "torch"
    assert "OSError: no cache folder" in choice.reason
    with pytest.raises(UserError, match="do not compile"), use_kernel("compiled"):
        pass


def test_wrong_loops_are_not_taken(undecided: pytest.MonkeyPatch) -> None:
    undecided.setattr(native_compiled, "convolve", lambda feats, *rest: torch.zeros(1, 1))
    assert chosen_kernel().name == "torch"


def test_unknown_choice(undecided: pytest.MonkeyPatch) -> None:
    undecided.setenv(kernels.VARIABLE, "fast")
    with pytest.raises(UserError, match="auto, compiled, torch"):
        chosen_kernel()


def test_use_kernel_is_for_a_while() -> None:
    before = chosen_kernel()
    with use_kernel("torch"):
        assert chosen_kernel().name == "torch"
    assert chosen_kernel() == before


def test_types_without_loops_go_to_pytorch() -> None:
    with use_kernel("compiled"):
        assert runs_compiled(torch.zeros(1, dtype=torch.float64))
        assert not runs_compiled(torch.zeros(1, dtype=torch.bfloat16))
        assert not runs_compiled(torch.zeros(1, device="meta"))


@pytest.mark.parametrize("n_threads", [1, 3])
def test_every_part_is_done_once(n_threads: int) -> None:
    parts: list[tuple[int, int]] = []
    names: set[str] = set()
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)

    def run(first: int, last: int) -> None:
        time.sleep(0.002)
        parts.append((first, last))
        names.add(threading.current_thread().name)

    try:
        in_parallel(run, 100, 7)
    finally:
        torch.set_num_threads(before)
    assert sorted(parts) == [(first, min(first + 7, 100)) for first in range(0, 100, 7)]
    assert len(names) == n_threads


def test_nothing_to_do() -> None:
    in_parallel(lambda first, last: pytest.fail("called"), 0, 5)


def test_errors_of_helpers_arrive() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)

    def run(first: int, last: int) -> None:
        time.sleep(0.01)
        if threading.current_thread() is not threading.main_thread():
            raise ArithmeticError("in a helper")

    try:
        with pytest.raises(ArithmeticError, match="in a helper"):
            in_parallel(run, 20, 1)
    finally:
        torch.set_num_threads(before)


def test_lent_threads_are_for_the_loops_and_come_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    names: set[str] = set()

    def run(first: int, last: int) -> None:
        time.sleep(0.005)
        names.add(threading.current_thread().name)

    try:
        with lend_threads(), lend_threads():
            assert torch.get_num_threads() == 1
            in_parallel(run, 30, 1)
        assert len(names) == 3
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_stalled_helper_sends_the_caller_on_alone() -> None:
    main, names = threading.main_thread(), []

    def run(first: int, last: int) -> None:
        names.append(threading.current_thread() is main)
        time.sleep(0.001 if threading.current_thread() is main else 0.2)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        in_parallel(run, 20, 1)
        assert not all(names)
        names.clear()
        in_parallel(run, 20, 1)
        assert names == [True] * 20
    finally:
        torch.set_num_threads(before)
    assert threads._rest > 0


WIDE_VECTORS = """
import llvmlite.binding as llvm
features = llvm.get_host_cpu_features()
features["avx512f"] = True  # LLVM makes two instructions of one where the processor has no such registers
llvm.get_host_cpu_features = lambda: features
import torch
from sparse_ulm.sparse import SparseTensor, SubmanifoldConv
from sparse_ulm.sparse.engines import tiles
from sparse_ulm.sparse.engines.kernels import use_kernel
assert tiles.VECTOR_BYTES == 64
torch.manual_seed(0)
coords = (torch.rand(1, 9, 8, 7, 6) < 0.4).nonzero()
for inputs, outputs in ((3, 1), (8, 8), (4, 16), (16, 24), (17, 40)):
    layer, answers = SubmanifoldConv(inputs, outputs, (3, 3, 3, 1)), []
    feats = torch.randn(len(coords), inputs)
    for name in ("compiled", "torch"):
        x = SparseTensor(coords, feats.clone().requires_grad_(), spatial_range=(1, 9, 8, 7, 6))
        layer.zero_grad()
        with use_kernel(name):
            y = layer(x)
            y.feats.square().sum().backward()
        answers.append((y.feats.detach(), x.feats.grad, layer.kernel.grad.clone()))
    for a, b in zip(*answers):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)
"""


def test_wider_vectors_give_the_same(tmp_path: Path) -> None:
    environment = os.environ | {
        "NUMBA_CACHE_DIR": str(tmp_path),
        "NUMBA_CPU_NAME": llvm.get_host_cpu_name(),
        "NUMBA_CPU_FEATURES": llvm.get_host_cpu_features().flatten(),  # what there really is, for numba
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run([sys.executable, "-c", WIDE_VECTORS], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
