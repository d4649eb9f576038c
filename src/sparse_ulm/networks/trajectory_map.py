"""TrajectoryMapNet: one super-resolved map of the bubbles' trajectories per block of frames (Rauby et al.).

A V-net over space and time reads the kept voxels; time is pooled on the way; then three refinements double the spatial
grid each. Before each refinement a head says which voxels hold a trajectory: *deep supervision* trains it, *site
pruning* drops the voxels it denies, and *cascaded learning* trains the heads one after the other, coarse to fine.

What differs from the released code, and why: heads are supervised at their true temporal stride (the released ones at
half of it, which teaches pruning to discard real tracks); kernels are factorised by default (30 taps for 81).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sparse_ulm.conventions import SiteMask
from sparse_ulm.errors import UserError
from sparse_ulm.networks.blocks import KernelKind, ResidualBlock, SpaceTimeConv, pointwise
from sparse_ulm.sparse import (
    GenerativeUpsample,
    MaxPool,
    SparseTensor,
    SubmanifoldConv,
    TransposedConv,
    as_sparse_tensor,
    concatenate,
    from_dense,
    prune,
    to_dense,
)
from sparse_ulm.sparse.engines import resolve_engine

Variant = Literal["plain", "deep_supervision", "pruning", "cascade"]

N_REFINEMENTS = 3
"""Three doublings: the factor 8 of `conventions.UPSAMPLING`."""

PRIOR_LOGIT = -2.0
"""Logit that untrained heads start from: few voxels hold a trajectory, and a start at 1/2 would keep all of them."""


@dataclass(frozen=True)
class TrajectoryMapOutput:
    """Logits of every head that ran, coarse to fine, each on its own sites.

    Attributes:
        heads: Logits (n, 1) before each refinement; spatial coordinates on the grid refined by 1, 2 and 4, last column
            the temporal slot. Empty for the plain variant.
        final: Logits (n, 1) on the super-resolved grid, temporal column 0; None in an early phase of the cascade.
    """

    heads: tuple[SparseTensor, ...]
    final: SparseTensor | None


class RefinementBlock(nn.Module):
    """Double the spatial grid: every child of every site, then convolutions among them."""

    def __init__(
        self, in_channels: int, out_channels: int, *, factor: tuple[int, int, int], dims: int, kernel: KernelKind
    ) -> None:
        """Make the upsampling and two convolutions of width `out_channels`."""
        super().__init__()
        self.upsample = GenerativeUpsample(in_channels, out_channels, (*factor, 1))
        self.convs = ResidualBlock(out_channels, n_convs=2, spatial_dims=dims, temporal_taps=1, kernel=kernel)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Return features on the refined sites."""
        return self.convs(self.upsample(x))


class TrajectoryMapNet(nn.Module):
    """Sparse V-net with three refinements; takes sparse or dense blocks.

    Args:
        spatial_dims: 3, or 2 for recordings one voxel thick along y, whose y axis is then never refined.
        in_channels: Features per site (`sparsify.N_FEATURES`).
        encoder_widths: Channels at spatial strides 1, 2 and 4.
        refine_widths: Channels on the input's grid once time is pooled, and on the grids refined by 2, 4 and 8. The
            first is wider than the encoder's, since a voxel's features there hold the trajectories inside it.
        temporal_strides: Pooling in time at the two downsamplings and before the refinements; their product is the
            number of frames in one temporal slot.
        variant: "plain": only the final map is trained. "deep_supervision": heads are trained too. "pruning": heads
            also drop the sites they deny. "cascade": as "pruning"; the trainer adds the heads one by one
            (`set_phase`).
        keep_probability: Site pruning keeps sites whose head probability exceeds this; in (0, 1). The released code
            has 0.5; lower loses fewer tracks and costs more sites.
        max_kept_sites: Site pruning keeps at most so many sites per block, the likeliest: a bound on time and memory
            while heads are untrained, and on recordings that are not sparse.
        kernel: "factorised" or "hypercubic" (`SpaceTimeConv`).
        engine: "auto", "native" or "torchsparse".

    Raises:
        UserError: If a size does not fit: `spatial_dims` other than 2 or 3, widths not three each, an unknown variant.
    """

    def __init__(
        self,
        *,
        spatial_dims: int = 3,
        in_channels: int = 4,
        encoder_widths: Sequence[int] = (16, 32, 48),
        refine_widths: Sequence[int] = (48, 32, 16, 8),
        temporal_strides: Sequence[int] = (4, 4, 2),
        variant: Variant = "pruning",
        keep_probability: float = 0.2,
        max_kept_sites: int = 100_000,
        kernel: KernelKind = "factorised",
        engine: str = "auto",
    ) -> None:
        """Make all layers; see the class for the sizes."""
        super().__init__()
        _check_sizes(spatial_dims, encoder_widths, refine_widths, temporal_strides, variant, keep_probability)
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.variant = variant
        self.has_heads = variant != "plain"
        self.prunes_sites = variant in ("pruning", "cascade")
        self.keep_probability = keep_probability
        self.max_kept_sites = max_kept_sites
        self.temporal_strides = tuple(temporal_strides)
        self.engine = resolve_engine(engine)
        self.phase = N_REFINEMENTS
        double = (2, 2, 2) if spatial_dims == 3 else (2, 1, 2)
        self.refinement = double

        def residual(channels: int, n_convs: int, temporal_taps: int) -> ResidualBlock:
            return ResidualBlock(
                channels, n_convs=n_convs, spatial_dims=spatial_dims, temporal_taps=temporal_taps, kernel=kernel
            )

        w0, w1, w2 = encoder_widths
        width = refine_widths[0]
        pool_1, pool_2, pool_3 = temporal_strides
        self.stem = SpaceTimeConv(in_channels, w0, spatial_dims=spatial_dims, temporal_taps=3, kernel=kernel)
        self.encode_0 = residual(w0, 1, 3)
        self.down_1 = nn.Sequential(pointwise(w0, w1), MaxPool((*double, pool_1)))
        self.encode_1 = residual(w1, 2, 5)
        self.down_2 = nn.Sequential(pointwise(w1, w2), MaxPool((*double, pool_2)))
        self.encode_2 = residual(w2, 2, 5)
        self.skip_1 = MaxPool((1, 1, 1, pool_2))
        self.up_1 = TransposedConv(w2, w1, (*double, 1))
        self.merge_1 = pointwise(2 * w1, w1)
        self.decode_1 = residual(w1, 1, 3)
        self.skip_0 = MaxPool((1, 1, 1, pool_1 * pool_2))
        self.up_0 = TransposedConv(w1, w0, (*double, 1))
        self.merge_0 = pointwise(2 * w0, width)
        self.decode_0 = residual(width, 1, 3)
        self.pool_time = MaxPool((1, 1, 1, pool_3))
        self.before_refinement = residual(width, 1, 3)

        head_taps = (3, 3 if spatial_dims == 3 else 1, 3, 1)
        self.heads = nn.ModuleList(
            SubmanifoldConv(channels, 1, head_taps, bias=True) for channels in refine_widths[:-1] if self.has_heads
        )
        self.refinements = nn.ModuleList(
            RefinementBlock(coarse, fine, factor=double, dims=spatial_dims, kernel=kernel)
            for coarse, fine in pairwise(refine_widths)
        )
        self.last = residual(refine_widths[-1], 1, 1)
        self.to_logit = SubmanifoldConv(refine_widths[-1], 1, (1, 1, 1, 1), bias=True)
        for layer in (*self.heads, self.to_logit):
            nn.init.constant_(layer.bias, PRIOR_LOGIT)

    @property
    def slot_frames(self) -> int:
        """Frames in one temporal slot of the heads: their true temporal stride."""
        first, second, third = self.temporal_strides
        return first * second * third

    @property
    def site_multiple(self) -> tuple[int, int, int, int]:
        """What the spatial range (x, y, z, t) of an input must be a multiple of."""
        x, y, z = (factor * factor for factor in self.refinement)
        return x, y, z, self.slot_frames

    @property
    def upsampling(self) -> tuple[int, int, int]:
        """Refinement of the final map over the input grid, per axis."""
        x, y, z = (factor**N_REFINEMENTS for factor in self.refinement)
        return x, y, z

    @property
    def reach(self) -> tuple[int, int, int, None]:
        """Voxels along x, y and z on either side that the final map depends on; all frames do (`tiles.Reach`)."""
        # Kernels of 3 on the input's grid: 2 at stride 1, 3 at stride 2, 2 at stride 4, and 3 once time is pooled; on
        # the grids refined by 2, 4 and 8, and at the heads that prune them: 1.5, 0.75 and 0.375.
        space = 2 + 3 * 2 + 2 * 4 + 3 + 3
        return space, space if self.spatial_dims == 3 else 0, space, None

    def set_phase(self, phase: int) -> None:
        """Run only the heads 0 ... `phase`; at `N_REFINEMENTS` the whole network, which is the default."""
        if not 0 <= phase <= N_REFINEMENTS:
            raise UserError(f"phase is {phase}; wanted 0 to {N_REFINEMENTS}.")
        self.phase = phase

    def forward(
        self, x: SparseTensor | Float[Tensor, "b c x y z t"] | Float[Tensor, "b c x y z"]
    ) -> TrajectoryMapOutput | Float[Tensor, "b 1 fx fy fz"]:
        """Map a batch of blocks.

        Args:
            x: Sparse batch whose range is a multiple of `site_multiple`, or a dense batch, whose voxels that are
                zero in every channel are left out (a dense batch without time is one frame).

        Returns:
            `TrajectoryMapOutput` for a sparse input; dense probabilities on the super-resolved grid for a dense one.
        """
        if isinstance(x, Tensor):
            return self._forward_dense(x)
        return self.refine(self.encode(x))

    def encode(self, x: SparseTensor) -> SparseTensor:
        """Run the V-net: features at the input's spatial grid, one temporal slot per `slot_frames`."""
        x = as_sparse_tensor(x).with_engine(self.engine)
        level_0 = self.encode_0(self.stem(x))
        level_1 = self.encode_1(self.down_1(level_0))
        level_2 = self.encode_2(self.down_2(level_1))
        skip_1, skip_0 = self.skip_1(level_1), self.skip_0(level_0)
        merged_1 = self.decode_1(self.merge_1(concatenate([self.up_1(level_2, skip_1), skip_1])))
        merged_0 = self.decode_0(self.merge_0(concatenate([self.up_0(merged_1, skip_0), skip_0])))
        return self.before_refinement(self.pool_time(merged_0))

    def refine(self, x: SparseTensor) -> TrajectoryMapOutput:
        """Double the grid three times, asking a head before each doubling; then join the slots and decide."""
        heads: list[SparseTensor] = []
        for level, refinement in enumerate(self.refinements):
            if self.has_heads:
                logits = self.heads[level](x)
                heads.append(logits)
                if self.phase == level:
                    return TrajectoryMapOutput(tuple(heads), None)
                if self.prunes_sites:
                    x = prune(x, self._kept(logits))
            x = refinement(x)
        n_slots = x.spatial_range[4]
        x = MaxPool((1, 1, 1, n_slots))(x)
        return TrajectoryMapOutput(tuple(heads), self.to_logit(self.last(x)))

    def _kept(self, logits: SparseTensor) -> SiteMask:
        """Choose the sites to keep, sample by sample, so that an answer does not depend on its batch."""
        probability = logits.feats.detach()[:, 0].sigmoid()
        sizes = torch.bincount(logits.coords[:, 0], minlength=logits.batch_size).tolist()
        return torch.cat([self._kept_of_sample(sample) for sample in probability.split(sizes)])

    def _kept_of_sample(self, probability: Float[Tensor, " sites"]) -> SiteMask:
        """Keep what exceeds `keep_probability`; the likeliest where none does (Rauby et al., released code)."""
        kept = probability > self.keep_probability
        if len(kept) and not bool(kept.any()):
            return probability == probability.max()
        if int(kept.sum()) > self.max_kept_sites:
            # Stable: sites of equal probability are kept in key order, the same ones every time.
            order = torch.sort(probability, descending=True, stable=True).indices
            return torch.zeros_like(kept).index_fill_(0, order[: self.max_kept_sites], True)
        return kept

    def _forward_dense(self, x: Tensor) -> Tensor:
        """Run a dense batch, padded to `site_multiple`, and return probabilities cropped to its own grid."""
        if x.ndim == 5:
            x = x[..., None]
        shape = x.shape[2:]
        padding = [-size % multiple for size, multiple in zip(shape, self.site_multiple, strict=True)]
        x = nn.functional.pad(x, [n for p in reversed(padding) for n in (0, p)])
        output = self.refine(self.encode(from_dense(x)))
        if output.final is None:
            raise UserError(f"phase is {self.phase} of the cascade, which has no final map. Call set_phase first.")
        probability = output.final.with_feats(output.final.feats.sigmoid())
        nx, ny, nz = (size * factor for size, factor in zip(shape[:3], self.upsampling, strict=True))
        return to_dense(probability)[:, :, :nx, :ny, :nz, 0]


def _check_sizes(
    spatial_dims: int,
    encoder_widths: Sequence[int],
    refine_widths: Sequence[int],
    temporal_strides: Sequence[int],
    variant: str,
    keep_probability: float,
) -> None:
    """Refuse sizes that the architecture has no place for."""
    if spatial_dims not in (2, 3):
        raise UserError(f"spatial_dims is {spatial_dims}; wanted 2 or 3.")
    for name, sizes, count in (
        ("encoder_widths", encoder_widths, 3),
        ("refine_widths", refine_widths, N_REFINEMENTS + 1),
        ("temporal_strides", temporal_strides, 3),
    ):
        if len(sizes) != count or any(int(size) != size or size < 1 for size in sizes):
            raise UserError(f"{name} is {list(sizes)}; wanted {count} positive integers.")
    if variant not in ("plain", "deep_supervision", "pruning", "cascade"):
        raise UserError(f"variant is {variant!r}; wanted plain, deep_supervision, pruning or cascade.")
    if not 0.0 < keep_probability < 1.0:
        raise UserError(f"keep_probability is {keep_probability}; wanted a value inside (0, 1).")


def probability_of(logits: SparseTensor) -> Float[Tensor, " sites"]:
    """Turn a head's logits into probabilities, one per site."""
    return torch.sigmoid(logits.feats[:, 0])
