"""Building blocks of the sparse networks: factorised space-time convolution with norm and activation."""

from typing import Literal

from torch import nn

from sparse_ulm.sparse import BatchNorm, SparseTensor, SubmanifoldConv

KernelKind = Literal["factorised", "hypercubic"]


class Activation(nn.Module):
    """ReLU on the features of a sparse tensor."""

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Return `x` with rectified features."""
        return x.with_feats(nn.functional.relu(x.feats))


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
        layers: list[nn.Module] = []
        for i, size in enumerate(sizes):
            layers += [
                SubmanifoldConv(in_channels if i == 0 else out_channels, out_channels, size),
                BatchNorm(out_channels),
                Activation(),
            ]
        self.layers = nn.Sequential(*layers)

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
        return x.with_feats(x.feats + self.convs(x).feats)


def pointwise(in_channels: int, out_channels: int) -> nn.Sequential:
    """Make a 1x1x1x1 convolution with norm and activation: a change of width."""
    return nn.Sequential(
        SubmanifoldConv(in_channels, out_channels, (1, 1, 1, 1)), BatchNorm(out_channels), Activation()
    )
