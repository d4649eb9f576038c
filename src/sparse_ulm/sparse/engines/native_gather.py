"""Stride-1 sparse convolution by blocked im2col and one matrix product per block."""

from typing import Any

import torch
from jaxtyping import Float, Int32
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from sparse_ulm.sparse import loops

_BLOCK_BYTES = 1 << 21
"""Size of a block of gathered columns: it stays in the cache between gather and product, and overhead is small."""

_NARROW = 16
"""Below so many output channels the product is two to four times faster with channels as rows (measured, 1 core)."""


_COMPILED_TYPES = (torch.float32, torch.float64)


class GatherConvolution(Function):
    """y[i] = sum over taps k of x[table[i, k]] @ kernel[k], for a centred odd kernel.

    The table is its own mirror: i has j at tap k exactly where j has i at tap K - 1 - k. Hence the input gradient is
    a gather too, with the kernel flipped and transposed, and one gathered block serves both gradients.
    """

    @staticmethod
    def forward(ctx: Any, feats: Tensor, kernel: Tensor, table: Tensor) -> Tensor:
        """Gather and multiply. feats (sites, in), kernel (taps, in, out), table (sites, taps) int32."""
        ctx.save_for_backward(feats, kernel, table)
        return _convolve(feats, kernel, table)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Give the gradients to features and kernel."""
        feats, kernel, table = ctx.saved_tensors
        need_feats, need_kernel, _ = ctx.needs_input_grad
        if not need_kernel:
            return (_convolve(grad, _flipped(kernel), table) if need_feats else None), None, None
        if not need_feats and kernel.shape[1] <= kernel.shape[2]:
            return None, _kernel_gradient(feats, grad, table), None
        grad_feats, grad_kernel = _both_gradients(feats, kernel, grad, table, need_feats=need_feats)
        return grad_feats, grad_kernel, None


def _flipped(kernel: Float[Tensor, "taps inputs outputs"]) -> Float[Tensor, "taps outputs inputs"]:
    """Reverse the taps and swap the channels: the kernel of the input gradient."""
    return kernel.flip(0).transpose(1, 2).contiguous()


def _blocks(feats: Tensor, table: Tensor) -> list[tuple[int, Tensor]]:
    """Gather blocks lazily: see `_Columns`; here only the cut of rows into blocks."""
    width = max(1, table.shape[1] * feats.shape[1] * feats.element_size())
    rows = max(64, _BLOCK_BYTES // width)
    return [(start, table[start : start + rows]) for start in range(0, table.shape[0], rows)]


class _Columns:
    """Gathers blocks of columns into one buffer that is used again for every block."""

    def __init__(self, feats: Tensor, table: Tensor) -> None:
        self.compiled = feats.device.type == "cpu" and feats.dtype in _COMPILED_TYPES
        self.blocks = _blocks(feats, table)
        rows = self.blocks[0][1].shape[0] if self.blocks else 0
        self.buffer = feats.new_empty((rows, table.shape[1] * feats.shape[1]))
        # Row 0 of the padded features stands for "no neighbour", so that a gather by table + 1 needs no mask.
        self.feats = feats.contiguous() if self.compiled else torch.nn.functional.pad(feats, (0, 0, 1, 0))

    def gather(self, rows: Int32[Tensor, "rows taps"]) -> Float[Tensor, "rows width"]:
        """Give the features of all taps of these rows side by side; valid until the next call."""
        columns = self.buffer[: rows.shape[0]]
        if self.compiled:
            loops.gather_columns(self.feats, rows, columns)
        else:
            shaped = columns.view(rows.numel(), self.feats.shape[1])
            torch.index_select(self.feats, 0, rows.reshape(-1) + 1, out=shaped)
        return columns


def _convolve(feats: Tensor, kernel: Tensor, table: Tensor) -> Tensor:
    """Sum over taps of gathered features times kernel."""
    matrix = kernel.reshape(-1, kernel.shape[2])
    result = feats.new_empty((table.shape[0], kernel.shape[2]))
    source = _Columns(feats.detach(), table)
    for start, rows in source.blocks:
        _product(source.gather(rows), matrix, result[start : start + rows.shape[0]])
    return result


def _product(columns: Tensor, matrix: Tensor, result: Tensor) -> None:
    """Write columns @ matrix into `result`."""
    if 1 < matrix.shape[1] < _NARROW:
        result.copy_((matrix.t() @ columns.t()).t())
    else:
        torch.mm(columns, matrix, out=result)


def _kernel_gradient(feats: Tensor, grad: Tensor, table: Tensor) -> Tensor:
    """Kernel gradient from gathered inputs: cheaper where the input has few channels and needs no gradient itself."""
    source = _Columns(feats.detach(), table)
    total = feats.new_zeros((grad.shape[1], table.shape[1] * feats.shape[1]))
    for start, rows in source.blocks:
        total.addmm_(grad[start : start + rows.shape[0]].t(), source.gather(rows))
    return total.t().reshape(table.shape[1], feats.shape[1], grad.shape[1])


def _both_gradients(
    feats: Tensor, kernel: Tensor, grad: Tensor, table: Tensor, *, need_feats: bool
) -> tuple[Tensor | None, Tensor]:
    """Input and kernel gradients from one gather of the output gradient."""
    taps, inputs, outputs = kernel.shape
    matrix = _flipped(kernel).view(taps * outputs, inputs)
    grad_feats = torch.empty_like(feats) if need_feats else None
    total = feats.new_zeros((inputs, taps * outputs))
    source = _Columns(grad.detach(), table)
    for start, rows in source.blocks:
        columns = source.gather(rows)
        stop = start + rows.shape[0]
        total.addmm_(feats[start:stop].t(), columns)
        if grad_feats is not None:
            _product(columns, matrix, grad_feats[start:stop])
    # Column k of the gathered gradient belongs to the mirrored tap of the kernel.
    return grad_feats, total.view(inputs, taps, outputs).transpose(0, 1).flip(0).contiguous()
