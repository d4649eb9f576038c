"""Coarse parallel loops: as many threads as PyTorch has been given, in small parts, alone on a machine or not."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache

import torch

_STALLED_S = 1e-3
_REST_CALLS = 30
"""A helper that kept us waiting so long beyond two parts had lost its core; for so many calls we then go alone."""

_lent: int | None = None
_rest = 0


@contextmanager
def lend_threads() -> Iterator[None]:
    """Give PyTorch's threads to our loops alone: inside the `with` block its own operations run on one.

    Between sparse layers its operations are small. OpenMP's threads then spend their time waiting for each other, and
    on a machine with other work every such region waits for the core that was taken away (benchmarks/threads.py).
    """
    global _lent
    before = torch.get_num_threads()
    outer, _lent = _lent, max(before, _lent or 1)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        _lent = outer
        torch.set_num_threads(before)


def in_parallel(run: Callable[[int, int], None], n_items: int, step: int) -> None:
    """Call `run(first, last)` for parts of `step` items, on as many threads as PyTorch has been given.

    Every thread, the caller's among them, takes the next part when it is done with one: on a busy machine the others
    go on. A helper whose core was taken away in the middle of a part makes the caller wait for the operating system;
    after such a call the caller goes alone for a while, so that more threads are not slower than one. Ours because
    PyTorch lends its threads to no Python code. `run` must release the interpreter lock, as compiled loops do.
    """
    global _rest
    parts = iter(range(0, n_items, step))
    done = 0

    def work() -> None:
        for first in parts:  # one range iterator for all: each part is handed out once
            run(first, min(first + step, n_items))

    n_helpers = min(_lent or torch.get_num_threads(), -(-n_items // step)) - 1
    if n_helpers > 0 and _rest > 0:
        n_helpers, _rest = 0, _rest - 1
    helpers = [_pool(os.getpid()).submit(work) for _ in range(n_helpers)]
    start = time.perf_counter()
    for first in parts:
        run(first, min(first + step, n_items))
        done += 1
    alone = time.perf_counter()
    for helper in helpers:
        if not helper.cancel():  # one that has not begun has nothing left to do
            helper.result()
    if helpers and time.perf_counter() - alone > _STALLED_S + 2 * (alone - start) / max(1, done):
        _rest = _REST_CALLS


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """Give the threads of this process; a forked one has to start its own."""
    return ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix=f"sparse-ulm-{process}")
