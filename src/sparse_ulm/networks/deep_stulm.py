"""DeepStulm: the dense network that the method's paper compares with, in 2D+t and as a true 3D+t network.

A V-net over every voxel and frame of a block, time pooled on the way; three doublings of the grid; the slots joined.
It stands where TrajectoryMapNet stands: the same batches, the same output, the same trainer.

Source: the plan of the released dense baseline (reference notes on Rauby et al., §3.1; after Milecki et al. 2021),
written anew. Details that the notes leave open are settled by the number of parameters, which agrees exactly
(1,038,065 with the default sizes in 2D+t): every convolution but the last has a bias and batch norm, the decoder
doubles by nearest neighbour and a 3x3x3 convolution, and the last change of slots begins with a 1x1x1 convolution.
Ours: pooling by maximum joins whatever slots remain at the end, so that blocks of any length fit; ELU works in place,
which saves more than a quarter of the memory; the last bias starts at `PRIOR_LOGIT`.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from sparse_ulm.errors import UserError
from sparse_ulm.networks.dense_blocks import (
    ConvNormElu,
    DenseBlock,
    FoldedBatchNorm,
    ResidualConvs,
    SpaceTimeConv,
    double_space,
    max_over_space,
    max_over_time,
    pad_to_multiple,
)
from sparse_ulm.networks.trajectory_map import N_REFINEMENTS, PRIOR_LOGIT, TrajectoryMapOutput
from sparse_ulm.sparse import SparseTensor, as_sparse_tensor, to_dense
from sparse_ulm.sparse.keys import keys_to_coords
from sparse_ulm.sparse.tensor import divided_stride


class DeepStulm(nn.Module):
    """Dense V-net with three refinements; takes sparse or dense blocks.

    Args:
        spatial_dims: 2 for 2D+t with 3x3x3 kernels over (x, z, t), the published network; 3 for 3D+t with 3x3x3x3
            kernels, which the paper could not afford (`SpaceTimeConv` computes them exactly).
        in_channels: Channels of the input: 2 (Re c, Im c) as published, or 4 (`sparsify.N_FEATURES`).
        encoder_widths: Channels at spatial strides 1, 2 and 4; the first a multiple of `in_channels`, since the input
            is repeated onto the first layer's output.
        refine_width: Channels on the grids refined by 1 to 8.
        output_width: Channels of the last layers, on the finest grid.
        temporal_strides: Pooling in time at the two downsamplings, before and after the refinements. The published
            (4, 4, 4, 4) leaves 2 slots of 512 frames to be joined; for 128 frames (4, 4, 4, 2) has slots of the same
            64 frames.

    Raises:
        UserError: If a size does not fit.
    """

    engine = "native"
    """Of the sparse tensors it gives."""

    def __init__(
        self,
        *,
        spatial_dims: int = 2,
        in_channels: int = 2,
        encoder_widths: Sequence[int] = (16, 32, 64),
        refine_width: int = 16,
        output_width: int = 8,
        temporal_strides: Sequence[int] = (4, 4, 4, 4),
    ) -> None:
        """Make all layers; see the class for the sizes."""
        super().__init__()
        _check_sizes(spatial_dims, in_channels, encoder_widths, temporal_strides)
        self.spatial_dims, self.in_channels = spatial_dims, in_channels
        self.temporal_strides = tuple(temporal_strides)
        w0, w1, w2 = encoder_widths

        def conv(inputs: int, outputs: int, **taps: int) -> ConvNormElu:
            return ConvNormElu(inputs, outputs, spatial_dims=spatial_dims, **taps)

        def residual(channels: int, n_convs: int) -> ResidualConvs:
            return ResidualConvs(channels, n_convs=n_convs, spatial_dims=spatial_dims)

        self.stem = SpaceTimeConv(in_channels, w0, spatial_dims=spatial_dims, taps=5, temporal_taps=5)
        self.stem_norm = FoldedBatchNorm(w0, spatial_dims=spatial_dims)
        self.widen_1, self.encode_1 = conv(w0, w1, taps=1, temporal_taps=1), residual(w1, 3)
        self.widen_2, self.encode_2 = conv(w1, w2, taps=1, temporal_taps=1), residual(w2, 3)
        self.up_1, self.decode_1 = conv(w2, w1), residual(2 * w1, 3)
        self.up_0, self.decode_0 = conv(2 * w1, w0), residual(2 * w0, 3)
        self.narrow = conv(2 * w0, refine_width, taps=1, temporal_taps=1)
        self.before_refinement = residual(refine_width, 2)
        self.refinements = nn.ModuleList(
            nn.Sequential(conv(refine_width, refine_width), residual(refine_width, 3)) for _ in range(N_REFINEMENTS)
        )
        self.mix = conv(refine_width, refine_width, taps=1, temporal_taps=1)
        self.after_refinement = residual(refine_width, 2)
        self.to_output = conv(refine_width, output_width)
        self.last = nn.Sequential(*(conv(output_width, output_width, temporal_taps=1) for _ in range(2)))
        self.to_logit = SpaceTimeConv(output_width, 1, spatial_dims=spatial_dims, taps=1, temporal_taps=1)
        nn.init.constant_(self.to_logit.bias, PRIOR_LOGIT)

    @property
    def slot_frames(self) -> int:
        """Frames in one temporal slot during the refinements."""
        first, second, third, _ = self.temporal_strides
        return first * second * third

    @property
    def site_multiple(self) -> tuple[int, int, int, int]:
        """What the spatial range (x, y, z, t) of an input must be a multiple of."""
        return 4, 4 if self.spatial_dims == 3 else 1, 4, self.slot_frames * self.temporal_strides[3]

    @property
    def upsampling(self) -> tuple[int, int, int]:
        """Refinement of the final map over the input grid, per axis."""
        factor = 2**N_REFINEMENTS
        return factor, factor if self.spatial_dims == 3 else 1, factor

    def forward(
        self, x: SparseTensor | Float[Tensor, "b c x y z t"] | Float[Tensor, "b c x y z"]
    ) -> TrajectoryMapOutput | Float[Tensor, "b 1 fx fy fz"]:
        """Map a batch of blocks.

        Args:
            x: Sparse batch whose range is a multiple of `site_multiple`, zero where it has no site; or a dense batch
                of any size (without time: one frame).

        Returns:
            For a sparse input `TrajectoryMapOutput` whose final map has every voxel of the refined range as a site, in
            2D and 3D; for a dense one probabilities on the super-resolved grid.
        """
        if isinstance(x, Tensor):
            return self._forward_dense(x)
        x = as_sparse_tensor(x)
        return TrajectoryMapOutput((), self._all_sites(self.logits(to_dense(x)), x.spatial_range[4]))

    def logits(self, x: Float[Tensor, "b c x y z t"]) -> Float[Tensor, "b 1 fx fy fz"]:
        """Run the network on a dense batch whose sizes are multiples of `site_multiple`.

        Raises:
            UserError: If the channels do not fit, or a 2D network is given more than one voxel along y.
        """
        if x.shape[1] != self.in_channels or (self.spatial_dims == 2 and x.shape[3] != 1):
            raise UserError(
                f"a block of {x.shape[1]} channels and {x.shape[3]} voxels along y does not fit the dense network of "
                f"{self.in_channels} channels and spatial_dims {self.spatial_dims}. Set features or spatial_dims."
            )
        frames = x.movedim(-1, 0)  # (b, c, x, y, z, t) -> (t, b, c, x, y, z)
        y = self.refine(self.encode(frames[..., 0, :] if self.spatial_dims == 2 else frames))
        return y[..., None, :] if self.spatial_dims == 2 else y

    def encode(self, x: DenseBlock) -> DenseBlock:
        """Run the V-net: features on the input's spatial grid, one temporal slot per `slot_frames`."""
        pool_1, pool_2, pool_3, _ = self.temporal_strides
        level_0 = self.stem_norm(self.stem(x))
        repeats = level_0.shape[2] // self.in_channels
        level_0 = functional.elu(level_0 + x.repeat(1, 1, repeats, *[1] * self.spatial_dims), inplace=True)
        level_1 = self.encode_1(max_over_space(max_over_time(self.widen_1(level_0), pool_1)))
        level_2 = self.encode_2(max_over_space(max_over_time(self.widen_2(level_1), pool_2)))
        skip_1, skip_0 = max_over_time(level_1, pool_2), max_over_time(level_0, pool_1 * pool_2)
        merged_1 = self.decode_1(torch.cat([self.up_1(double_space(level_2)), skip_1], dim=2))
        merged_0 = self.decode_0(torch.cat([self.up_0(double_space(merged_1)), skip_0], dim=2))
        return self.before_refinement(max_over_time(self.narrow(merged_0), pool_3))

    def refine(self, x: DenseBlock) -> Float[Tensor, "b 1 *space"]:
        """Double the grid three times, then join the slots; works on any part of the grid, its edges zero padded."""
        for refinement in self.refinements:
            x = refinement(double_space(x))
        x = self.after_refinement(max_over_time(self.mix(x), self.temporal_strides[3]))
        x = self.to_output(x)
        return self.to_logit(self.last(max_over_time(x, x.shape[0])))[0]

    def _all_sites(self, logits: Float[Tensor, "b 1 fx fy fz"], n_frames: int) -> SparseTensor:
        """Give the map as sites: all of them, in key order, which is the order of memory."""
        n_samples, _, nx, ny, nz = logits.shape
        spatial_range = (n_samples, nx, ny, nz, 1)
        coords = keys_to_coords(torch.arange(logits.numel(), device=logits.device), spatial_range)
        stride = divided_stride((1, 1, 1, n_frames), (*self.upsampling, 1))
        return SparseTensor.trusted(
            coords, logits.reshape(-1, 1), spatial_range=spatial_range, stride=stride, engine=self.engine
        )

    def _forward_dense(self, x: Tensor) -> Tensor:
        """Run a dense batch, padded to `site_multiple`, and return probabilities cropped to its own grid."""
        if x.ndim == 5:
            x = x[..., None]
        nx, ny, nz = (size * factor for size, factor in zip(x.shape[2:5], self.upsampling, strict=True))
        return self.logits(pad_to_multiple(x, self.site_multiple)).sigmoid()[:, :, :nx, :ny, :nz]


def _check_sizes(
    spatial_dims: int, in_channels: int, encoder_widths: Sequence[int], temporal_strides: Sequence[int]
) -> None:
    """Refuse sizes that the architecture has no place for."""
    if spatial_dims not in (2, 3):
        raise UserError(f"spatial_dims is {spatial_dims}; wanted 2 or 3.")
    for name, sizes, count in (("encoder_widths", encoder_widths, 3), ("temporal_strides", temporal_strides, 4)):
        if len(sizes) != count or any(int(size) != size or size < 1 for size in sizes):
            raise UserError(f"{name} is {list(sizes)}; the dense network wants {count} positive integers.")
    if encoder_widths[0] % in_channels:
        raise UserError(
            f"encoder_widths starts with {encoder_widths[0]}; wanted a multiple of the {in_channels} input channels, "
            "which are repeated onto the first layer."
        )
