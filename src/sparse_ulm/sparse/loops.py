"""Compiled loops over sorted sites, for tensors on the CPU.

numba, because merging sorted lists and copying rows are loops that PyTorch cannot express without a search per
element. The loops release the interpreter lock and start no threads,
so that they are safe in forked data-loader workers.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int32, Int64
from numba import njit
from torch import Tensor


def neighbour_table(keys: Int64[Tensor, " sites"], steps: Int64[Tensor, " taps"]) -> Int32[Tensor, "sites taps"]:
    """Merge sorted keys with themselves, shifted by each of `steps`: `maps.neighbour_table` without searches."""
    table = np.empty((keys.shape[0], steps.shape[0]), dtype=np.int32)
    _merge(keys.numpy(), steps.numpy(), table)
    return torch.from_numpy(table)


def gather_columns(
    feats: Float[Tensor, "sites channels"],
    table: Int32[Tensor, "rows taps"],
    columns: Float[Tensor, "rows width"],
) -> None:
    """Write the features at the taps of every row of `table` side by side into `columns`; zeros where it holds -1."""
    integers = np.dtype(f"i{feats.element_size()}")  # Bits move, not numbers: one compiled loop per width.
    _gather(feats.numpy().view(integers), table.numpy(), columns.numpy().view(integers))


def children_order(coords: Int32[Tensor, "sites 5"], factor: tuple[int, int, int, int]) -> Int64[Tensor, " children"]:
    """Give, in key order, the number `parent row * K + row-major tap` of every child of every site."""
    order = np.empty(coords.shape[0] * math.prod(factor), dtype=np.int64)
    _order_children(coords.numpy(), factor, order)
    return torch.from_numpy(order)


def _compiled(function: Callable[..., None]) -> Any:
    """Compile a loop; a run-time type checker may have wrapped it before, and numba wants the plain function."""
    return njit(cache=True, nogil=True)(inspect.unwrap(function))


@_compiled
def _merge(keys, steps, table):
    """Walk all taps at once: their targets grow with the row, so one pointer each only moves forward."""
    n_sites, n_taps = table.shape
    half = n_taps // 2
    pointers = np.zeros(half, dtype=np.int64)
    table[:, :] = -1
    for row in range(n_sites):
        key = keys[row]
        table[row, half] = row
        for tap in range(half):
            target = key + steps[tap]
            at = pointers[tap]
            while at < n_sites and keys[at] < target:
                at += 1
            pointers[tap] = at
            if at < n_sites and keys[at] == target:
                table[row, tap] = at
                table[at, n_taps - 1 - tap] = row


@_compiled
def _copy_present(bits, table, columns, n_channels):
    """Clear a row, list its present taps without branching, copy those: most taps are absent, at random."""
    n_rows, n_taps = table.shape
    present = np.empty(n_taps, np.int64)
    for row in range(n_rows):
        for at in range(n_taps * n_channels):
            columns[row, at] = 0
        n_present = 0
        for tap in range(n_taps):
            present[n_present] = tap
            n_present += table[row, tap] >= 0
        for chosen in range(n_present):
            tap = present[chosen]
            source = table[row, tap]
            for channel in range(n_channels):
                columns[row, tap * n_channels + channel] = bits[source, channel]


@_compiled
def _gather(bits, table, columns):
    """Choose the width: where it is a constant the compiler turns short copies into vector moves."""
    n_channels = bits.shape[1]
    if n_channels == 1:
        _copy_present(bits, table, columns, 1)
    elif n_channels == 8:
        _copy_present(bits, table, columns, 8)
    elif n_channels == 16:
        _copy_present(bits, table, columns, 16)
    else:
        _copy_present(bits, table, columns, n_channels)


@_compiled
def _run_end(coords, start, stop, column):
    """Find where rows stop to agree with row `start` in `column` and, for x, in the batch."""
    end = start + 1
    while end < stop and coords[end, column] == coords[start, column] and coords[end, 0] == coords[start, 0]:
        end += 1
    return end


@_compiled
def _order_depths(coords, start, stop, tap, factor, order, at):
    """Write the children of one run of equal (b, x, y) for one (jx, jy)."""
    fx, fy, fz, ft = factor
    z0 = start
    while z0 < stop:
        z1 = _run_end(coords, z0, stop, 3)
        for jz in range(fz):
            for parent in range(z0, z1):
                first = parent * (fx * fy * fz * ft) + (tap + jz) * ft
                for jt in range(ft):
                    order[at] = first + jt
                    at += 1
        z0 = z1
    return at


@_compiled
def _order_children(coords, factor, order):
    """Nest runs of parents with equal (b, x), (b, x, y), (b, x, y, z) with the child's index along that axis.

    Children of a run interleave: all parents of the run at the first index, then all again at the next.
    """
    fx, fy, fz, _ = factor
    at = 0
    x0 = 0
    while x0 < coords.shape[0]:
        x1 = _run_end(coords, x0, coords.shape[0], 1)
        for jx in range(fx):
            y0 = x0
            while y0 < x1:
                y1 = _run_end(coords, y0, x1, 2)
                for jy in range(fy):
                    at = _order_depths(coords, y0, y1, (jx * fy + jy) * fz, factor, order, at)
                y0 = y1
        x0 = x1
