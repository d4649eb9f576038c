"""From the answers of LocalisationNet to bubbles: summits of the probability, where their neighbourhood says they are.

Neighbouring sites each answer for the same bubble. Those that agree on its place are averaged, and their probabilities
add up to the confidence in it: on validation recordings both found more bubbles at the same precision than the
summit's own answer (docs/decisions/0006).
"""

import torch
from jaxtyping import Bool, Float, Int64
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
from sparse_ulm.sparse.maps import neighbours
from sparse_ulm.sparse.pairs import Pairs

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
    # The network's first layer has left this very map behind.
    near = neighbours(sites, (3, 3 if sites.spatial_range[2] > 1 else 1, 3, 1))
    kept = torch.nonzero(_is_summit(probability, near))[:, 0]
    coords, feats = sites.coords[kept], sites.feats[kept].detach()
    position, confidence = _agreed(sites, probability, near, kept)
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


def _is_summit(probability: Float[Tensor, " sites"], near: Pairs) -> Bool[Tensor, " sites"]:
    """Tell which sites have no likelier neighbour, and no equal one before them."""
    is_summit = probability > LEAST_PROBABILITY
    for _, other, own in near.taps():
        theirs, ours = probability[other], probability[own]
        is_summit[own[(theirs > ours) | ((theirs == ours) & (other < own))]] = False
    return is_summit


def _agreed(
    sites: SparseTensor, probability: Float[Tensor, " sites"], near: Pairs, kept: Int64[Tensor, " n"]
) -> tuple[Float[Tensor, "n xyz=3"], Float[Tensor, " n"]]:
    """Positions of the kept sites' bubbles, and the summed probability of the answers that agree on each."""
    answer = sites.coords[:, 1:4] + sites.feats[:, OFFSET].detach()
    precision = torch.exp(-2.0 * sites.feats[:, LOG_DEVIATION].detach().clamp(*LOG_DEVIATION_RANGE))
    number = torch.full((len(probability),), -1, device=kept.device)
    number[kept] = torch.arange(len(kept), device=kept.device)
    confidence = probability.new_zeros(len(kept))
    moment, total = answer.new_zeros(len(kept), 3), answer.new_zeros(len(kept), 3)
    for _, other, own in near.taps():
        of_kept = torch.nonzero(number[own] >= 0)[:, 0]
        by, of = other[of_kept], own[of_kept]
        agrees = (answer[by] - answer[of]).norm(dim=1) < AGREEMENT_VOXELS
        weight, row = probability[by] * agrees, number[of]
        share = weight[:, None] * precision[by]
        # No row stands twice within a tap.
        confidence[row] += weight
        moment[row] += share * answer[by]
        total[row] += share
    return moment / total, confidence
