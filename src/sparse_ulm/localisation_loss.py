"""The loss of LocalisationNet: which sites hold a bubble's centre, where it is, how bright."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from sparse_ulm import ranks
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

TruthRows = Float[Tensor, "n bxyzta=6"]
"""Rows (sample, x, y, z, frame, amplitude over noise rms): positions in voxels from the first voxel's centre; NaN
amplitude where it is not known."""

REACH = 2
"""Voxels around a bubble, per axis, whose sites can be near to it."""

HEAT_WIDTH_VOXELS = 0.7
POSITIVE_REACH_VOXELS = 1.5
OFFSET_REACH_VOXELS = 1.2
OFF_POSITIVE_WEIGHT = 0.3


@dataclass(frozen=True)
class Targets:
    """What each site should answer.

    Attributes:
        distance2: (sites,) squared distance to the nearest bubble in voxels; infinite where none is near.
        nearest: (sites,) row of that bubble; 0 where none is near.
        is_positive: (sites,) True for the site nearest to some bubble.
    """

    distance2: Float[Tensor, " sites"]
    nearest: Int64[Tensor, " sites"]
    is_positive: Float[Tensor, " sites"]


class LocalisationLoss(nn.Module):
    """Focal loss of the centres, Gaussian likelihood of the offsets, L1 of the log amplitude.

    The focal part is CenterNet's: the site nearest to a bubble is positive, sites around it count the less as
    negative the nearer they are. The likelihood lets the network state its own uncertainty, which linking uses as
    measurement noise. Our choice among DECODE-like losses, after a prototype (reference notes): it needs no sampling
    and no count, and two bubbles are two summits of the probability.

    Args:
        offset_weight: Of the likelihood of the offsets against the focal part.
        amplitude_weight: Of the amplitude.
    """

    def __init__(self, *, offset_weight: float = 0.3, amplitude_weight: float = 0.05) -> None:
        """Keep the weights."""
        super().__init__()
        self.offset_weight, self.amplitude_weight = offset_weight, amplitude_weight

    def forward(self, output: LocalisationOutput, truth: TruthRows) -> Float[Tensor, ""]:
        """Return the loss, divided by the number of bubbles that have a site, on all ranks together."""
        targets = make_targets(output.sites, truth)
        centres = centre_loss(output.sites.feats[:, LOGIT], targets).sum()
        places = self._place_loss(output.sites, targets, truth)
        centres, places, n_positive = ranks.add_up(torch.stack([centres, places, targets.is_positive.sum()]))
        n = n_positive.clamp_min(1.0)
        return centres / n + places / n

    def _place_loss(self, sites: SparseTensor, targets: Targets, truth: TruthRows) -> Float[Tensor, ""]:
        """Add up likelihoods of offsets, and errors of amplitudes, over the sites near a bubble."""
        feats = sites.feats
        near = targets.distance2 <= OFFSET_REACH_VOXELS**2
        if not bool(near.any()):
            return 0.0 * feats.sum()
        weight = torch.where(targets.is_positive[near] > 0, 1.0, OFF_POSITIVE_WEIGHT)
        bubble = truth[targets.nearest[near]]
        wanted = bubble[:, 1:4].to(feats.dtype) - sites.coords[near, 1:4].to(feats.dtype)
        likelihood = offset_loss(feats[near, OFFSET], feats[near, LOG_DEVIATION], wanted)
        log_amplitude = torch.log(bubble[:, 5].clamp_min(1e-3)).to(feats.dtype)
        known = torch.isfinite(log_amplitude)
        brightness = (feats[near, LOG_AMPLITUDE] - torch.where(known, log_amplitude, 0.0)).abs() * known
        return (weight * (self.offset_weight * likelihood + self.amplitude_weight * brightness)).sum()


def centre_loss(logit: Float[Tensor, " sites"], targets: Targets) -> Float[Tensor, " sites"]:
    """CenterNet's focal loss per site: exponents 2 and 4 as published there."""
    p = torch.sigmoid(logit)
    heat = torch.exp(-0.5 * targets.distance2 / HEAT_WIDTH_VOXELS**2)
    positive = (1.0 - p) ** 2 * -logsigmoid(logit)
    negative = (1.0 - heat) ** 4 * p**2 * -logsigmoid(-logit)
    return torch.where(targets.is_positive > 0, positive, negative)


def offset_loss(
    offset: Float[Tensor, "n xyz=3"], log_deviation: Float[Tensor, "n xyz=3"], wanted: Float[Tensor, "n xyz=3"]
) -> Float[Tensor, " n"]:
    """Negative logarithm of a Gaussian's likelihood, up to a constant, summed over the axes."""
    s = log_deviation.clamp(*LOG_DEVIATION_RANGE)
    return (0.5 * ((offset - wanted) * torch.exp(-s)) ** 2 + s).sum(dim=1)


def make_targets(sites: SparseTensor, truth: TruthRows) -> Targets:
    """Find each site's nearest bubble, and each bubble's nearest site within 1.5 voxels per axis.

    Bubbles outside of the range, or without a site near them, have no positive: nothing can be answered there.
    """
    n = len(sites.coords)
    infinite = torch.full((n,), torch.inf, dtype=sites.feats.dtype, device=sites.feats.device)
    nothing = Targets(infinite, torch.zeros(n, dtype=torch.long, device=infinite.device), torch.zeros_like(infinite))
    if n == 0 or len(truth) == 0:
        return nothing
    row, bubble, distance2, gap = _near_pairs(sites, truth)
    if len(row) == 0:
        return nothing
    smallest = infinite.scatter_reduce(0, row, distance2, "amin")
    is_smallest = distance2 == smallest[row]
    nearest = nothing.nearest.scatter(0, row[is_smallest], bubble[is_smallest])
    best = torch.full((len(truth),), torch.inf, dtype=distance2.dtype, device=distance2.device)
    reachable = gap <= POSITIVE_REACH_VOXELS
    best = best.scatter_reduce(0, bubble[reachable], distance2[reachable], "amin")
    chosen = reachable & (distance2 == best[bubble])
    return Targets(smallest, nearest, nothing.is_positive.scatter(0, row[chosen], 1.0))


def _near_pairs(sites: SparseTensor, truth: TruthRows) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pairs of a site and a bubble of its frame within `REACH` voxels: rows, squared distance, largest gap per axis."""
    step = torch.arange(-REACH, REACH + 1, device=truth.device)
    y_step = step if sites.spatial_range[2] > 1 else step[REACH : REACH + 1]
    offsets = torch.cartesian_prod(step, y_step, step)
    centre = torch.round(truth[:, 1:4]).long()
    spatial = centre[:, None] + offsets
    inside = ((spatial >= 0) & (spatial < torch.tensor(sites.spatial_range[1:4], device=truth.device))).all(dim=2)
    inside &= ((truth[:, 4] >= 0) & (truth[:, 4] < sites.spatial_range[4]))[:, None]
    bubble, number = torch.nonzero(inside, as_tuple=True)
    where = spatial[bubble, number]
    wanted = torch.cat([truth[bubble, :1].long(), where, truth[bubble, 4:5].long()], dim=1).int()
    row, found = find_keys(site_keys(sites.coords, sites.spatial_range), site_keys(wanted, sites.spatial_range))
    row, bubble, where = row[found], bubble[found], where[found]
    gap = (truth[bubble, 1:4] - where).abs().to(sites.feats.dtype)
    return row, bubble, (gap**2).sum(dim=1), gap.amax(dim=1)
