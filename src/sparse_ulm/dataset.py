"""Data sets and loaders of blocks: read and made sparse once, then kept, since a sparse block is small."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from monai.data import Dataset
from monai.transforms import Randomizable
from torch.utils.data import DataLoader, Sampler

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
    """

    def __init__(self, dataset: Dataset, seed: int) -> None:
        """Keep the data set and the seed."""
        self.dataset, self.seed, self.epoch = dataset, seed, 0

    def __len__(self) -> int:
        """Return the number of blocks."""
        return len(self.dataset)

    def __iter__(self) -> Iterator[int]:
        """Give the epoch's order."""
        generator = torch.Generator().manual_seed(self.seed + 1_000_003 * self.epoch)
        return iter(torch.randperm(len(self.dataset), generator=generator).tolist())


class BlockLoader(DataLoader):
    """Loader of sparse batches; in order, or shuffled with a seed of its own.

    Args:
        dataset: `CachedBlocks` or a MONAI Dataset of blocks.
        batch_blocks: Blocks per batch.
        shuffle_seed: None keeps the order.
    """

    def __init__(self, dataset: Dataset, *, batch_blocks: int, shuffle_seed: int | None = None) -> None:
        """Make the loader; it works in this process, since the sparse blocks are kept here."""
        sampler = None if shuffle_seed is None else ShuffledBlocks(dataset, shuffle_seed)
        super().__init__(dataset, batch_size=batch_blocks, sampler=sampler, collate_fn=collate)

    def set_epoch(self, epoch: int) -> None:
        """Draw order and augmentation for this epoch of the trainer from now on."""
        for part in (self.sampler, self.dataset):
            if hasattr(part, "epoch"):
                part.epoch = epoch
