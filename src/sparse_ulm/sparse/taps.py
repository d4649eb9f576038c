"""The order in which a kernel's taps are stored: TorchSparse's, so that one checkpoint loads in every engine.

TorchSparse 2.1 numbers taps by the parity of the kernel's VOLUME: odd, x fastest; even, z fastest. We extend
its three axes by time as the slowest axis of odd kernels and the fastest of even ones: kernels (a, b, c, 1) and
(1, 1, 1, d) then agree with what TorchSparse stores in its space and time layouts.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Int, Int64
from torch import Tensor

Quad = tuple[int, int, int, int]
"""One integer per axis (x, y, z, t)."""


def is_odd(kernel_size: Sequence[int]) -> bool:
    """Tell whether the kernel's volume is odd, the property that TorchSparse's tap order hangs on."""
    return math.prod(kernel_size) % 2 == 1


def tap_digits(kernel_size: Sequence[int]) -> Int64[Tensor, "taps axes"]:
    """List the index j = 0 ... k-1 of every tap along every axis, in the order of the parameter.

    Args:
        kernel_size: Taps along (x, y, z, t), or any other number of axes.

    Returns:
        (K, axes) indices; for strided kernels (kernel = stride, padding 0) these are the offsets themselves.
    """
    axes = [torch.arange(size) for size in kernel_size]
    if is_odd(kernel_size):
        return torch.stack(torch.meshgrid(*axes[::-1], indexing="ij")[::-1], dim=-1).reshape(-1, len(axes))
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, len(axes))


def tap_offsets(kernel_size: Sequence[int]) -> Int64[Tensor, "taps axes"]:
    """List the offset `input - output * stride` of every tap, in the order of the parameter.

    Odd volume: centred, j - k // 2. Even volume: forward, j. As TorchSparse 2.1 on unit impulses (golden vectors).

    >>> tap_offsets((1, 1, 1, 3)).tolist()
    [[0, 0, 0, -1], [0, 0, 0, 0], [0, 0, 0, 1]]
    """
    digits = tap_digits(kernel_size)
    if not is_odd(kernel_size):
        return digits
    return digits - torch.tensor([size // 2 for size in kernel_size])


def tap_number(digits: Int[Tensor, "n axes"], kernel_size: Sequence[int]) -> Int64[Tensor, " n"]:
    """Give the place in the parameter of taps with the indices `digits`; inverse of `tap_digits`."""
    axes = range(len(kernel_size))
    number = torch.zeros(digits.shape[0], dtype=torch.int64, device=digits.device)
    for axis in reversed(axes) if is_odd(kernel_size) else axes:
        number = number * kernel_size[axis] + digits[:, axis]
    return number
