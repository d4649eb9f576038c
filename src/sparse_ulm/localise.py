"""From the answers of LocalisationNet to bubbles: summits of the probability, moved by their offsets."""

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_ulm.localisations import Localisations
from sparse_ulm.networks.localisation import (
    LOG_AMPLITUDE,
    LOG_DEVIATION,
    LOG_DEVIATION_RANGE,
    LOGIT,
    OFFSET,
    LocalisationOutput,
)

LEAST_PROBABILITY = 0.05
"""Summits below this are dropped at once; every threshold in use lies above."""

BubbleTable = Float[Tensor, "n columns=9"]
"""Rows (frame, x, y, z, probability, deviation along x, y, z, amplitude over noise rms) of one sample, by frame."""


def find_summits(output: LocalisationOutput, n_samples: int) -> list[BubbleTable]:
    """Give the bubbles of each sample: sites whose probability is the largest of their 26 neighbours in the frame.

    Of equal neighbours the first in order of the sites is the summit. Positions are in voxels, counted from the first
    voxel's centre; frames from the block's first.
    """
    sites = output.sites
    probability = torch.sigmoid(sites.feats[:, LOGIT].detach())
    candidate = torch.nonzero(probability > LEAST_PROBABILITY)[:, 0]
    candidate = candidate[torch.sort(probability[candidate], descending=True, stable=True).indices]
    kept = candidate[_is_first_of_neighbours(sites.coords[candidate])]
    coords, feats = sites.coords[kept], sites.feats[kept].detach()
    position = coords[:, 1:4].to(feats.dtype) + feats[:, OFFSET]
    deviation = torch.exp(feats[:, LOG_DEVIATION].clamp(*LOG_DEVIATION_RANGE))
    columns = [coords[:, 4:5].to(feats.dtype), position, probability[kept, None], deviation]
    table = torch.cat([*columns, torch.exp(feats[:, LOG_AMPLITUDE : LOG_AMPLITUDE + 1])], dim=1)
    return [_by_frame(table[coords[:, 0] == i]) for i in range(n_samples)]


def to_localisations(
    table: BubbleTable, *, start: int, threshold: float, noise_rms: float, shape: tuple[int, int, int]
) -> Localisations:
    """Turn the bubbles of one block into a table of the recording.

    Args:
        table: From `find_summits`.
        start: The block's first frame.
        threshold: Only more probable ones are kept.
        noise_rms: To turn amplitudes into the recording's units.
        shape: Voxels along x, y and z; what lies outside of the grid's outer faces is dropped.
    """
    size = torch.tensor(shape, dtype=table.dtype)
    inside = ((table[:, 1:4] >= -0.5) & (table[:, 1:4] < size - 0.5)).all(dim=1)
    chosen = table[(table[:, 4] > threshold) & inside].double().numpy()
    return Localisations(
        frame=chosen[:, 0].astype("int64") + start,
        position_voxel=chosen[:, 1:4],
        amplitude=chosen[:, 8] * noise_rms,
        deviation_voxel=chosen[:, 5:8],
    )


def _by_frame(table: BubbleTable) -> BubbleTable:
    return table[torch.sort(table[:, 0], stable=True).indices]


def _is_first_of_neighbours(coords: Tensor) -> Tensor:
    """Tell which rows (b, x, y, z, t), best first, have no better neighbour in their frame."""
    n = len(coords)
    if n == 0:
        return torch.zeros(0, dtype=torch.bool, device=coords.device)
    step = torch.cartesian_prod(*[torch.arange(-1, 2, dtype=coords.dtype, device=coords.device)] * 3)
    extent = (coords.amax(dim=0) + 3).tolist()
    extent[0], extent[4] = extent[0] - 2, extent[4] - 2
    own = _keys(coords, 0 * step[:1], extent)[:, 0]
    order = torch.argsort(own)
    row, found = _find(own[order], _keys(coords, step, extent))
    better = found & (order[row] < torch.arange(n, device=coords.device)[:, None])
    return ~better.any(dim=1)


def _keys(coords: Tensor, step: Tensor, extent: list[int]) -> Tensor:
    """Row-major keys of every row moved by every step, one voxel away from the border."""
    b, t = coords[:, 0].long()[:, None], coords[:, 4].long()[:, None]
    x, y, z = (coords[:, 1:4].long()[:, None] + step + 1).unbind(2)
    return (((b * extent[1] + x) * extent[2] + y) * extent[3] + z) * extent[4] + t


def _find(sorted_keys: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    row = torch.searchsorted(sorted_keys, wanted).clamp_(max=len(sorted_keys) - 1)
    return row, sorted_keys[row] == wanted
