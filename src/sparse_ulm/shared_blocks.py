"""One recording's blocks on several ranks: rank 0 says which, each computes its share, all hear how it went.

Rank 0 alone locks the output folder, keeps the manifest and writes; the results of blocks go between the ranks as files
of the block store, so that a run that was stopped goes on with any number of ranks.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sparse_ulm import ranks
from sparse_ulm.block_store import BlockStore
from sparse_ulm.blocks import RecordingBlocks
from sparse_ulm.errors import RanksError, RecordingError, find_user_error

Compute = Callable[[BlockStore], None]
"""Computes the selected blocks and saves each one's result."""

VISIBLE_AFTER_S = 90.0
"""How long files of another machine may take to appear: NFS keeps what it knows of a folder for up to a minute."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Order:
    """What rank 0 has the others compute.

    Attributes:
        name: Of the recording.
        folder: Of its block store.
        fingerprint: Of the block store.
        starts: First frames of the blocks, of all ranks together.
    """

    name: str
    folder: Path
    fingerprint: str
    starts: list[int]


@contextmanager
def leading() -> Iterator[None]:
    """Let the others go at the end, whatever it is; those that follow end well, and rank 0 tells how the run ended."""
    try:
        yield
    except Exception as error:
        if not isinstance(find_user_error(error), RanksError):
            ranks.broadcast(None)
        raise
    ranks.broadcast(None)


def follow(blocks: RecordingBlocks, compute: Compute) -> None:
    """Compute shares for rank 0 until it lets this rank go.

    Raises:
        RanksError: If rank 0 is gone.
    """
    order: Order | None
    while (order := ranks.broadcast(None)) is not None:
        ranks.gather(_portable(_attempt(order, blocks, compute)))


def compute_together(order: Order, store: BlockStore, blocks: RecordingBlocks, compute: Compute) -> None:
    """Compute blocks of a recording on all ranks; called by rank 0.

    Raises:
        Exception: What went wrong on the first rank where something did.
        RanksError: If a rank is gone.
    """
    ranks.broadcast(order)
    own = _attempt(order, blocks, compute)
    errors = ranks.gather(_portable(own))
    for error in (own, *errors):
        if error is not None:
            raise error
    if ranks.n_ranks() > 1:
        _wait_for_files(store, order.starts)


def _attempt(order: Order, blocks: RecordingBlocks, compute: Compute) -> Exception | None:
    """Compute this rank's share; give what went wrong."""
    share = ranks.share_of(order.starts, ranks.rank(), ranks.n_ranks())
    try:
        if order.name not in blocks.by_recording():
            raise RecordingError(
                f"{order.name} is not in {blocks.dataset_dir} where rank {ranks.rank()} runs; wanted a folder that all "
                "machines see. Put the recordings on a shared file system."
            )
        blocks.select(order.name, share)
        if share:
            compute(BlockStore(order.folder, order.fingerprint, take_over=False))
    except Exception as error:
        return error
    return None


def _portable(error: Exception | None) -> Exception | None:
    """Make an error that can be sent: the user's mistake, or the name and text of ours, whose traceback is logged."""
    if error is None:
        return None
    mistake = find_user_error(error)
    if mistake is not None:
        return type(mistake)(str(mistake))
    if ranks.rank() > 0:
        logger.error("Rank %d failed.", ranks.rank(), exc_info=error)
    return RuntimeError(f"{type(error).__name__}: {error}")


def _wait_for_files(store: BlockStore, starts: list[int]) -> None:
    """Wait until the files of all ranks are seen here.

    Raises:
        RecordingError: If they do not come.
    """
    until = time.monotonic() + VISIBLE_AFTER_S
    while absent := store.unseen(starts):
        if time.monotonic() > until:
            raise RecordingError(
                f"{len(absent)} of {len(starts)} blocks that other processes computed do not appear in {store.folder}; "
                "wanted a folder that all machines see. Choose an --output_dir on a shared file system."
            )
        time.sleep(0.5)
