"""The arithmetic of the native engine on the CPU: the compiled loops of `tiles`, dealt out to PyTorch's threads.

Same functions and results, within rounding, as `native_torch`. The bits do not depend on the number of threads: blocks
of outputs are independent, and kernel gradients are summed over parts of fixed size in a fixed order.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sparse_ulm.sparse.engines import tiles
from sparse_ulm.sparse.pairs import Pairs
from sparse_ulm.sparse.threads import in_parallel

_BLOCKS_PER_TASK = 8
"""Blocks that a thread takes at a time: about 2 ms of work, so that a thread that was held up delays no other."""

_GRADIENT_PARTS = 16
"""Parts in which the kernel gradient is summed, whatever the number of threads."""


def convolve(
    feats: Float[Tensor, "inputs in"], kernel: Float[Tensor, "taps in out"], bias: Tensor | None, pairs: Pairs
) -> Float[Tensor, "outputs out"]:
    """Give bias + sum over taps and pairs of feats[input] @ kernel[tap], per output row."""
    n_outputs = kernel.shape[2]
    result = feats.new_empty((pairs.n_outputs, n_outputs))
    matrices = _padded(kernel.to(feats.dtype), _lanes(feats))
    start = feats.new_empty(0) if bias is None else _padded(bias.to(feats.dtype), _lanes(feats))
    arguments = (_array(feats), _array(matrices), _array(start), *_pair_arrays(pairs))
    bounds, out = pairs.bounds(tiles.BLOCK), result.numpy()

    def run(first: int, last: int) -> None:
        tiles.convolve_blocks(*arguments, bounds, out, first, last)

    in_parallel(run, len(bounds) - 1, _BLOCKS_PER_TASK)
    return result


def kernel_gradient(
    feats: Float[Tensor, "inputs in"], grad: Float[Tensor, "outputs out"], pairs: Pairs
) -> Float[Tensor, "taps in out"]:
    """Give sum over pairs of feats[input]^T grad[output] per tap."""
    shape = feats.shape[1], grad.shape[1]
    feats, lanes = _padded(feats, 4), _lanes(grad)
    padded = -(-shape[1] // lanes) * lanes
    rows = min(tiles.BLOCK, max(lanes, tiles.GRADIENT_BYTES // (padded * grad.element_size())))
    bounds = pairs.bounds(rows)
    n_blocks = len(bounds) - 1
    step = max(_BLOCKS_PER_TASK, -(-n_blocks // _GRADIENT_PARTS))
    arguments = (_array(feats), _array(grad), *_pair_arrays(pairs))
    totals = np.zeros((max(1, -(-n_blocks // step)), pairs.n_taps, feats.shape[1], padded), arguments[0].dtype)

    def run(first: int, last: int) -> None:
        tiles.kernel_gradient_blocks(*arguments, bounds, totals[first // step], rows, first, last)

    in_parallel(run, n_blocks, step)
    # numpy's sum has one thread; PyTorch's would leave OpenMP threads spinning for a while, in the way of ours.
    return torch.from_numpy(totals.sum(0))[:, : shape[0], : shape[1]]


def self_test() -> None:
    """Compile the loops for float32 and try them on one site; raises whatever goes wrong."""
    rows = torch.zeros(1, dtype=torch.int32)
    pairs = Pairs(rows, rows, ((0, 1),), (False,), 1, 1)
    feats, kernel = torch.tensor([[2.0, 3.0]]), torch.tensor([[[1.0], [10.0]]])
    if convolve(feats, kernel, None, pairs).item() != 32 or kernel_gradient(feats, feats, pairs)[0, 1, 0].item() != 6:
        raise ArithmeticError("the compiled loops gave a wrong sum")


def _array(tensor: Tensor) -> np.ndarray:
    """View a tensor as a contiguous numpy array."""
    return tensor.detach().contiguous().numpy()


def _pair_arrays(pairs: Pairs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give rows of inputs, rows of outputs and which taps exchange them."""
    return pairs.inputs.numpy(), pairs.outputs.numpy(), np.array(pairs.swap)


def _lanes(tensor: Tensor) -> int:
    """Give the numbers in one vector."""
    return tiles.VECTOR_BYTES // tensor.element_size()


def _padded(tensor: Tensor, multiple: int) -> Tensor:
    """Fill the last axis up with zeros to a multiple."""
    missing = -tensor.shape[-1] % multiple
    return torch.nn.functional.pad(tensor.detach(), (0, missing)) if missing else tensor
