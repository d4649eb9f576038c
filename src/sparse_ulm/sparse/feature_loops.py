"""Compiled loops over rows of features, for tensors on the CPU: norm with activation, maximum over children.

Each goes over memory once where PyTorch's separate operations go three to five times: these steps are bound by memory,
not by arithmetic. A loop over 8 channels is too short for a processor; so as many rows as make 64 numbers are taken as
one, and per-channel numbers are repeated to match (`widened`).
"""

import numpy as np
import torch
from jaxtyping import Float, Int32
from torch import Tensor

from sparse_ulm.sparse.loops import compiled
from sparse_ulm.sparse.threads import in_parallel

_WIDE = 64
_ROWS_PER_PART = 16_384
"""Rows that a thread takes at a time; sums run over such parts in a fixed order, whatever the number of threads."""


def channel_moments(
    values: Float[Tensor, "rows channels"],
) -> tuple[Float[Tensor, " channels"], Float[Tensor, " channels"]]:
    """Give mean and mean squared deviation of every channel; at least one row."""
    flat, pivot = _flat(values), values[0].detach()
    sums = _sums(_moments, values, flat, widened(pivot))
    n_rows = values.shape[0]
    shift, square = sums[0] / n_rows, sums[1] / n_rows
    variance = (square - shift * shift).clamp_(min=0)
    return (pivot + shift).to(values.dtype), variance.to(values.dtype)


def normalise_rectify(
    values: Float[Tensor, "rows channels"], scale: Float[Tensor, " channels"], shift: Float[Tensor, " channels"]
) -> Float[Tensor, "rows channels"]:
    """Give max(values * scale + shift, 0) per channel."""
    result = torch.empty_like(values, memory_format=torch.contiguous_format)
    _for_parts(_normalise_rectify, values, _flat(values), widened(scale), widened(shift), _flat(result))
    return result


def rectified_sums(
    grad: Float[Tensor, "rows channels"],
    raw: Float[Tensor, "rows channels"],
    scale: Float[Tensor, " channels"],
    shift: Float[Tensor, " channels"],
    mean: Float[Tensor, " channels"],
) -> tuple[Float[Tensor, " channels"], Float[Tensor, " channels"]]:
    """Give the sums over rows of g and of g * (raw - mean); g is `grad` where raw * scale + shift > 0, else 0."""
    sums = _sums(_rectified_sums, grad, _flat(grad), _flat(raw), *map(widened, (scale, shift, mean))).to(grad.dtype)
    return sums[0], sums[1]


def rectified_gradient(
    grad: Float[Tensor, "rows channels"],
    raw: Float[Tensor, "rows channels"],
    scale: Float[Tensor, " channels"],
    shift: Float[Tensor, " channels"],
    mean: Float[Tensor, " channels"],
    slope: Float[Tensor, " channels"],
    offset: Float[Tensor, " channels"],
) -> Float[Tensor, "rows channels"]:
    """Give scale * g - slope * (raw - mean) - offset, with g as in `rectified_sums`."""
    result = torch.empty_like(grad, memory_format=torch.contiguous_format)
    numbers = map(widened, (scale, shift, mean, slope, offset))
    _for_parts(_rectified_gradient, grad, _flat(grad), _flat(raw), *numbers, _flat(result))
    return result


def segment_maximum(
    values: Float[Tensor, "rows channels"], parent: Int32[Tensor, " rows"], n_parents: int
) -> tuple[Float[Tensor, "parents channels"], Int32[Tensor, "parents channels"]]:
    """Give the largest value among the children of each parent, and the first row that has it."""
    largest = values.new_empty((n_parents, values.shape[1]))
    winner = torch.full((n_parents, values.shape[1]), -1, dtype=torch.int32)
    _segment_maximum(values.detach().contiguous().numpy(), parent.numpy(), largest.numpy(), winner.numpy())
    return largest, winner


def segment_gradient(
    grad: Float[Tensor, "parents channels"], winner: Int32[Tensor, "parents channels"], parent: Int32[Tensor, " rows"]
) -> Float[Tensor, "rows channels"]:
    """Give each row the gradients of its parent where it won, else 0: the way back of `segment_maximum`."""
    result = grad.new_empty((parent.shape[0], grad.shape[1]))
    _segment_gradient(grad.detach().contiguous().numpy(), winner.numpy(), parent.numpy(), result.numpy())
    return result


def widened(numbers: Float[Tensor, " channels"]) -> np.ndarray:
    """Repeat one number per channel until there are about 64."""
    return np.tile(numbers.detach().numpy(), max(1, _WIDE // len(numbers)))


def _flat(values: Tensor) -> np.ndarray:
    """View rows one after the other."""
    return values.detach().contiguous().view(-1).numpy()


def _for_parts(loop, values, *arguments) -> None:
    """Run a loop over all numbers of `values`, in parts of whole rows."""
    n_channels = values.shape[1]
    in_parallel(lambda a, b: loop(*arguments, a * n_channels, b * n_channels), values.shape[0], _ROWS_PER_PART)


def _sums(loop, values, *arguments) -> Float[Tensor, "2 channels"]:
    """Run a loop that gives two sums per channel, and add up what the parts gave."""
    n_rows, n_channels = values.shape
    width = len(arguments[-1])
    parts = np.zeros((-(-n_rows // _ROWS_PER_PART), 2, width))

    def run(first: int, last: int) -> None:
        loop(*arguments, parts[first // _ROWS_PER_PART], first * n_channels, last * n_channels)

    in_parallel(run, n_rows, _ROWS_PER_PART)
    return torch.from_numpy(parts.sum(0).reshape(2, -1, n_channels).sum(1))


@compiled
def _moments(values, pivot, sums, first, last):
    """Sum values - pivot and its square; in single precision over few rows, in double precision over all."""
    width = pivot.shape[0]
    total, squares = np.zeros(width, values.dtype), np.zeros(width, values.dtype)
    for start in range(first, last, 128 * width):
        stop = min(start + 128 * width, last)
        total[:] = 0
        squares[:] = 0
        for at in range(start, stop, width):
            for c in range(min(width, stop - at)):
                value = values[at + c] - pivot[c]
                total[c] += value
                squares[c] += value * value
        for c in range(width):
            sums[0, c] += total[c]
            sums[1, c] += squares[c]


@compiled
def _normalise_rectify(values, scale, shift, result, first, last):
    """Scale, shift, clip at 0; a NaN stays one."""
    width, zero = scale.shape[0], values.dtype.type(0)
    for at in range(first, last, width):
        for c in range(min(width, last - at)):
            value = values[at + c] * scale[c] + shift[c]
            result[at + c] = zero if value < zero else value


@compiled
def _rectified_sums(grad, raw, scale, shift, mean, sums, first, last):
    """Sum g and g * (raw - mean); precision as in `_moments`."""
    width, zero = scale.shape[0], grad.dtype.type(0)
    total, products = np.zeros(width, grad.dtype), np.zeros(width, grad.dtype)
    for start in range(first, last, 128 * width):
        stop = min(start + 128 * width, last)
        total[:] = 0
        products[:] = 0
        for at in range(start, stop, width):
            for c in range(min(width, stop - at)):
                g, value = grad[at + c], raw[at + c]
                g = g if value * scale[c] + shift[c] > zero else zero
                total[c] += g
                products[c] += g * (value - mean[c])
        for c in range(width):
            sums[0, c] += total[c]
            sums[1, c] += products[c]


@compiled
def _rectified_gradient(grad, raw, scale, shift, mean, slope, offset, result, first, last):
    """Combine gradient and features, linear per channel."""
    width, zero = scale.shape[0], grad.dtype.type(0)
    for at in range(first, last, width):
        for c in range(min(width, last - at)):
            g, value = grad[at + c], raw[at + c]
            g = g if value * scale[c] + shift[c] > zero else zero
            result[at + c] = scale[c] * g - slope[c] * (value - mean[c]) - offset[c]


@compiled
def _segment_maximum(values, parent, largest, winner):
    """Compare row after row with what its parent has so far."""
    for row in range(values.shape[0]):
        p = parent[row]
        if winner[p, 0] < 0:
            for c in range(values.shape[1]):
                largest[p, c] = values[row, c]
                winner[p, c] = row
        else:
            for c in range(values.shape[1]):
                larger = values[row, c] > largest[p, c]
                largest[p, c] = values[row, c] if larger else largest[p, c]
                winner[p, c] = row if larger else winner[p, c]


@compiled
def _segment_gradient(grad, winner, parent, result):
    """Write every row once."""
    zero = grad.dtype.type(0)
    for row in range(result.shape[0]):
        p = parent[row]
        for c in range(result.shape[1]):
            value = grad[p, c]
            result[row, c] = value if winner[p, c] == row else zero
