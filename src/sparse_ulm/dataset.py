"""Data sets and loaders of blocks: read and made sparse once, then kept, since a sparse block is small."""

from collections.abc import Callable, Iterator
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from monai.data import Dataset
from monai.transforms import Randomizable
from torch.utils.data import DataLoader, Sampler

from sparse_ulm import ranks
from sparse_ulm.batching import collate
from sparse_ulm.blocks import RecordingBlocks


class CachedBlocks(Dataset):
    """Blocks whose transform runs on first use; its result is kept in memory.

    MONAI's CacheDataset reads everything when it is made, which `check_properties` and a config that is only inspected
    would pay for.

    Args:
        data: The items.
        transform: Deterministic part, kept.
        augmentation: Random part, run every time on the kept result; None for none. What it draws follows from
            (seed, epoch, index) alone, so that a run that was stopped and resumed draws what it would have drawn.
        seed: Of the augmentation.

    Attributes:
        epoch: Set by `BlockLoader.set_epoch`.
    """

    def __init__(
        self,
        data: RecordingBlocks | list[dict[str, Any]],
        transform: Callable[[Any], Any],
        augmentation: Callable[[Any], Any] | None = None,
        seed: int = 0,
    ) -> None:
        """Keep data and transforms; nothing is read."""
        super().__init__(data=data, transform=transform)
        self.augmentation = augmentation
        self.seed, self.epoch = seed, 0
        self._kept: dict[int, Any] = {}

    def _transform(self, index: int) -> Any:
        if index not in self._kept:
            self._kept[index] = super()._transform(index)
        item = self._kept[index]
        if self.augmentation is None:
            return item
        if isinstance(self.augmentation, Randomizable):
            # MONAI's transforms start from a random state that set_determinism does not reach.
            draws = np.random.SeedSequence([self.seed, self.epoch, index]).generate_state(1)
            self.augmentation.set_random_state(seed=int(draws[0]))
        return self.augmentation(item)


class ShuffledBlocks(Sampler[int]):
    """A new order every epoch, drawn from the seed and the epoch, so that a resumed run sees the orders it would have.

    The epoch is the trainer's (`BlockLoader.set_epoch`): one counted here would start again at 0 after a resume.
    torch's RandomSampler refuses an empty data set when it is made, which a config without data would trip over.

    Args:
        dataset: The blocks.
        seed: Of the orders.
        over_ranks: Give each of n ranks every n-th block of the order. As many for all: at the order's end some ranks
            get one of its beginning. Ranks that take b blocks each then take together what one process with n b blocks
            per batch would take.
    """

    def __init__(self, dataset: Dataset, seed: int, *, over_ranks: bool = False) -> None:
        """Keep the data set and the seed."""
        self.dataset, self.seed, self.epoch, self.over_ranks = dataset, seed, 0, over_ranks

    def __len__(self) -> int:
        """Return the number of blocks."""
        return -(-len(self.dataset) // self._n_shares)

    def __iter__(self) -> Iterator[int]:
        """Give the epoch's order."""
        generator = torch.Generator().manual_seed(self.seed + 1_000_003 * self.epoch)
        order = torch.randperm(len(self.dataset), generator=generator).tolist()
        number = ranks.rank() if self.over_ranks else 0
        return islice(cycle(order), number, len(self) * self._n_shares, self._n_shares)

    @property
    def _n_shares(self) -> int:
        return ranks.n_ranks() if self.over_ranks else 1


class EveryNthBlock(Sampler[int]):
    """In order, each block on one rank alone: none may count twice in a score."""

    def __init__(self, dataset: Dataset) -> None:
        """Keep the data set."""
        self.dataset = dataset

    def __len__(self) -> int:
        """Return the number of this rank's blocks."""
        return len(self._indices())

    def __iter__(self) -> Iterator[int]:
        """Give this rank's blocks."""
        return iter(self._indices())

    def _indices(self) -> range:
        return range(ranks.rank(), len(self.dataset), ranks.n_ranks())


class BlockLoader(DataLoader):
    """Loader of sparse batches; in order, or shuffled with a seed of its own.

    Args:
        dataset: `CachedBlocks` or a MONAI Dataset of blocks.
        batch_blocks: Blocks per batch.
        shuffle_seed: None keeps the order.
        over_ranks: Divide the blocks among the processes of the run, where there are several.
    """

    def __init__(
        self, dataset: Dataset, *, batch_blocks: int, shuffle_seed: int | None = None, over_ranks: bool = False
    ) -> None:
        """Make the loader; it works in this process, since the sparse blocks are kept here."""
        sampler: Sampler[int] | None = None
        if shuffle_seed is not None:
            sampler = ShuffledBlocks(dataset, shuffle_seed, over_ranks=over_ranks)
        elif over_ranks:
            sampler = EveryNthBlock(dataset)
        super().__init__(dataset, batch_size=batch_blocks, sampler=sampler, collate_fn=collate)
        self.over_ranks = over_ranks

    def set_epoch(self, epoch: int) -> None:
        """Draw order and augmentation for this epoch of the trainer from now on."""
        for part in (self.sampler, self.dataset):
            if hasattr(part, "epoch"):
                part.epoch = epoch
