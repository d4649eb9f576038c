"""Multi-scale sparse Dice: every head against the trajectories on its own grid, at its own temporal stride."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int32
from torch import Tensor, nn

from sparse_ulm import ranks
from sparse_ulm.networks.trajectory_map import TrajectoryMapOutput
from sparse_ulm.sparse import SparseTensor
from sparse_ulm.sparse.keys import find_keys, keys_to_coords, site_keys

TruthSites = Int32[Tensor, "n bxyzs=5"]
"""Rows (sample, x, y, z, slot) on the super-resolved grid that a trajectory visits; slots of `slot_frames` frames."""


class MultiScaleDiceLoss(nn.Module):
    """Mean of the soft-Dice losses of all heads that ran and of the final map.

    Truth is floored to each head's stride, as in the released code; unlike there, slots have the heads' own temporal
    stride, so that every target can be matched. A truth voxel with no site counts as missed.

    Args:
        upsampling: Refinement of the final grid over the input's, per axis: (8, 8, 8), or (8, 1, 8) in 2D.
        dilate: Grow the final targets by one voxel in every direction: the easier first phase of the released
            schedule.
        head_miss_weight: Weight of missed voxels against false ones in the heads' losses, in (0, 1); 0.5 is Dice. Above
            it a head keeps more than it is sure of, which suits pruning: what a head drops is lost, what it keeps too
            much the next one can drop. The final map always has Dice.
        tolerance_voxels: Distance along x, y and z, in super-resolved voxels, within which the final map's tolerant
            Dice (`tolerant_dice_loss`) counts a voxel as found; the final map's loss is then the mean of both. None
            leaves the exact one alone, as in the released code; so does `tolerant` while it is false.
        smooth: Added to both sides of the Dice ratio (1e-3: Rauby et al., released code).
    """

    def __init__(
        self,
        *,
        upsampling: tuple[int, int, int],
        head_miss_weight: float,
        dilate: bool = False,
        tolerance_voxels: Sequence[float] | None = None,
        smooth: float = 1.0e-3,
    ) -> None:
        """Keep the settings."""
        super().__init__()
        self.upsampling = upsampling
        self.head_miss_weight = head_miss_weight
        self.dilate = dilate
        self.offsets = None if tolerance_voxels is None else offsets_within(tolerance_voxels)
        self.tolerant = True
        self.smooth = smooth

    def forward(self, output: TrajectoryMapOutput, truth: TruthSites) -> Float[Tensor, ""]:
        """Return the mean loss over heads, in [0, 1]."""
        losses = []
        for level, head in enumerate(output.heads):
            # Head `level` sits on the grid refined by 2**level: its stride over the final grid is what remains.
            stride = [max(factor >> level, 1) for factor in self.upsampling]
            targets = floor_sites(truth, stride)
            losses.append(soft_dice_loss(head, targets, miss_weight=self.head_miss_weight, smooth=self.smooth))
        if output.final is not None:
            joined = floor_sites(torch.cat([truth[:, :4], torch.zeros_like(truth[:, 4:])], dim=1), [1, 1, 1])
            if self.dilate:
                joined = dilate_sites(joined, output.final.spatial_range)
            final = soft_dice_loss(output.final, joined, miss_weight=0.5, smooth=self.smooth)
            if self.tolerant and self.offsets is not None:
                final = 0.5 * (final + tolerant_dice_loss(output.final, joined, self.offsets, smooth=self.smooth))
            losses.append(final)
        return torch.stack(losses).mean()


def soft_dice_loss(logits: SparseTensor, truth: TruthSites, *, miss_weight: float, smooth: float) -> Float[Tensor, ""]:
    """Give 1 - (hit + s) / (hit + (1 - w) false + w missed + s) over all sites of the batch, on all ranks together.

    hit = sum p y, false = sum p (1 - y), missed = |Y| - hit, where Y includes truth that has no site. At w = 1/2 this
    is the soft Dice loss with smoothing 2 s; other weights are the Tversky index (our choice, see
    `MultiScaleDiceLoss`).

    Args:
        logits: (n, 1) at their sites.
        truth: Unique rows in the same columns as `logits.coords`.
        miss_weight: w above, in (0, 1).
        smooth: 2 s above, so that it is the smoothing of the usual form of Dice.
    """
    probability = torch.sigmoid(logits.feats[:, 0])
    is_true = is_in(logits.coords, truth, logits.spatial_range).to(probability.dtype)
    sums = torch.stack([(probability * is_true).sum(), probability.sum(), probability.new_tensor(len(truth))])
    hit, total, n_true = ranks.add_up(sums)
    false, missed = total - hit, n_true - hit
    half = 0.5 * smooth
    return 1.0 - (hit + half) / (hit + (1.0 - miss_weight) * false + miss_weight * missed + half)


def tolerant_dice_loss(
    logits: SparseTensor, truth: TruthSites, offsets: Int32[Tensor, "k xyz=3"], *, smooth: float
) -> Float[Tensor, ""]:
    """Give 1 - 2 P R / (P + R), the soft form of the Dice within a distance (`metrics.tolerant_overlap`), on all ranks.

    P = sum of p over sites that have a true voxel among their offsets, over the sum of p; R = mean over true voxels of
    the largest p among their offsets. Our choice: at an eighth of a voxel the exact Dice punishes a vessel drawn one
    voxel aside as much as one that is not there, so that its best answer to doubt is a smear.

    Args:
        logits: (n, 1) at their sites, sorted as all our tensors are.
        truth: Unique rows in the same columns as `logits.coords`.
        offsets: Steps within the distance, with their opposites (`offsets_within`).
        smooth: Added to both sides of both ratios.
    """
    probability = torch.sigmoid(logits.feats[:, 0])
    reach = offsets.abs().amax(dim=0).tolist()
    # A margin round the grid keeps a step over its edge from landing on the other side.
    extent = [n + 2 * r for n, r in zip(logits.spatial_range, [0, *reach, 0], strict=True)]
    shift = torch.tensor([0, *reach, 0], dtype=torch.int32, device=truth.device)
    step = torch.nn.functional.pad(offsets, (1, 1)).to(truth.device)
    sites = site_keys(logits.coords + shift, extent)
    row, found = find_keys(sites, site_keys((truth[:, None] + shift + step).reshape(-1, 5), extent))
    near = torch.zeros_like(probability)
    near[row[found]] = 1.0
    # A block without a site has no probability to look up, though its truth asks for some.
    looked_up = torch.cat([probability, probability.new_zeros(1)])
    best = (looked_up[row] * found).reshape(len(truth), len(offsets)).amax(dim=1)
    n_true = probability.new_tensor(len(truth))
    sums = torch.stack([(probability * near).sum(), probability.sum(), best.sum(), n_true])
    near_total, total, found_total, n_true = ranks.add_up(sums)
    precision = (near_total + smooth) / (total + smooth)
    recall = (found_total + smooth) / (n_true + smooth)
    return 1.0 - 2.0 * precision * recall / (precision + recall)


def offsets_within(tolerance_voxels: Sequence[float]) -> Int32[Tensor, "k xyz=3"]:
    """List the whole steps inside an ellipsoid of these half axes, 0 or more, the step (0, 0, 0) among them.

    >>> offsets_within((1.0, 0.0, 1.0)).tolist()
    [[-1, 0, 0], [0, 0, -1], [0, 0, 0], [0, 0, 1], [1, 0, 0]]
    """
    axes = [torch.arange(-int(half), int(half) + 1) for half in tolerance_voxels]
    steps = torch.cartesian_prod(*axes)
    half = torch.tensor([max(float(t), 1.0) for t in tolerance_voxels])
    return steps[((steps / half) ** 2).sum(dim=1) <= 1.0 + 1e-6].int()


def is_in(
    coords: Int32[Tensor, "n columns"], wanted: Int32[Tensor, "m columns"], spatial_range: tuple[int, ...]
) -> Tensor:
    """Tell for each row of `coords` whether it stands in `wanted`; both inside `spatial_range`."""
    return torch.isin(site_keys(coords, spatial_range), site_keys(wanted, spatial_range))


def floor_sites(sites: TruthSites, stride: list[int]) -> Int32[Tensor, "m bxyzs=5"]:
    """Divide x, y and z by `stride`, rounding down, and drop the repeated rows."""
    divisor = torch.tensor([1, *stride, 1], dtype=sites.dtype, device=sites.device)
    return unique_sites(sites // divisor)


def unique_sites(sites: Int32[Tensor, "n columns"]) -> Int32[Tensor, "m columns"]:
    """Sort rows and drop repeats, by way of their keys: many times faster than `torch.unique` over rows."""
    if len(sites) == 0:
        return sites
    extent = [int(size) + 1 for size in sites.amax(dim=0)]
    return keys_to_coords(torch.unique(site_keys(sites, extent)), extent)


def dilate_sites(sites: TruthSites, spatial_range: tuple[int, ...]) -> Int32[Tensor, "m bxyzs=5"]:
    """Add the 26 neighbours in space of every site, inside the range (8 where the grid is one voxel thick)."""
    step = torch.arange(-1, 2, dtype=sites.dtype, device=sites.device)
    offsets = torch.cartesian_prod(step, step, step)
    spatial = (sites[:, None, 1:4] + offsets).reshape(-1, 3)
    rest = sites[:, None, [0, 4]].expand(-1, len(offsets), -1).reshape(-1, 2)
    size = torch.tensor(spatial_range[1:4], dtype=sites.dtype, device=sites.device)
    inside = ((spatial >= 0) & (spatial < size)).all(dim=1)
    grown = torch.cat([rest[:, :1], spatial, rest[:, 1:]], dim=1)[inside]
    return unique_sites(grown.int())
