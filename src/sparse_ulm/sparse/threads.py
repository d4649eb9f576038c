"""Coarse parallel loops on PyTorch's number of threads."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch


def in_parallel(run: Callable[[int, int], None], n_items: int, step: int) -> None:
    """Call `run(first, last)` for parts of `step` items, on as many threads as PyTorch has been given.

    Every thread, the caller's among them, takes the next part when it is done with one: on a busy machine the others
    go on. Ours because PyTorch lends its threads to no Python code, and OpenMP waits for the slowest of equal shares.
    `run` must release the interpreter lock, as compiled loops do.
    """
    parts = iter(range(0, n_items, step))

    def work() -> None:
        for first in parts:  # one range iterator for all: each part is handed out once
            run(first, min(first + step, n_items))

    n_helpers = min(torch.get_num_threads(), -(-n_items // step)) - 1
    helpers = [_pool(os.getpid()).submit(work) for _ in range(n_helpers)]
    work()
    for helper in helpers:
        if not helper.cancel():  # one that has not begun has nothing left to do
            helper.result()


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """Give the threads of this process; a forked one has to start its own."""
    return ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix=f"sparse-ulm-{process}")
