"""Strided and transposed convolution, kernel = stride: each fine site meets one parent through one tap.

Pairs come grouped by tap (`maps.Segments`): one gather, one matrix product and one write per tap. Within a tap no
row is written twice, so additions happen tap after tap in a fixed order, on every device.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from sparse_ulm.sparse.maps import Segments


class SegmentsDown(Function):
    """coarse[parent] = sum over its children of fine[child] @ kernel[tap of the child]."""

    @staticmethod
    def forward(ctx: Any, fine: Tensor, kernel: Tensor, pairs: Segments, n_coarse: int) -> Tensor:
        """Sum children. fine (fine sites, in), kernel (taps, in, out)."""
        ctx.save_for_backward(fine, kernel)
        ctx.pairs = pairs
        return _down(fine, kernel, pairs, n_coarse)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """Give the gradients to fine features and kernel."""
        fine, kernel = ctx.saved_tensors
        need_fine, need_kernel = ctx.needs_input_grad[:2]
        grad_fine = _up(grad, kernel.transpose(1, 2), ctx.pairs, fine.shape[0]) if need_fine else None
        grad_kernel = _kernel_gradient(kernel, fine, grad, ctx.pairs, into_coarse=True) if need_kernel else None
        return grad_fine, grad_kernel, None, None


class SegmentsUp(Function):
    """fine[child] = coarse[its parent] @ kernel[tap of the child]; zero for a child without parent."""

    @staticmethod
    def forward(ctx: Any, coarse: Tensor, kernel: Tensor, pairs: Segments, n_fine: int) -> Tensor:
        """Bring parents down to children. coarse (coarse sites, in), kernel (taps, in, out)."""
        ctx.save_for_backward(coarse, kernel)
        ctx.pairs = pairs
        return _up(coarse, kernel, pairs, n_fine)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """Give the gradients to coarse features and kernel."""
        coarse, kernel = ctx.saved_tensors
        need_coarse, need_kernel = ctx.needs_input_grad[:2]
        grad_coarse = _down(grad, kernel.transpose(1, 2), ctx.pairs, coarse.shape[0]) if need_coarse else None
        grad_kernel = _kernel_gradient(kernel, grad, coarse, ctx.pairs, into_coarse=False) if need_kernel else None
        return grad_coarse, grad_kernel, None, None


def _taps(pairs: Segments) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Give (tap, fine rows, coarse rows) for every tap that joins any sites."""
    for tap, (start, stop) in enumerate(zip(pairs.bounds[:-1], pairs.bounds[1:], strict=True)):
        if stop > start:
            yield tap, pairs.fine_rows[start:stop], pairs.coarse_rows[start:stop]


def _down(fine: Tensor, kernel: Tensor, pairs: Segments, n_coarse: int) -> Tensor:
    """Sum over taps into the parents."""
    result = fine.new_zeros((n_coarse, kernel.shape[2]))
    for tap, children, parents in _taps(pairs):
        result.index_add_(0, parents, fine.index_select(0, children) @ kernel[tap])
    return result


def _up(coarse: Tensor, kernel: Tensor, pairs: Segments, n_fine: int) -> Tensor:
    """Write every child once."""
    result = coarse.new_zeros((n_fine, kernel.shape[2]))
    for tap, children, parents in _taps(pairs):
        result.index_copy_(0, children.long(), coarse.index_select(0, parents) @ kernel[tap])
    return result


def _kernel_gradient(kernel: Tensor, fine: Tensor, coarse: Tensor, pairs: Segments, *, into_coarse: bool) -> Tensor:
    """Give sum of input^T gradient per tap; the input is the fine side if `into_coarse`, else the coarse side."""
    result = torch.zeros_like(kernel)
    for tap, children, parents in _taps(pairs):
        below, above = fine.index_select(0, children), coarse.index_select(0, parents)
        result[tap] = below.t() @ above if into_coarse else above.t() @ below
    return result
