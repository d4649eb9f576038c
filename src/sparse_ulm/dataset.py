"""Data sets and loaders of blocks: read and made sparse once, then kept, since a sparse block is small."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from monai.data import Dataset
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
        augmentation: Random part, run every time on the kept result; None for none.
    """

    def __init__(
        self,
        data: RecordingBlocks | list[dict[str, Any]],
        transform: Callable[[Any], Any],
        augmentation: Callable[[Any], Any] | None = None,
    ) -> None:
        """Keep data and transforms; nothing is read."""
        super().__init__(data=data, transform=transform)
        self.augmentation = augmentation
        self._kept: dict[int, Any] = {}

    def _transform(self, index: int) -> Any:
        if index not in self._kept:
            self._kept[index] = super()._transform(index)
        item = self._kept[index]
        return item if self.augmentation is None else self.augmentation(item)


class ShuffledBlocks(Sampler[int]):
    """A new order every epoch, drawn from the seed and the epoch, so that a resumed run sees the orders it would have.

    torch's RandomSampler refuses an empty data set when it is made, which a config without data would trip over.
    """

    def __init__(self, dataset: Dataset, seed: int) -> None:
        """Keep the data set and the seed."""
        self.dataset, self.seed, self.epoch = dataset, seed, 0

    def __len__(self) -> int:
        """Return the number of blocks."""
        return len(self.dataset)

    def __iter__(self) -> Iterator[int]:
        """Give the next epoch's order."""
        generator = torch.Generator().manual_seed(self.seed + 1_000_003 * self.epoch)
        self.epoch += 1
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
