"""Compiled loops over sorted sites, for tensors on the CPU.

numba, because merging sorted lists and copying rows are loops that PyTorch cannot express without a search per
element. The loops release the interpreter lock and start no threads,
so that they are safe in forked data-loader workers.
"""

import inspect
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
    _gather(feats.numpy(), table.numpy(), columns.numpy())


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
def _gather(feats, table, columns):
    """Copy rows; short fixed inner loops so that they become vector moves."""
    n_rows, n_taps = table.shape
    n_channels = feats.shape[1]
    for row in range(n_rows):
        at = 0
        for tap in range(n_taps):
            source = table[row, tap]
            if source < 0:
                for channel in range(n_channels):
                    columns[row, at + channel] = 0
            else:
                for channel in range(n_channels):
                    columns[row, at + channel] = feats[source, channel]
            at += n_channels
