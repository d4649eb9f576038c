"""The native engine: every layer is a sum over taps and over the pairs of rows that a tap joins (`pairs.Pairs`).

Its arithmetic is chosen per tensor: compiled loops for the CPU (`native_compiled`, `tiles`), PyTorch for other devices
and types and where the loops do not compile (`native_torch`). Both give the same numbers within rounding, and each the
same bits in every run.
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from sparse_ulm.sparse import maps
from sparse_ulm.sparse.engines import native_compiled, native_torch
from sparse_ulm.sparse.engines.kernels import runs_compiled
from sparse_ulm.sparse.kept import Rebuild, features_of, kept_tensors
from sparse_ulm.sparse.pairs import Pairs
from sparse_ulm.sparse.taps import Quad
from sparse_ulm.sparse.tensor import SparseTensor


def submanifold(x: SparseTensor, kernel: Tensor, bias: Tensor | None, kernel_size: Quad) -> Tensor:
    """Convolve at the sites of `x`; see `Engine.submanifold`."""
    if kernel.ndim == 2:
        return PointwiseConvolution.apply(x.feats, kernel, bias, x.rebuild)
    return PairConvolution.apply(x.feats, kernel, bias, maps.neighbours(x, kernel_size), x.rebuild)


def strided(x: SparseTensor, kernel: Tensor, bias: Tensor | None, stride: Quad) -> SparseTensor:
    """Convolve with kernel = stride, padding 0; see `Engine.strided`."""
    level = maps.level(x, stride)
    return SparseTensor.trusted(
        level.coords,
        PairConvolution.apply(x.feats, kernel, bias, maps.children(x, stride), x.rebuild),
        spatial_range=level.spatial_range,
        stride=level.stride,
        engine=x.engine,
        maps=level.maps,
    )


def transposed(coarse: SparseTensor, fine: SparseTensor, kernel: Tensor, bias: Tensor | None, stride: Quad) -> Tensor:
    """Bring `coarse` to the sites of `fine`; see `Engine.transposed`. Without a parent a fine site gets the bias."""
    pairs = maps.children_of(coarse, fine, stride).swapped
    return PairConvolution.apply(coarse.feats, kernel, bias, pairs, coarse.rebuild)


class PairConvolution(Function):
    """y[j] = bias + sum over taps k and pairs (i, j) of k of x[i] @ kernel[k].

    The gradient to x is the same sum over the swapped pairs with transposed kernels; the one to the kernel sums
    x[i]^T grad[j] over the pairs of a tap.
    """

    @staticmethod
    def forward(
        ctx: Any, feats: Tensor, kernel: Tensor, bias: Tensor | None, pairs: Pairs, rebuild: Rebuild | None
    ) -> Tensor:
        """Convolve. feats (inputs, in), kernel (taps, in, out), bias (out,)."""
        ctx.save_for_backward(kernel, *(kept_tensors(feats, rebuild) if ctx.needs_input_grad[1] else ()))
        ctx.pairs = pairs
        return _arithmetic(feats).convolve(feats, kernel, bias, pairs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        """Give the gradients to features, kernel and bias."""
        kernel, *kept = ctx.saved_tensors
        need_feats, need_kernel, need_bias = ctx.needs_input_grad[:3]
        arithmetic, pairs = _arithmetic(grad), ctx.pairs
        grad_feats, grad_kernel = None, None
        if need_kernel:
            grad_kernel = arithmetic.kernel_gradient(features_of(tuple(kept), grad.dtype), grad, pairs)
        if need_feats:
            grad_feats = arithmetic.convolve(grad, kernel.transpose(1, 2), None, pairs.swapped)
        return grad_feats, grad_kernel, grad.sum(0) if need_bias else None, None, None


class PointwiseConvolution(Function):
    """y = x @ kernel + bias: a kernel of one tap; a Function of its own only for what it keeps."""

    @staticmethod
    def forward(ctx: Any, feats: Tensor, kernel: Tensor, bias: Tensor | None, rebuild: Rebuild | None) -> Tensor:
        """Multiply. feats (sites, in), kernel (in, out), bias (out,)."""
        ctx.save_for_backward(kernel, *(kept_tensors(feats, rebuild) if ctx.needs_input_grad[1] else ()))
        return feats @ kernel if bias is None else torch.addmm(bias, feats, kernel)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        """Give the gradients to features, kernel and bias."""
        kernel, *kept = ctx.saved_tensors
        need_feats, need_kernel, need_bias = ctx.needs_input_grad[:3]
        grad_kernel = features_of(tuple(kept), grad.dtype).t() @ grad if need_kernel else None
        return grad @ kernel.t() if need_feats else None, grad_kernel, grad.sum(0) if need_bias else None, None


def _arithmetic(feats: Tensor) -> ModuleType:
    """Choose the module that computes on these features."""
    return native_compiled if runs_compiled(feats) else native_torch
