"""Convolution layers, with TorchSparse's parameters: `kernel` (taps, in, out) in its order, `bias` (out,) or None."""

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparse_ulm.errors import UserError
from sparse_ulm.sparse import loops
from sparse_ulm.sparse.engines import get_engine
from sparse_ulm.sparse.engines.kernels import runs_compiled
from sparse_ulm.sparse.keys import site_keys
from sparse_ulm.sparse.taps import Quad, is_odd, tap_digits
from sparse_ulm.sparse.tensor import SparseTensor, SpatialRange, check_range, divided_stride


class _Convolution(nn.Module):
    """Holds the parameters common to all layers."""

    bias: Tensor | None

    def __init__(
        self, in_channels: int, out_channels: int, size: Sequence[int], bias: bool, taps_per_site: int
    ) -> None:
        """Make and initialise the parameters.

        Kaiming's uniform rule for ReLU: variance 2 / (taps that reach one output * inputs). All taps count, although
        only about half have a neighbour on sparse data: features then shrink a little from layer to layer, never
        explode, at the densest spots as well; batch normalisation restores their scale. TorchSparse's own rule has
        a sixth of the variance; ours because these networks have ReLU throughout.
        """
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.size = _quad(size)
        n_taps = math.prod(self.size)
        shape = (in_channels, out_channels) if n_taps == 1 else (n_taps, in_channels, out_channels)
        bound = math.sqrt(6.0 / (taps_per_site * in_channels))
        self.kernel = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
        self.register_parameter("bias", nn.Parameter(torch.zeros(out_channels)) if bias else None)

    def extra_repr(self) -> str:
        """Name sizes in the module's printed form."""
        return f"{self.in_channels}, {self.out_channels}, {self.size}, bias={self.bias is not None}"

    def _check(self, x: SparseTensor) -> None:
        """Refuse a tensor with another number of channels."""
        if x.feats.shape[1] != self.in_channels:
            raise UserError(
                f"{type(self).__name__} got {x.feats.shape[1]} channels; wanted {self.in_channels}. "
                "Check the widths of the layers before it."
            )


class SubmanifoldConv(_Convolution):
    """Stride-1 convolution whose output sites are its input sites, rows unchanged.

    A missing neighbour adds nothing; nothing lies beyond the range.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Sequence[int], bias: bool = False) -> None:
        """Make the layer.

        Args:
            in_channels: Channels in.
            out_channels: Channels out.
            kernel_size: Odd number of taps along (x, y, z, t): (3, 3, 3, 1) in space, (1, 1, 1, 3) in time.
            bias: Whether to add a learnt constant per channel.

        Raises:
            UserError: If a size is even or not positive.
        """
        if any(size % 2 == 0 or size < 1 for size in kernel_size):
            raise UserError(f"kernel_size is {tuple(kernel_size)}; wanted odd positive sizes (x, y, z, t).")
        super().__init__(in_channels, out_channels, kernel_size, bias, math.prod(kernel_size))

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Convolve `x`; give a tensor at the same sites."""
        self._check(x)
        return x.with_feats(get_engine(x.engine).submanifold(x, self.kernel, self.bias, self.size))

    def folded(self, x: SparseTensor, scale: Tensor, shift: Tensor) -> SparseTensor:
        """Convolve `x` and give output * scale + shift per channel at no further cost: a norm folded into the kernel.

        For a layer without bias.
        """
        self._check(x)
        return x.with_feats(get_engine(x.engine).submanifold(x, self.kernel * scale, shift, self.size))


class StridedConv(_Convolution):
    """Convolution with kernel = stride, padding 0: sites unique(floor(coords / stride)), each summing its children."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Sequence[int], bias: bool = False) -> None:
        """Make the layer.

        Args:
            in_channels: Channels in.
            out_channels: Channels out.
            kernel_size: Kernel and stride along (x, y, z, t), as (2, 2, 2, 1) or (1, 1, 1, 4); must divide the range.
            bias: Whether to add a learnt constant per channel.

        Raises:
            UserError: If all sizes are 1 or one is not positive.
        """
        super().__init__(in_channels, out_channels, _stride(kernel_size), bias, math.prod(kernel_size))

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Convolve `x`; give a tensor at the coarse sites, range divided and stride multiplied by the kernel size."""
        self._check(x)
        return get_engine(x.engine).strided(x, self.kernel, self.bias, self.size)


class TransposedConv(_Convolution):
    """Way back from a strided level to stored fine sites: each fine site takes its parent through its own tap."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Sequence[int], bias: bool = False) -> None:
        """Make the layer.

        Args:
            in_channels: Channels in.
            out_channels: Channels out.
            kernel_size: The kernel size of the strided layer whose level is left.
            bias: Whether to add a learnt constant per channel.

        Raises:
            UserError: If all sizes are 1 or one is not positive.
        """
        super().__init__(in_channels, out_channels, _stride(kernel_size), bias, 1)

    def forward(self, coarse: SparseTensor, fine_sites: SparseTensor) -> SparseTensor:
        """Give `coarse` at the sites of `fine_sites` (its features are not read).

        A fine site whose parent is not in `coarse`, because it was pruned, gets zero plus the bias.
        """
        self._check(coarse)
        engine = get_engine(coarse.engine)
        return fine_sites.with_feats(engine.transposed(coarse, fine_sites, self.kernel, self.bias, self.size))


class GenerativeUpsample(_Convolution):
    """Refinement that makes new sites: every site gets all its children, child features = parent @ kernel[tap].

    Plain PyTorch for every engine (TorchSparse's own generative layer is wrong for kernel 2, stride 2).
    """

    def __init__(
        self, in_channels: int, out_channels: int, factor: Sequence[int] = (2, 2, 2, 1), bias: bool = False
    ) -> None:
        """Make the layer.

        Args:
            in_channels: Channels in.
            out_channels: Channels out.
            factor: Children per site along (x, y, z, t); also the kernel size, same tap order as `StridedConv`.
            bias: Whether to add a learnt constant per channel.

        Raises:
            UserError: If all factors are 1 or one is not positive.
        """
        super().__init__(in_channels, out_channels, _stride(factor), bias, 1)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Give the tensor of all children: prod(factor) times the sites, range multiplied, stride divided."""
        self._check(x)
        children, order, extent = _children(x, self.size)
        matrix = self.kernel.transpose(0, 1).reshape(self.in_channels, -1)
        feats = (x.feats @ matrix).view(-1, self.out_channels).index_select(0, order)
        return SparseTensor.trusted(
            children,
            feats if self.bias is None else feats + self.bias,
            spatial_range=extent,
            stride=divided_stride(x.stride, self.size),
            engine=x.engine,
        )


def _children(x: SparseTensor, factor: Quad) -> tuple[Tensor, Tensor, SpatialRange]:
    """Give the children's coordinates in key order, the order parent-by-tap -> key order, and the finer range."""
    extent = cast(SpatialRange, tuple(c * f for c, f in zip(x.spatial_range, (1, *factor), strict=True)))
    check_range(extent)
    if runs_compiled(x.coords) and not is_odd(factor):
        return *loops.ordered_children(x.coords, factor), extent
    shifts = functional.pad(tap_digits(factor).to(x.device, torch.int32), (1, 0))
    scale = torch.tensor((1, *factor), dtype=torch.int32, device=x.device)
    children = (x.coords[:, None] * scale + shifts).view(-1, shifts.shape[1])
    order = torch.argsort(site_keys(children, extent))
    return children[order], order, extent


def _quad(size: Sequence[int]) -> Quad:
    """Give four ints (x, y, z, t) or refuse."""
    if len(size) != 4 or any(int(taps) != taps or taps < 1 for taps in size):
        raise UserError(f"size is {tuple(size)}; wanted four positive whole numbers (x, y, z, t).")
    return cast(Quad, tuple(int(taps) for taps in size))


def _stride(size: Sequence[int]) -> Sequence[int]:
    """Refuse a stride that moves nowhere: its kernel would have TorchSparse's 2D shape."""
    if all(taps == 1 for taps in size):
        raise UserError(f"stride is {tuple(size)}; wanted more than 1 along some axis. Use SubmanifoldConv for size 1.")
    return size
