"""Max pooling over the children of each coarse site; the same for every engine."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from sparse_ulm.errors import UserError
from sparse_ulm.sparse import feature_loops, maps
from sparse_ulm.sparse.engines.kernels import runs_compiled
from sparse_ulm.sparse.taps import Quad
from sparse_ulm.sparse.tensor import SparseTensor


class MaxPool(nn.Module):
    """Maximum over the sites that share a coarse cell, kernel = stride; absent sites do not count as zero.

    The gradient goes to the maximum; of sites that tie the first in key order has it.
    """

    def __init__(self, kernel_size: Sequence[int]) -> None:
        """Make the layer.

        Args:
            kernel_size: Kernel and stride along (x, y, z, t); (1, 1, 1, T) collapses T frames to one. Must divide
                the range.

        Raises:
            UserError: If it is not four positive whole numbers.
        """
        super().__init__()
        self.kernel_size = _checked(kernel_size)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Pool `x` to the sites unique(floor(coords / kernel_size)).

        Raises:
            UserError: If the range is no multiple of the kernel size.
        """
        if math.prod(self.kernel_size) == 1:
            return x
        level = maps.level(x, self.kernel_size)
        return SparseTensor.trusted(
            level.coords,
            _SegmentMaximum.apply(x.feats, level.parent, level.coords.shape[0]),
            spatial_range=level.spatial_range,
            stride=level.stride,
            engine=x.engine,
            maps=level.maps,
        )

    def extra_repr(self) -> str:
        """Name the size in the module's printed form."""
        return str(self.kernel_size)


def pool_sites(
    x: SparseTensor,
    stride: Sequence[int],
    targets: Float[Tensor, "sites *k"] | Int[Tensor, "sites *k"] | Bool[Tensor, "sites *k"],
) -> Float[Tensor, "coarse *k"] | Int[Tensor, "coarse *k"] | Bool[Tensor, "coarse *k"]:
    """Bring one target per site of `x` to the sites of `x` one `stride` up: the largest of each cell's targets.

    A coarse site is positive where any of its sites is: the rule for supervising a coarse head.

    Args:
        x: Tensor whose sites the targets belong to, rows in its order; its features are not read.
        stride: Kernel = stride along (x, y, z, t), as in `StridedConv` and `MaxPool`, whose output rows these are.
        targets: (sites,) or (sites, k) truth of any type; bool stays bool.

    Raises:
        UserError: If there is not one target per site, or the range is no multiple of the stride.
    """
    if targets.shape[0] != len(x):
        raise UserError(f"{targets.shape[0]} targets for {len(x)} sites; wanted one target per site, in row order.")
    size = _checked(stride)
    if math.prod(size) == 1:
        return targets
    values = targets.reshape(len(x), -1)
    level = maps.level(x, size)
    pooled, _ = _segment_maximum(
        values.to(torch.uint8) if targets.dtype == torch.bool else values, level.parent, level.coords.shape[0]
    )
    return pooled.to(targets.dtype).reshape(-1, *targets.shape[1:])


class _SegmentMaximum(Function):
    """largest[p] = maximum over the children of p; keeps only which child that was."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, parent: Tensor, n_parents: int) -> Tensor:
        """Compare. values (sites, k), parent (sites,) int32."""
        find = feature_loops.segment_maximum if runs_compiled(values) else _segment_maximum
        largest, winner = find(values, parent, n_parents)
        ctx.save_for_backward(winner, parent)
        return largest

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Send the gradient to the winners."""
        winner, parent = ctx.saved_tensors
        if runs_compiled(grad):
            return feature_loops.segment_gradient(grad, winner, parent), None, None
        return grad.new_zeros((parent.shape[0], grad.shape[1])).scatter_(0, winner.long(), grad), None, None


def _segment_maximum(values: Tensor, parent: Tensor, n_parents: int) -> tuple[Tensor, Tensor]:
    """Do as `feature_loops.segment_maximum` in PyTorch."""
    index = parent.long()[:, None].expand_as(values)
    largest = values.new_zeros((n_parents, values.shape[1])).scatter_reduce(
        0, index, values, "amax", include_self=False
    )
    rows = torch.arange(values.shape[0], dtype=torch.int32, device=values.device)[:, None]
    first = torch.where(values == largest.gather(0, index), rows, values.shape[0] - 1)
    winner = first.new_zeros(largest.shape).scatter_reduce(0, index, first, "amin", include_self=False)
    return largest, winner


def _checked(size: Sequence[int]) -> Quad:
    """Give four ints (x, y, z, t) or refuse."""
    if len(size) != 4 or any(int(step) != step or step < 1 for step in size):
        raise UserError(f"pooling size is {tuple(size)}; wanted four positive whole numbers (x, y, z, t).")
    x, y, z, t = (int(step) for step in size)
    return x, y, z, t
