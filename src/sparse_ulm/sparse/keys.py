"""Sites as one int64 key each: row-major over (batch, x, y, z, t), so that sorted keys are sorted rows."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int, Int64
from torch import Tensor

from sparse_ulm.errors import UserError
from sparse_ulm.sparse import loops
from sparse_ulm.sparse.engines.kernels import runs_compiled

_LARGEST_VOLUME = 2**62


def site_keys(coords: Int[Tensor, "n columns"], extent: Sequence[int]) -> Int64[Tensor, " n"]:
    """Give the row-major key of every row of `coords` in a grid of `extent` cells per column.

    Raises:
        UserError: If the grid has too many cells for 64 bits.
    """
    if math.prod(max(cells, 1) for cells in extent) >= _LARGEST_VOLUME:
        raise UserError(f"grid is {tuple(extent)}; wanted fewer than 2**62 cells. Split the recording into blocks.")
    if runs_compiled(coords):
        return loops.row_keys(coords, extent)
    keys = coords[:, 0].to(torch.int64)
    for column, cells in enumerate(extent[1:], start=1):
        keys = keys * cells + coords[:, column]
    return keys


def keys_to_coords(keys: Int64[Tensor, " n"], extent: Sequence[int]) -> Int[Tensor, "n columns"]:
    """Undo `site_keys`: int32 coordinate rows, contiguous."""
    if runs_compiled(keys):
        return loops.key_rows(keys, extent)
    coords = torch.empty((keys.shape[0], len(extent)), dtype=torch.int32, device=keys.device)
    rest = keys
    for column in range(len(extent) - 1, 0, -1):
        cells = max(extent[column], 1)
        coords[:, column] = rest % cells
        rest = rest // cells
    coords[:, 0] = rest
    return coords


def is_increasing(keys: Int64[Tensor, " n"]) -> bool:
    """Tell whether keys strictly increase: sorted and unique at once."""
    return bool((keys[1:] > keys[:-1]).all())


def find_keys(
    sorted_keys: Int64[Tensor, " n"], wanted: Int64[Tensor, " m"]
) -> tuple[Int64[Tensor, " m"], Bool[Tensor, " m"]]:
    """Look keys up in sorted, unique ones.

    Returns:
        The row of each wanted key (0 where absent), and whether it is there.
    """
    if sorted_keys.shape[0] == 0:
        return torch.zeros_like(wanted), torch.zeros_like(wanted, dtype=torch.bool)
    rows = torch.searchsorted(sorted_keys, wanted).clamp_(max=sorted_keys.shape[0] - 1)
    found = sorted_keys[rows] == wanted
    return torch.where(found, rows, 0), found
