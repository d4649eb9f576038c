"""From the answers of LocalisationNet to bubbles: summits of the probability, where their neighbourhood says they are.

Neighbouring sites each answer for the same bubble. Those that agree on its place are averaged, and their probabilities
add up to the confidence in it: on validation recordings both found more bubbles at the same precision than the
summit's own answer (docs/decisions/0006).
"""

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
from sparse_ulm.sparse import SparseTensor
from sparse_ulm.sparse.keys import find_keys, site_keys

LEAST_PROBABILITY = 0.05
"""Summits below this are dropped at once; every threshold in use lies above."""

AGREEMENT_VOXELS = 0.7
"""Answers nearer than this to the summit's are for the same bubble."""

N_COLUMNS = 9
BubbleTable = Float[Tensor, "n columns=9"]
"""Rows (frame, x, y, z, confidence, deviation along x, y, z, amplitude over noise rms) of one sample, by frame."""


def find_summits(output: LocalisationOutput, n_samples: int) -> list[BubbleTable]:
    """Give the bubbles of each sample: sites whose probability is the largest of their 26 neighbours in the frame.

    Of equal neighbours the first in order of the sites is the summit. Positions are in voxels, counted from the first
    voxel's centre; frames from the block's first. The confidence is a sum of probabilities, from the summit's own up
    to 27; the deviation is the summit's own answer, since errors of neighbours are not independent.
    """
    sites = output.sites
    probability = torch.sigmoid(sites.feats[:, LOGIT].detach())
    candidate = torch.nonzero(probability > LEAST_PROBABILITY)[:, 0]
    candidate = candidate[torch.sort(probability[candidate], descending=True, stable=True).indices]
    kept = candidate[_is_first_of_neighbours(sites.coords[candidate], sites.spatial_range)]
    coords, feats = sites.coords[kept], sites.feats[kept].detach()
    position, confidence = _agreed(sites, probability, kept)
    deviation = torch.exp(feats[:, LOG_DEVIATION].clamp(*LOG_DEVIATION_RANGE))
    columns = [coords[:, 4:5].to(feats.dtype), position, confidence[:, None], deviation]
    table = torch.cat([*columns, torch.exp(feats[:, LOG_AMPLITUDE : LOG_AMPLITUDE + 1])], dim=1)
    return [_by_frame(table[coords[:, 0] == i]) for i in range(n_samples)]


def to_localisations(
    table: BubbleTable, *, start: int, threshold: float, noise_rms: float, shape: tuple[int, int, int]
) -> Localisations:
    """Turn the bubbles of one block into a table of the recording.

    Args:
        table: From `find_summits`.
        start: The block's first frame.
        threshold: Only those of more confidence are kept.
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


def _agreed(sites: SparseTensor, probability: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of the kept sites' bubbles (n, 3); summed probability of the answers that agree on each (n,)."""
    near, found = _neighbours(sites.coords, sites.coords[kept], sites.spatial_range)
    answer = sites.coords[:, 1:4] + sites.feats[:, OFFSET].detach()
    apart = (answer[near] - answer[kept, None]).norm(dim=2)
    weight = probability[near] * (found & (apart < AGREEMENT_VOXELS))
    precision = torch.exp(-2.0 * sites.feats[:, LOG_DEVIATION].detach().clamp(*LOG_DEVIATION_RANGE))
    share = weight[..., None] * precision[near]
    return (share * answer[near]).sum(dim=1) / share.sum(dim=1), weight.sum(dim=1)


def _neighbours(coords: Tensor, of: Tensor, spatial_range: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Rows of `coords` (b, x, y, z, t) in the 27 voxels round each row of `of`, and whether there is one: (n, 27)."""
    step = torch.cartesian_prod(*[torch.arange(-1, 2, dtype=coords.dtype, device=coords.device)] * 3)
    # A margin round the grid keeps a step over its edge from landing on the other side.
    margin = torch.tensor([0, 1, 1, 1, 0], dtype=coords.dtype, device=coords.device)
    extent = [n + 2 * m for n, m in zip(spatial_range, margin.tolist(), strict=True)]
    own = site_keys(coords + margin, extent)
    order = torch.argsort(own)
    around = (of[:, None] + margin + torch.nn.functional.pad(step, (1, 1))).reshape(-1, 5)
    row, found = find_keys(own[order], site_keys(around, extent))
    shape = len(of), len(step)
    return (order[row] if len(coords) else row).reshape(shape), found.reshape(shape)


def _is_first_of_neighbours(coords: Tensor, spatial_range: tuple[int, ...]) -> Tensor:
    """Tell which rows (b, x, y, z, t), best first, have no better neighbour in their frame."""
    near, found = _neighbours(coords, coords, spatial_range)
    rank = torch.arange(len(coords), device=coords.device)
    return ~(found & (near < rank[:, None])).any(dim=1)
