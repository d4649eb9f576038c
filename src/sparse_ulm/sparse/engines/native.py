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
from sparse_ulm.sparse.engines.kernels import chosen_kernel
from sparse_ulm.sparse.pairs import Pairs
from sparse_ulm.sparse.taps import Quad
from sparse_ulm.sparse.tensor import SparseTensor


def submanifold(x: SparseTensor, kernel: Tensor, bias: Tensor | None, kernel_size: Quad) -> Tensor:
    """Convolve at the sites of `x`; see `Engine.submanifold`."""
    if kernel.ndim == 2:
        return x.feats @ kernel if bias is None else torch.addmm(bias, x.feats, kernel)
    return PairConvolution.apply(x.feats, kernel, bias, maps.neighbours(x, kernel_size))


def strided(x: SparseTensor, kernel: Tensor, bias: Tensor | None, stride: Quad) -> SparseTensor:
    """Convolve with kernel = stride, padding 0; see `Engine.strided`."""
    level = maps.level(x, stride)
    return SparseTensor.trusted(
        level.coords,
        PairConvolution.apply(x.feats, kernel, bias, maps.children(x, stride)),
        spatial_range=level.spatial_range,
        stride=level.stride,
        engine=x.engine,
        maps=level.maps,
    )


def transposed(coarse: SparseTensor, fine: SparseTensor, kernel: Tensor, bias: Tensor | None, stride: Quad) -> Tensor:
    """Bring `coarse` to the sites of `fine`; see `Engine.transposed`. Without a parent a fine site gets the bias."""
    return PairConvolution.apply(coarse.feats, kernel, bias, maps.children_of(coarse, fine, stride).swapped)


class PairConvolution(Function):
    """y[j] = bias + sum over taps k and pairs (i, j) of k of x[i] @ kernel[k].

    The gradient to x is the same sum over the swapped pairs with transposed kernels; the one to the kernel sums
    x[i]^T grad[j] over the pairs of a tap.
    """

    @staticmethod
    def forward(ctx: Any, feats: Tensor, kernel: Tensor, bias: Tensor | None, pairs: Pairs) -> Tensor:
        """Convolve. feats (inputs, in), kernel (taps, in, out), bias (out,)."""
        ctx.save_for_backward(feats, kernel)
        ctx.pairs = pairs
        return _arithmetic(feats).convolve(feats, kernel, bias, pairs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        """Give the gradients to features, kernel and bias."""
        feats, kernel = ctx.saved_tensors
        need_feats, need_kernel, need_bias, _ = ctx.needs_input_grad
        arithmetic, pairs = _arithmetic(feats), ctx.pairs
        grad_feats = arithmetic.convolve(grad, kernel.transpose(1, 2), None, pairs.swapped) if need_feats else None
        grad_kernel = arithmetic.kernel_gradient(feats, grad, pairs) if need_kernel else None
        return grad_feats, grad_kernel, grad.sum(0) if need_bias else None, None


def _arithmetic(feats: Tensor) -> ModuleType:
    """Choose the module that computes on these features."""
    compiled = feats.device.type == "cpu" and feats.dtype in native_compiled.DTYPES
    return native_compiled if compiled and chosen_kernel().name == "compiled" else native_torch
