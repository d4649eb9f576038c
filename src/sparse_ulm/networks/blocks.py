"""Building blocks of the sparse networks: factorised space-time convolution with norm and activation."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import nn

from sparse_ulm.sparse import NormRelu, SparseTensor, SubmanifoldConv

KernelKind = Literal["factorised", "hypercubic"]


class ConvNormRelu(nn.Module):
    """Submanifold convolution, batch norm, ReLU; in inference one convolution that holds the norm in its kernel."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Sequence[int]) -> None:
        """Make a convolution without bias and its norm."""
        super().__init__()
        self.conv = SubmanifoldConv(in_channels, out_channels, kernel_size)
        self.norm = NormRelu(out_channels)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Convolve at the sites of `x`."""
        if self.training or torch.is_grad_enabled():
            return self.norm(self.conv(x))
        y = self.conv.folded(x, *self.norm.running_affine())
        y.feats.relu_()
        return y


class SpaceTimeConv(nn.Module):
    """Convolution over space and time, each part followed by batch norm and activation.

    `factorised`: 3x3x3 in space, then `temporal_taps` in time, 27 + k taps. `hypercubic`: one 3x3x3xk kernel
    (Rauby et al., released code), native engine only. `temporal_taps=1` leaves time alone.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, spatial_dims: int, temporal_taps: int, kernel: KernelKind
    ) -> None:
        """Make the layers; `spatial_dims` of 2 leaves the y axis out of every kernel."""
        super().__init__()
        y_taps = 3 if spatial_dims == 3 else 1
        if kernel == "hypercubic":
            sizes = [(3, y_taps, 3, temporal_taps)]
        else:
            sizes = [(3, y_taps, 3, 1)] + ([(1, 1, 1, temporal_taps)] if temporal_taps > 1 else [])
        widths = [in_channels, *[out_channels] * len(sizes)]
        self.layers = nn.Sequential(
            *(ConvNormRelu(*pair, size) for pair, size in zip(pairwise(widths), sizes, strict=True))
        )

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Convolve at the sites of `x`."""
        return self.layers(x)


class ResidualBlock(nn.Module):
    """`n_convs` space-time convolutions and a sum with the input."""

    def __init__(
        self, channels: int, *, n_convs: int, spatial_dims: int, temporal_taps: int, kernel: KernelKind
    ) -> None:
        """Make `n_convs` convolutions of equal width."""
        super().__init__()
        self.convs = nn.Sequential(
            *(
                SpaceTimeConv(channels, channels, spatial_dims=spatial_dims, temporal_taps=temporal_taps, kernel=kernel)
                for _ in range(n_convs)
            )
        )

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Return x + convs(x)."""
        change = self.convs(x)
        return x.with_feats(change.feats.add_(x.feats))  # in place: no layer keeps the output of a norm


def pointwise(in_channels: int, out_channels: int) -> ConvNormRelu:
    """Make a 1x1x1x1 convolution with norm and activation: a change of width."""
    return ConvNormRelu(in_channels, out_channels, (1, 1, 1, 1))
