"""Layers of the dense networks: convolution, norm and pooling over space and time, for 2D+t and true 3D+t alike.

Layout: (t, b, c, x, y, z), or (t, b, c, x, z) in 2D. Time lies in front, so that frames are slices of memory: a kernel
over time is a sum of convolutions over space of shifted frames. That is an exact convolution of one dimension more,
which PyTorch has not for 3D+t, and it keeps nothing for the backward pass but its input.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

DenseBlock = Float[Tensor, "_t b _c ..."]
"""Frames, samples, channels, space; layers may change all but the samples."""


class SpaceTimeConv(nn.Module):
    """Convolution over space and time, zero padded to the size of its input.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        spatial_dims: 2 or 3.
        taps: Taps along every spatial axis; odd.
        temporal_taps: Taps along time; odd.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, spatial_dims: int, taps: int, temporal_taps: int
    ) -> None:
        """Draw kernel and bias as PyTorch's own convolutions do: uniform within 1 / sqrt(inputs of one output)."""
        super().__init__()
        self.taps, self.temporal_taps = taps, temporal_taps
        self.convolve = functional.conv2d if spatial_dims == 2 else functional.conv3d
        bound = 1.0 / math.sqrt(in_channels * temporal_taps * taps**spatial_dims)
        kernel = torch.empty(temporal_taps, out_channels, in_channels, *[taps] * spatial_dims)
        self.kernel = nn.Parameter(kernel.uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(out_channels).uniform_(-bound, bound))

    def forward(self, x: DenseBlock) -> DenseBlock:
        """Add up, tap by tap along time, the frames that the tap sees."""
        n_frames, middle = x.shape[0], self.temporal_taps // 2
        y = self._over_space(x, middle, self.bias)
        for tap in range(self.temporal_taps):
            shift = tap - middle  # output frame i sees input frame i + shift
            if shift == 0 or abs(shift) >= n_frames:
                continue
            first, last = max(-shift, 0), n_frames - max(shift, 0)
            y[first:last] += self._over_space(x[first + shift : last + shift], tap, None)
        return y

    def _over_space(self, frames: Tensor, tap: int, bias: Tensor | None) -> Tensor:
        y = self.convolve(frames.flatten(0, 1), self.kernel[tap], bias, padding=self.taps // 2)
        return y.unflatten(0, frames.shape[:2])


class FoldedBatchNorm(nn.Module):
    """Batch norm of one channel over frames, samples and space."""

    def __init__(self, channels: int, *, spatial_dims: int) -> None:
        """Make PyTorch's norm for folded frames."""
        super().__init__()
        self.norm = nn.BatchNorm2d(channels) if spatial_dims == 2 else nn.BatchNorm3d(channels)

    def forward(self, x: DenseBlock) -> DenseBlock:
        """Normalise."""
        return self.norm(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class ConvNormElu(nn.Module):
    """Convolution, batch norm, ELU (in place: the norm's output is kept by nobody else)."""

    def __init__(
        self, in_channels: int, out_channels: int, *, spatial_dims: int, taps: int = 3, temporal_taps: int = 3
    ) -> None:
        """Make the layers; 3 taps along every axis by default (Rauby et al., released code)."""
        super().__init__()
        self.conv = SpaceTimeConv(
            in_channels, out_channels, spatial_dims=spatial_dims, taps=taps, temporal_taps=temporal_taps
        )
        self.norm = FoldedBatchNorm(out_channels, spatial_dims=spatial_dims)

    def forward(self, x: DenseBlock) -> DenseBlock:
        """Apply all three."""
        return functional.elu(self.norm(self.conv(x)), inplace=True)


class ResidualConvs(nn.Module):
    """`n_convs` convolutions of equal width, a sum with the input, ELU."""

    def __init__(self, channels: int, *, n_convs: int, spatial_dims: int) -> None:
        """Make the convolutions."""
        super().__init__()
        layers = (ConvNormElu(channels, channels, spatial_dims=spatial_dims) for _ in range(n_convs))
        self.convs = nn.Sequential(*layers)

    def forward(self, x: DenseBlock) -> DenseBlock:
        """Return elu(x + convs(x))."""
        return functional.elu(self.convs(x) + x, inplace=True)


def max_over_time(x: DenseBlock, stride: int) -> DenseBlock:
    """Take the largest of every `stride` frames, the number of which is a multiple of it."""
    return x if stride == 1 else x.unflatten(0, (-1, stride)).amax(dim=1)


def max_over_space(x: DenseBlock) -> DenseBlock:
    """Take the largest of every 2x2 or 2x2x2 voxels; the sizes are even."""
    pool = functional.max_pool2d if x.ndim == 5 else functional.max_pool3d
    return pool(x.flatten(0, 1), 2).unflatten(0, x.shape[:2])


def double_space(x: DenseBlock) -> DenseBlock:
    """Repeat every voxel twice along every spatial axis (nearest neighbour)."""
    return functional.interpolate(x.flatten(0, 1), scale_factor=2.0, mode="nearest").unflatten(0, x.shape[:2])


def pad_to_multiple(x: Tensor, multiple: Sequence[int]) -> Tensor:
    """Pad the last axes of a dense batch with zeros, behind its values, to a multiple each."""
    padding = [-size % m for size, m in zip(x.shape[-len(multiple) :], multiple, strict=True)]
    return functional.pad(x, [n for p in reversed(padding) for n in (0, p)])
