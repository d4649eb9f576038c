"""Batches of sparse samples: joining them before the network, splitting its answer afterwards."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_ulm.localise import BubbleTable, find_summits
from sparse_ulm.networks.localisation import LocalisationOutput
from sparse_ulm.networks.trajectory_map import TrajectoryMapOutput, probability_of
from sparse_ulm.sparse import SparseTensor, as_sparse_tensor

VoxelProbabilities = Float[Tensor, "n xyzp=4"]
"""Rows (x, y, z, probability) of one block on the super-resolved grid."""


def join_samples(samples: Sequence[Any]) -> SparseTensor:
    """Join samples into a batch, in order; the range is the largest of theirs on every axis.

    Engines' own collate functions derive the batch size from the coordinates, so that an empty sample vanishes; this
    one keeps it.

    Args:
        samples: Sparse tensors of batch size 1 with equal channels, ours or TorchSparse's.
    """
    samples = [as_sparse_tensor(sample) for sample in samples]
    spatial_range = tuple(max(sizes) for sizes in zip(*(s.spatial_range[1:] for s in samples), strict=True))
    coords = torch.cat([sample.coords for sample in samples])
    coords[:, 0] = torch.repeat_interleave(
        torch.arange(len(samples), dtype=coords.dtype), torch.tensor([len(s.coords) for s in samples])
    )
    feats = torch.cat([sample.feats for sample in samples])
    return SparseTensor(coords, feats, spatial_range=(len(samples), *spatial_range), engine=samples[0].engine)


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Join data-set items: `image` into one sparse batch, `label` rows with the sample in front, the rest into lists.

    Args:
        items: Dictionaries with `image`, a sparse tensor, and optionally `label`, int32 (m, 4) rows (x, y, z, slot).
    """
    batch: dict[str, Any] = {key: [item[key] for item in items] for key in items[0]}
    batch["image"] = join_samples(batch["image"])
    if "label" in batch:
        batch["label"] = torch.cat([torch.nn.functional.pad(s, (1, 0), value=i) for i, s in enumerate(batch["label"])])
    return batch


def split_output(
    output: TrajectoryMapOutput | LocalisationOutput, n_samples: int
) -> list[VoxelProbabilities] | list[BubbleTable]:
    """Split the answer for a batch into one table per sample: voxels of the final map, or bubbles.

    An early phase of the cascade has no final map: its tables are empty.
    """
    if isinstance(output, LocalisationOutput):
        return find_summits(output, n_samples)
    if output.final is None:
        return [torch.zeros(0, 4) for _ in range(n_samples)]
    table = torch.cat([output.final.coords[:, 1:4].float(), probability_of(output.final).detach()[:, None]], dim=1)
    sample = output.final.coords[:, 0]
    return [table[sample == i] for i in range(n_samples)]
