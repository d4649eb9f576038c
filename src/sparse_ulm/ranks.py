"""Several processes that share one run: who this one is, and what goes between them. One process is rank 0 of 1.

`distributed.start_ranks` joins what torchrun started; without it all functions here answer at once.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function

from sparse_ulm.errors import RanksError

T = TypeVar("T")


def rank() -> int:
    """Give this process's number among those of the run, from 0."""
    return dist.get_rank() if _are_joined() else 0


def n_ranks() -> int:
    """Give the number of processes of the run."""
    return dist.get_world_size() if _are_joined() else 1


def launched_rank() -> int | None:
    """Give the number that torchrun has given this process, joined to the others or not; None for a process alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return None
    return int(os.environ.get("RANK", "0"))


def share_of(items: Sequence[T], number: int, n_shares: int) -> list[T]:
    """Cut a sequence into runs of about equal length and give one of them.

    Runs in place of every n-th item, because blocks that follow each other read and filter the same frames
    (`filtered.FilteredFrames`): each run does that once, and only where two runs meet is it done twice.

    >>> [share_of([10, 20, 30, 40, 50], number, 3) for number in range(3)]
    [[10], [20, 30], [40, 50]]
    """
    return list(items[len(items) * number // n_shares : len(items) * (number + 1) // n_shares])


def broadcast(value: T | None) -> T | None:
    """Give all ranks the value of rank 0; that of the others counts for nothing.

    Raises:
        RanksError: If a process is gone, or does not come here in time.
    """
    kept: list[Any] = [value]
    if n_ranks() > 1:
        with _one_line():
            dist.broadcast_object_list(kept, src=0)
    return kept[0]


def gather(value: T) -> list[T]:
    """Give all ranks the values of all, by rank.

    Raises:
        RanksError: If a process is gone, or does not come here in time.
    """
    kept: list[Any] = [value] * n_ranks()
    if n_ranks() > 1:
        with _one_line():
            dist.all_gather_object(kept, value)
    return kept


def add_up(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Add up a tensor over all ranks, with a gradient: what each of them makes of the sum comes back to all.

    Where every rank takes the same loss of the sums, its gradient is `n_ranks` times what it is of this rank's own
    terms; `shared_training.average_gradients` takes the factor out.

    Raises:
        RanksError: If a process is gone, or does not come here in time; in the backward pass too.
    """
    return _Sum.apply(values) if n_ranks() > 1 else values


def stack(values: Float[Tensor, "*shape"]) -> Float[Tensor, "ranks *shape"]:
    """Give all ranks the tensors of all, of the same shape, by rank; without a gradient.

    Raises:
        RanksError: If a process is gone, or does not come here in time.
    """
    if n_ranks() == 1:
        return values[None]
    found = [torch.empty_like(values) for _ in range(n_ranks())]
    with _one_line():
        dist.all_gather(found, values.contiguous())
    return torch.stack(found)


def copy_from_first(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors by those of rank 0."""
    if n_ranks() > 1:
        with _one_line(), torch.no_grad():
            for tensor in tensors:
                dist.broadcast(tensor, src=0)


class _Sum(Function):
    """The sum over ranks; its gradient is the sum of all ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        """Add up."""
        return _total(values)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        """Add up what comes back."""
        return _total(grad)


def _total(values: Tensor) -> Tensor:
    total = values.detach().clone(memory_format=torch.contiguous_format)
    with _one_line():
        dist.all_reduce(total)
    return total


def _are_joined() -> bool:
    return dist.is_available() and dist.is_initialized()


@contextmanager
def _one_line() -> Iterator[None]:
    """Turn what gloo and nccl say of a lost process into one line."""
    try:
        yield
    except RuntimeError as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].partition(". ")[0]
        raise RanksError(
            f"another of the {n_ranks()} processes ended, or did not answer in time ({reason}); wanted all to work "
            "together. It says why itself; run again: what is done is kept."
        ) from error
