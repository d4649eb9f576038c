"""The arithmetic of the native engine in PyTorch: any device and floating-point type, and the reference in tests.

One gather, matrix product and scatter per tap. Within a tap no output row comes twice, so that additions happen tap
after tap in a fixed order on every device.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_ulm.sparse.pairs import Pairs


def convolve(
    feats: Float[Tensor, "inputs in"], kernel: Float[Tensor, "taps in out"], bias: Tensor | None, pairs: Pairs
) -> Float[Tensor, "outputs out"]:
    """Give bias + sum over taps and pairs of feats[input] @ kernel[tap], per output row; sums in float32 at least."""
    feats, kernel = feats.detach(), kernel.detach().to(feats.dtype)
    result = feats.new_zeros((pairs.n_outputs, kernel.shape[2]), dtype=_sum_type(feats))
    if bias is not None:
        result += bias
    for tap, rows_in, rows_out in pairs.taps():
        if rows_in is rows_out:
            result += feats @ kernel[tap]
        else:
            result.index_add_(0, rows_out, (feats.index_select(0, rows_in) @ kernel[tap]).to(result.dtype))
    return result.to(feats.dtype)


def kernel_gradient(
    feats: Float[Tensor, "inputs in"], grad: Float[Tensor, "outputs out"], pairs: Pairs
) -> Float[Tensor, "taps in out"]:
    """Give sum over pairs of feats[input]^T grad[output] per tap."""
    result = feats.new_zeros((pairs.n_taps, feats.shape[1], grad.shape[1]), dtype=_sum_type(feats))
    for tap, rows_in, rows_out in pairs.taps():
        if rows_in is rows_out:
            result[tap] = feats.t() @ grad
        else:
            result[tap] = feats.index_select(0, rows_in).t() @ grad.index_select(0, rows_out)
    return result


def _sum_type(feats: Tensor) -> torch.dtype:
    """Give the type for sums: half-width features are summed in float32."""
    return torch.promote_types(feats.dtype, torch.float32)
