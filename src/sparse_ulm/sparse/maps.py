"""Maps between sites: neighbours at the same level, parents one level up. Built once per set of sites, then shared.

A map is built on the device of the sites and kept in `SparseTensor.maps`. On the CPU compiled loops walk the
sorted sites (`loops.py`); elsewhere, and as the reference in tests, plain PyTorch searches sorted keys.
"""

import math
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from jaxtyping import Int32, Int64
from torch import Tensor

from sparse_ulm.conventions import Coordinates
from sparse_ulm.errors import UserError
from sparse_ulm.sparse import loops
from sparse_ulm.sparse.engines.kernels import runs_compiled
from sparse_ulm.sparse.keys import find_keys, is_increasing, keys_to_coords, site_keys
from sparse_ulm.sparse.pairs import Pairs
from sparse_ulm.sparse.taps import Quad, tap_number, tap_offsets
from sparse_ulm.sparse.tensor import SparseTensor, SpatialRange, Stride


@dataclass(frozen=True)
class Level:
    """The sites one stride up and where each fine site went.

    Attributes:
        coords: (coarse sites, 5) int32, in key order: unique(floor(fine / stride)).
        parent: (fine sites,) int32 coarse row of every fine site.
        spatial_range: Range of the coarse grid.
        stride: Input cells per coarse site.
        maps: The cache shared by all tensors at the coarse sites.
    """

    coords: Tensor
    parent: Tensor
    spatial_range: SpatialRange
    stride: Stride
    maps: dict[tuple[Any, ...], Any]


def neighbours(x: SparseTensor, kernel_size: Quad) -> Pairs:
    """Pair every site with the neighbours that it has at the taps of an odd kernel; kept in `x.maps`."""
    name = ("neighbours", kernel_size)
    if name not in x.maps:
        margin = (0, *(size // 2 for size in kernel_size))
        # A gap of half a kernel between grid lines keeps a neighbour beyond the border from meeting another line's key.
        extent = tuple(cells + gap for cells, gap in zip(x.spatial_range, margin, strict=True))
        keys = site_keys(x.coords, extent)
        offsets = tap_offsets(kernel_size)
        steps = site_keys(torch.nn.functional.pad(offsets, (1, 0)), extent)
        x.maps[name] = _mirrored_pairs(keys, steps.tolist())
    return x.maps[name]


def _mirrored_pairs(keys: Int64[Tensor, " sites"], steps: list[int]) -> Pairs:
    """Find pairs for the first half of the taps, add the centre, mirror the others."""
    n_sites, n_taps = keys.shape[0], len(steps)
    half = n_taps // 2
    find = loops.merge_keys if runs_compiled(keys) else search_keys
    inputs, outputs, counts = find(keys, steps[:half])
    own = torch.arange(n_sites, dtype=torch.int32, device=keys.device)
    starts = [0, *accumulate(counts), sum(counts) + n_sites]
    first = [(starts[tap], starts[tap + 1]) for tap in range(half)]
    return Pairs(
        torch.cat([inputs, own]),
        torch.cat([outputs, own]),
        segments=(*first, (starts[half], starts[half + 1]), *reversed(first)),
        swap=tuple(tap > half for tap in range(n_taps)),
        n_inputs=n_sites,
        n_outputs=n_sites,
        centre=half,
    )


def search_keys(
    keys: Int64[Tensor, " sites"], steps: list[int]
) -> tuple[Int32[Tensor, " pairs"], Int32[Tensor, " pairs"], list[int]]:
    """Find the rows of `keys[row] + step` for every step in plain PyTorch, step after step.

    Returns:
        Found rows, rows they were found for, and how many per step.
    """
    rows = torch.empty((len(steps), keys.shape[0]), dtype=torch.int32, device=keys.device)
    found = torch.empty_like(rows, dtype=torch.bool)
    for number, step in enumerate(steps):
        rows[number], found[number] = find_keys(keys, keys + step)
    numbers, outputs = found.nonzero(as_tuple=True)
    return rows[numbers, outputs], outputs.int(), found.sum(1).tolist()


def level(x: SparseTensor, stride: Quad) -> Level:
    """Give the sites of `x` one `stride` up, unique(floor(coords / stride)); kept in `x.maps`.

    Raises:
        UserError: If the range is no multiple of the stride.
    """
    name = ("level", stride)
    if name not in x.maps:
        x.maps[name] = _build_level(x, stride)
    return x.maps[name]


def _build_level(x: SparseTensor, stride: Quad) -> Level:
    """Merge the sites of `x` that share a coarse cell."""
    divisor = (1, *stride)
    if any(cells % step for cells, step in zip(x.spatial_range, divisor, strict=True)):
        raise UserError(
            f"spatial_range {x.spatial_range} (batch, x, y, z, t) is no multiple of the stride {stride} (x, y, z, t); "
            "pad the range, or choose strides that divide it."
        )
    extent = tuple(cells // step for cells, step in zip(x.spatial_range, divisor, strict=True))
    keys = site_keys(parent_coords(x.coords, stride), extent)
    if is_increasing(keys):
        coarse, parent = keys, torch.arange(len(x), device=keys.device)
    elif bool((keys[1:] >= keys[:-1]).all()):
        coarse, parent = torch.unique_consecutive(keys, return_inverse=True)
    else:
        coarse, parent = torch.unique(keys, return_inverse=True)
    new_stride = tuple(old * step for old, step in zip(x.stride, stride, strict=True))
    return Level(keys_to_coords(coarse, extent), parent.int(), extent, new_stride, {})  # type: ignore[arg-type]


def parent_coords(coords: Coordinates, stride: Quad) -> Coordinates:
    """Divide coordinates by the stride, rounding down; the batch column stays."""
    return coords // torch.tensor((1, *stride), dtype=torch.int32, device=coords.device)


def children(fine: SparseTensor, stride: Quad) -> Pairs:
    """Pair the sites of `fine` (inputs) with their own coarse sites (outputs), by tap; kept in `fine.maps`."""
    name = ("children", stride)
    if name not in fine.maps:
        parents = level(fine, stride)
        fine.maps[name] = _pairs_by_tap(fine, parents.parent, stride, parents.coords.shape[0])
    return fine.maps[name]


def children_of(coarse: SparseTensor, fine: SparseTensor, stride: Quad) -> Pairs:
    """Pair the sites of `fine` (inputs) with those of `coarse` (outputs); fine sites without parent are left out.

    Where `coarse` lies at the very sites that striding `fine` gave, this is `children`. Otherwise (after pruning,
    say) parents are looked up.

    Raises:
        UserError: If the ranges do not fit the stride.
    """
    known = fine.maps.get(("level", stride))
    if known is not None and known.maps is coarse.maps:
        return children(fine, stride)
    extent = tuple(cells * step for cells, step in zip(coarse.spatial_range, (1, *stride), strict=True))
    if extent != fine.spatial_range:
        raise UserError(
            f"coarse range {coarse.spatial_range} times stride {stride} is {extent}, but the fine range is "
            f"{fine.spatial_range}; wanted equal ones. Give the fine sites of the level below."
        )
    wanted = site_keys(parent_coords(fine.coords, stride), coarse.spatial_range)
    rows, found = find_keys(site_keys(coarse.coords, coarse.spatial_range), wanted)
    return _pairs_by_tap(fine, torch.where(found, rows, -1).int(), stride, len(coarse))


def _pairs_by_tap(fine: SparseTensor, parent: Int32[Tensor, " sites"], stride: Quad, n_coarse: int) -> Pairs:
    """Order fine rows by tap, dropping those whose parent is -1."""
    n_taps = math.prod(stride)
    digits = fine.coords[:, 1:] % torch.tensor(stride, dtype=torch.int32, device=fine.device)
    tap = torch.where(parent >= 0, tap_number(digits, stride), n_taps)
    rows = torch.argsort(tap, stable=True)
    bounds = [0, *torch.bincount(tap, minlength=n_taps + 1)[:n_taps].cumsum(0).tolist()]
    rows = rows[: bounds[-1]]
    return Pairs(
        rows.int(), parent[rows], tuple(pairwise(bounds)), (False,) * n_taps, n_inputs=len(fine), n_outputs=n_coarse
    )


def find_rows(x: SparseTensor, coords: Coordinates) -> Int64[Tensor, " n"]:
    """Give the row of `x` at each of `coords` (batch, x, y, z, t), -1 where `x` has no site or outside its range."""
    extent = torch.tensor(x.spatial_range, device=coords.device)
    inside = ((coords >= 0) & (coords < extent)).all(dim=1)
    rows, found = find_keys(site_keys(x.coords, x.spatial_range), site_keys(coords, x.spatial_range))
    return torch.where(inside & found, rows, -1)
