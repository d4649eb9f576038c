"""LocalisationNet: where every bubble is in every frame (ours; the step beyond the paper's map).

A sparse U-Net over space and time answers at every kept site of the recording's own grid: is a bubble's centre here,
where inside the voxel, how sure, how bright. Space is pooled twice, time never, so that each frame keeps its own
answer; convolutions along time let a bubble be told from its neighbours by where it was and where it goes.

Against TrajectoryMapNet there is no grid refined by 8, and no slot of frames in which the order of positions is lost:
a position follows from amplitudes of neighbouring voxels, as in a fit, and tracks from linking (`classical.linking`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from sparse_ulm.errors import UserError
from sparse_ulm.networks.blocks import ResidualBlock, SpaceTimeConv, pointwise
from sparse_ulm.networks.phase import describe_phase, n_described
from sparse_ulm.sparse import SparseTensor, StridedConv, SubmanifoldConv, TransposedConv, as_sparse_tensor
from sparse_ulm.sparse.engines import resolve_engine

PRIOR_LOGIT = -4.0
"""Logit that an untrained head starts from: about one site in fifty holds a bubble's centre."""

PRIOR_LOG_DEVIATION, PRIOR_LOG_AMPLITUDE = -1.2, 2.0
"""A deviation of 0.3 voxels, that of a guess at the voxel's centre, and an amplitude of 7 noise rms."""

N_OUTPUTS = 8
LOGIT = 0
OFFSET = slice(1, 4)
LOG_DEVIATION = slice(4, 7)
LOG_AMPLITUDE = 7
"""Columns of the answer: logit of a bubble's centre in the voxel; its offset along x, y, z from the voxel's centre, in
voxels; logarithm of the offset's standard deviation; logarithm of the amplitude over the noise rms."""

LOG_DEVIATION_RANGE = (-5.0, 1.0)
"""Standard deviations from 0.007 to 2.7 voxels; a likelihood without a floor runs away on bubbles that it knows."""


@dataclass(frozen=True)
class LocalisationOutput:
    """The answer at every site.

    Attributes:
        sites: (n, N_OUTPUTS) features on the input's sites, columns as above.
    """

    sites: SparseTensor


class LocalisationNet(nn.Module):
    """Sparse U-Net over space and time with an answer per site and frame.

    Args:
        spatial_dims: 3, or 2 for recordings one voxel thick along y.
        in_channels: Features per site (`sparsify.N_FEATURES`).
        widths: Channels at spatial strides 1, 2 and 4.
        temporal_taps: Taps along time at stride 1, and at strides 2 and 4.
        phase: What becomes of Re c and Im c (`phase.describe_phase`).
        engine: "auto", "native" or "torchsparse".

    Raises:
        UserError: If a size does not fit.

    Source: our choice. A prototype of these sizes (reference notes) passed a Gaussian fit on its own simulation, and
    lost a quarter of its score without the convolutions along time.
    """

    def __init__(
        self,
        *,
        spatial_dims: int = 3,
        in_channels: int = 4,
        widths: Sequence[int] = (16, 32, 48),
        temporal_taps: Sequence[int] = (3, 5),
        phase: str = "as_given",
        engine: str = "auto",
    ) -> None:
        """Make all layers."""
        super().__init__()
        _check_sizes(spatial_dims, widths, temporal_taps)
        self.spatial_dims, self.in_channels, self.phase = spatial_dims, in_channels, phase
        n_channels = n_described(in_channels, phase=phase, spatial_dims=spatial_dims)
        self.engine = resolve_engine(engine)
        double = (2, 2 if spatial_dims == 3 else 1, 2, 1)
        self.pooling = double
        w0, w1, w2 = widths
        self.temporal_taps = near, far = tuple(temporal_taps)

        def residual(channels: int, n_convs: int, taps: int) -> ResidualBlock:
            return ResidualBlock(
                channels, n_convs=n_convs, spatial_dims=spatial_dims, temporal_taps=taps, kernel="factorised"
            )

        self.stem = SpaceTimeConv(n_channels, w0, spatial_dims=spatial_dims, temporal_taps=near, kernel="factorised")
        self.encode_0 = residual(w0, 1, near)
        self.down_1 = StridedConv(w0, w1, double)
        self.encode_1 = residual(w1, 2, far)
        self.down_2 = StridedConv(w1, w2, double)
        self.encode_2 = residual(w2, 2, far)
        self.up_1 = TransposedConv(w2, w1, double)
        self.decode_1 = nn.Sequential(pointwise(w1, w1), residual(w1, 1, far))
        self.up_0 = TransposedConv(w1, w0, double)
        self.decode_0 = nn.Sequential(pointwise(w0, w0), residual(w0, 2, near))
        self.hidden = pointwise(w0, 2 * w0)
        self.head = SubmanifoldConv(2 * w0, N_OUTPUTS, (1, 1, 1, 1), bias=True)
        bias = cast(nn.Parameter, self.head.bias)
        with torch.no_grad():
            # Small, so that no site begins with a deviation of 0.01: its likelihood would drown everything else.
            self.head.kernel.mul_(0.1)
            bias[LOGIT] = PRIOR_LOGIT
            bias[LOG_DEVIATION] = PRIOR_LOG_DEVIATION
            bias[LOG_AMPLITUDE] = PRIOR_LOG_AMPLITUDE

    @property
    def site_multiple(self) -> tuple[int, int, int, int]:
        """What the spatial range (x, y, z, t) of an input must be a multiple of."""
        x, y, z, _ = (factor * factor for factor in self.pooling)
        return x, y, z, 1

    @property
    def temporal_reach(self) -> int:
        """Frames before and behind that an answer depends on; a block with as much context cannot differ by its cut."""
        near, far = self.temporal_taps
        return 4 * (near // 2) + 5 * (far // 2) + (self.phase == "steps")

    @property
    def reach(self) -> tuple[int, int, int, int]:
        """Voxels along x, y and z, and frames, on either side that an answer depends on (`tiles.Reach`)."""
        # Kernels of 3: 4 at stride 1, 3 at stride 2 and 2 at stride 4.
        space = 4 + 3 * 2 + 2 * 4 + (self.phase == "steps")
        return space, space if self.spatial_dims == 3 else 0, space, self.temporal_reach

    def forward(self, x: SparseTensor) -> LocalisationOutput:
        """Answer for a sparse batch whose range is a multiple of `site_multiple`."""
        x = as_sparse_tensor(x).with_engine(self.engine)
        x = describe_phase(x, phase=self.phase, spatial_dims=self.spatial_dims)
        level_0 = self.encode_0(self.stem(x))
        level_1 = self.encode_1(self.down_1(level_0))
        level_2 = self.encode_2(self.down_2(level_1))
        merged_1 = self.decode_1(add(self.up_1(level_2, level_1), level_1))
        merged_0 = self.decode_0(add(self.up_0(merged_1, level_0), level_0))
        return LocalisationOutput(self.head(self.hidden(merged_0)))


def add(x: SparseTensor, skip: SparseTensor) -> SparseTensor:
    """Add the features of two tensors at the same sites."""
    return skip.with_feats(x.feats + skip.feats)


def _check_sizes(spatial_dims: int, widths: Sequence[int], temporal_taps: Sequence[int]) -> None:
    """Refuse sizes that the architecture has no place for."""
    if spatial_dims not in (2, 3):
        raise UserError(f"spatial_dims is {spatial_dims}; wanted 2 or 3.")
    if len(widths) != 3 or any(int(w) != w or w < 1 for w in widths):
        raise UserError(f"widths is {list(widths)}; wanted 3 positive integers.")
    if len(temporal_taps) != 2 or any(int(t) != t or t < 1 or t % 2 == 0 for t in temporal_taps):
        raise UserError(f"temporal_taps is {list(temporal_taps)}; wanted 2 odd positive integers.")
