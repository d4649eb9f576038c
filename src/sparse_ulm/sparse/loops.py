"""Compiled loops over sorted sites, for tensors on the CPU.

numba, because merging sorted lists is a loop that PyTorch cannot express without a search per element. The loops
release the interpreter lock and start no threads, so that they are safe in forked data-loader workers.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Int32, Int64
from numba import njit
from torch import Tensor


def row_keys(coords: Int[Tensor, "n columns"], extent: Sequence[int]) -> Int64[Tensor, " n"]:
    """Do as `keys.site_keys`, in one pass over memory."""
    keys = np.empty(coords.shape[0], np.int64)
    _row_keys(coords.numpy(), np.array(extent, np.int64), keys)
    return torch.from_numpy(keys)


def key_rows(keys: Int64[Tensor, " n"], extent: Sequence[int]) -> Int32[Tensor, "n columns"]:
    """Do as `keys.keys_to_coords`, in one pass over memory."""
    coords = np.empty((keys.shape[0], len(extent)), np.int32)
    _key_rows(keys.numpy(), np.array([max(cells, 1) for cells in extent], np.int64), coords)
    return torch.from_numpy(coords)


def merge_keys(
    keys: Int64[Tensor, " sites"], steps: list[int]
) -> tuple[Int32[Tensor, " pairs"], Int32[Tensor, " pairs"], list[int]]:
    """Merge sorted keys with themselves, shifted by each of `steps`: `maps.search_keys` without searches."""
    capacity = keys.shape[0] * len(steps) + 1
    inputs, outputs = np.empty(capacity, np.int32), np.empty(capacity, np.int32)
    counts = np.empty(len(steps), np.int64)
    _merge(keys.numpy(), np.array(steps, np.int64), inputs, outputs, counts)
    n_pairs = int(counts.sum())
    return torch.from_numpy(inputs[:n_pairs]), torch.from_numpy(outputs[:n_pairs]), counts.tolist()


def ordered_children(
    coords: Int32[Tensor, "sites 5"], factor: tuple[int, int, int, int]
) -> tuple[Int32[Tensor, "children 5"], Int64[Tensor, " children"]]:
    """Give all children of all sites in key order, and of each the number `parent row * K + row-major tap`."""
    n_children = coords.shape[0] * math.prod(factor)
    children, order = np.empty((n_children, 5), dtype=np.int32), np.empty(n_children, dtype=np.int64)
    _order_children(coords.numpy(), factor, children, order)
    return torch.from_numpy(children), torch.from_numpy(order)


def compiled(function: Callable[..., None]) -> Any:
    """Compile a loop; a run-time type checker may have wrapped it before, and numba wants the plain function."""
    return njit(cache=True, nogil=True)(inspect.unwrap(function))


@compiled
def _row_keys(coords, extent, keys):
    """Number cells row-major."""
    for row in range(coords.shape[0]):
        key = np.int64(coords[row, 0])
        for column in range(1, coords.shape[1]):
            key = key * extent[column] + coords[row, column]
        keys[row] = key


@compiled
def _key_rows(keys, extent, coords):
    """Undo `_row_keys`."""
    for row in range(keys.shape[0]):
        rest = keys[row]
        for column in range(extent.shape[0] - 1, 0, -1):
            whole = rest // extent[column]
            coords[row, column] = rest - whole * extent[column]
            rest = whole
        coords[row, 0] = rest


@compiled
def _merge(keys, steps, inputs, outputs, counts):
    """Move two pointers forward for each step; every move writes, and counts only where keys meet: no branches.

    A move has to wait for the one before it. So the lower and the upper half of the targets are merged in turns, the
    upper one into a buffer of its own, and a processor works on both at a time.
    """
    n_sites = keys.shape[0]
    middle = n_sites // 2
    upper_inputs, upper_outputs = np.empty(n_sites + 1, np.int32), np.empty(n_sites + 1, np.int32)
    pair = 0
    for number in range(steps.shape[0]):
        step, begin, upper = steps[number], pair, 0
        source, target = 0, 0
        upper_source, upper_target = n_sites, middle
        if middle > 0:
            upper_source = np.searchsorted(keys, keys[middle] + step)
        while target < middle and source < n_sites and upper_target < n_sites and upper_source < n_sites:
            distance = keys[source] - keys[target] - step
            inputs[pair], outputs[pair] = source, target
            pair += distance == 0
            target += distance >= 0
            source += distance <= 0
            distance = keys[upper_source] - keys[upper_target] - step
            upper_inputs[upper], upper_outputs[upper] = upper_source, upper_target
            upper += distance == 0
            upper_target += distance >= 0
            upper_source += distance <= 0
        while target < middle and source < n_sites:
            distance = keys[source] - keys[target] - step
            inputs[pair], outputs[pair] = source, target
            pair += distance == 0
            target += distance >= 0
            source += distance <= 0
        while upper_target < n_sites and upper_source < n_sites:
            distance = keys[upper_source] - keys[upper_target] - step
            upper_inputs[upper], upper_outputs[upper] = upper_source, upper_target
            upper += distance == 0
            upper_target += distance >= 0
            upper_source += distance <= 0
        inputs[pair : pair + upper] = upper_inputs[:upper]
        outputs[pair : pair + upper] = upper_outputs[:upper]
        pair += upper
        counts[number] = pair - begin


@compiled
def find_bounds(inputs, outputs, segments, swap, block, bounds):
    """Search, per tap, the first pair of every block of `block` output rows; see `Pairs.bounds`."""
    for tap in range(segments.shape[0]):
        start, stop = segments[tap]
        rows = inputs[start:stop] if swap[tap] else outputs[start:stop]
        found = 0
        for number in range(bounds.shape[0]):
            # Rows ascend, so that a block has at most as many pairs as rows.
            found += np.searchsorted(rows[found : found + block], number * block)
            bounds[number, tap] = start + found


@compiled
def _run_end(coords, start, stop, column):
    """Find where rows stop to agree with row `start` in `column` and, for x, in the batch."""
    end = start + 1
    while end < stop and coords[end, column] == coords[start, column] and coords[end, 0] == coords[start, 0]:
        end += 1
    return end


@compiled
def _order_depths(coords, start, stop, jx, jy, factor, children, order, at):
    """Write the children of one run of equal (b, x, y) for one (jx, jy)."""
    fx, fy, fz, ft = factor
    z0 = start
    while z0 < stop:
        z1 = _run_end(coords, z0, stop, 3)
        for jz in range(fz):
            for parent in range(z0, z1):
                for jt in range(ft):
                    order[at] = ((parent * fx + jx) * fy + jy) * (fz * ft) + jz * ft + jt
                    children[at, 0] = coords[parent, 0]
                    children[at, 1] = coords[parent, 1] * fx + jx
                    children[at, 2] = coords[parent, 2] * fy + jy
                    children[at, 3] = coords[parent, 3] * fz + jz
                    children[at, 4] = coords[parent, 4] * ft + jt
                    at += 1
        z0 = z1
    return at


@compiled
def _order_children(coords, factor, children, order):
    """Nest runs of parents with equal (b, x), (b, x, y), (b, x, y, z) with the child's index along that axis.

    Children of a run interleave: all parents of the run at the first index, then all again at the next.
    """
    at = 0
    x0 = 0
    while x0 < coords.shape[0]:
        x1 = _run_end(coords, x0, coords.shape[0], 1)
        for jx in range(factor[0]):
            y0 = x0
            while y0 < x1:
                y1 = _run_end(coords, y0, x1, 2)
                for jy in range(factor[1]):
                    at = _order_depths(coords, y0, y1, jx, jy, factor, children, order, at)
                y0 = y1
        x0 = x1
