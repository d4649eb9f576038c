"""Several ranks for tests: forked from this process, so that nothing is imported again, and joined by gloo."""

import multiprocessing
import os
import pickle
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sparse_ulm.errors import find_user_error

PATIENCE_S = 400.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def on_ranks(n_ranks: int, work: Callable[..., Any], *arguments: Any, join: bool = True) -> list[Any]:
    """Call `work(*arguments)` on every rank; give what each returned or raised, or the exit code of one that died.

    Args:
        n_ranks: Number of processes.
        work: Called on each; with `join` as one of a gloo group, else with the environment of torchrun alone.
        *arguments: Of `work`.
        join: Whether to make the group.
    """
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as name:
        port = free_port()
        files = [Path(name) / str(number) for number in range(n_ranks)]
        processes = [
            context.Process(target=_one, args=(number, n_ranks, port, file, work, arguments, join))
            for number, file in enumerate(files)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(PATIENCE_S)
            process.kill()
            process.join()
        return [
            pickle.loads(file.read_bytes()) if file.exists() else process.exitcode
            for file, process in zip(files, processes, strict=True)
        ]


def _one(
    number: int, n_ranks: int, port: int, file: Path, work: Callable[..., Any], arguments: tuple[Any, ...], join: bool
) -> None:
    torch.set_num_threads(1)  # OpenMP's threads did not come along
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(n_ranks)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        if join:
            from sparse_ulm.distributed import start_ranks

            start_ranks(backend="gloo", timeout_minutes=PATIENCE_S / 60.0)
        result = work(*arguments)
    except Exception as error:
        traceback.print_exc()
        result = find_user_error(error) or error  # MONAI wraps it, and a cause does not travel
    file.with_suffix(".partial").write_bytes(pickle.dumps(result))
    file.with_suffix(".partial").rename(file)
    sys.stdout.flush()
    os._exit(0)
