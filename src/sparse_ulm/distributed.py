"""Joining the processes that torchrun started, by ignite.distributed; what the overlays of configs/ call."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import ignite.distributed as idist
import torch

from sparse_ulm.errors import UserError


def start_ranks(*, backend: str, timeout_minutes: float | int) -> None:
    """Join the processes that torchrun started; a process that it did not start stays alone.

    All but rank 0 stop to log what is no warning: they would say the same.

    Args:
        backend: "gloo"; "nccl", which wants a GPU per process; or "auto", nccl where there are GPUs.
        timeout_minutes: How long a process waits for another one before it gives up.

    Raises:
        UserError: If there are more processes than GPUs, or the time is not positive.
    """
    if not timeout_minutes > 0:
        raise UserError(f"rank_timeout_minutes is {timeout_minutes}; wanted a positive number of minutes.")
    if "RANK" not in os.environ:
        return
    device_of_rank()  # refuses what CUDA would refuse in words of its own
    if backend == "auto":
        backend = "nccl" if torch.cuda.is_available() else "gloo"
    hook = sys.excepthook
    with _torchrun_alone():
        idist.initialize(backend, timeout=timedelta(minutes=timeout_minutes))
    sys.excepthook = hook  # PyTorch would write [rank0] before a user's one line
    if idist.get_rank() > 0:
        logging.disable(logging.INFO)


def stop_ranks() -> None:
    """Leave the others."""
    idist.finalize()


def device_of_rank() -> torch.device:
    """Give the GPU of this process, by its number on the machine; the CPU where there is none.

    Raises:
        UserError: If this machine has more processes than GPUs.
    """
    number = int(os.environ.get("LOCAL_RANK", "0"))
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if number >= torch.cuda.device_count():
        raise UserError(
            f"process {number + 1} of this machine finds {torch.cuda.device_count()} GPUs; wanted one for each. Lower "
            "--nproc_per_node, or set CUDA_VISIBLE_DEVICES to nothing for CPUs."
        )
    return torch.device("cuda", number)


@contextmanager
def _torchrun_alone() -> Iterator[None]:
    """Hide the Slurm job: ignite would take its tasks for our ranks, and refuses torchrun on several nodes."""
    job = os.environ.pop("SLURM_JOB_ID", None)
    try:
        yield
    finally:
        if job is not None:
            os.environ["SLURM_JOB_ID"] = job
