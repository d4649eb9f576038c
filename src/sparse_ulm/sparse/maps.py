"""Maps between sites: neighbours at the same level, parents one level up. Built once per set of sites, then shared.

A map is built on the device of the sites and kept in `SparseTensor.maps`. On the CPU compiled loops walk the
sorted sites (`loops.py`); elsewhere, and as the reference in tests, plain PyTorch searches sorted keys.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int32, Int64
from torch import Tensor

from sparse_ulm.conventions import Coordinates
from sparse_ulm.errors import UserError
from sparse_ulm.sparse import loops
from sparse_ulm.sparse.keys import find_keys, is_increasing, keys_to_coords, site_keys
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


@dataclass(frozen=True)
class Segments:
    """Fine sites grouped by the kernel tap that joins them to their parent.

    Attributes:
        fine_rows: (pairs,) int32 fine rows, tap by tap, in row order within a tap.
        coarse_rows: (pairs,) int32 rows of their parents; each at most once within a tap.
        bounds: Where the pairs of tap k begin and end: bounds[k], bounds[k + 1].
    """

    fine_rows: Tensor
    coarse_rows: Tensor
    bounds: tuple[int, ...]


def neighbours(x: SparseTensor, kernel_size: Quad) -> Int32[Tensor, "sites taps"]:
    """Give the row of every site's neighbour at every tap of an odd kernel, -1 where absent; kept in `x.maps`."""
    name = ("neighbours", kernel_size)
    if name not in x.maps:
        margin = (0, *(size // 2 for size in kernel_size))
        # A gap of half a kernel between grid lines keeps a neighbour beyond the border from meeting another line's key.
        extent = tuple(cells + gap for cells, gap in zip(x.spatial_range, margin, strict=True))
        keys = site_keys(x.coords, extent)
        offsets = tap_offsets(kernel_size)
        steps = site_keys(torch.nn.functional.pad(offsets, (1, 0)), extent)
        build = loops.neighbour_table if keys.device.type == "cpu" else neighbour_table
        x.maps[name] = build(keys, steps.to(keys.device))
    return x.maps[name]


def neighbour_table(keys: Int64[Tensor, " sites"], steps: Int64[Tensor, " taps"]) -> Int32[Tensor, "sites taps"]:
    """Search the neighbour `keys[i] + steps[k]` of every site in plain PyTorch; half the taps, the others mirrored."""
    n_sites, n_taps = keys.shape[0], steps.shape[0]
    table = torch.full((n_sites, n_taps), -1, dtype=torch.int32, device=keys.device)
    own = torch.arange(n_sites, device=keys.device)
    table[:, n_taps // 2] = own
    for tap in range(n_taps // 2):
        rows, found = find_keys(keys, keys + steps[tap])
        table[found, tap] = rows[found].int()
        table[rows[found], n_taps - 1 - tap] = own[found].int()
    return table


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


def segments(fine: SparseTensor, stride: Quad) -> Segments:
    """Group the sites of `fine` by tap towards their own coarse sites; kept in `fine.maps`."""
    name = ("segments", stride)
    if name not in fine.maps:
        fine.maps[name] = _group_by_tap(fine, level(fine, stride).parent, stride)
    return fine.maps[name]


def segments_between(coarse: SparseTensor, fine: SparseTensor, stride: Quad) -> Segments:
    """Group the sites of `fine` by tap towards the sites of `coarse`; fine sites without parent are left out.

    Where `coarse` lies at the very sites that striding `fine` gave, this is `segments`. Otherwise (after pruning,
    say) parents are looked up.

    Raises:
        UserError: If the ranges do not fit the stride.
    """
    known = fine.maps.get(("level", stride))
    if known is not None and known.maps is coarse.maps:
        return segments(fine, stride)
    extent = tuple(cells * step for cells, step in zip(coarse.spatial_range, (1, *stride), strict=True))
    if extent != fine.spatial_range:
        raise UserError(
            f"coarse range {coarse.spatial_range} times stride {stride} is {extent}, but the fine range is "
            f"{fine.spatial_range}; wanted equal ones. Give the fine sites of the level below."
        )
    wanted = site_keys(parent_coords(fine.coords, stride), coarse.spatial_range)
    rows, found = find_keys(site_keys(coarse.coords, coarse.spatial_range), wanted)
    return _group_by_tap(fine, torch.where(found, rows, -1).int(), stride)


def _group_by_tap(fine: SparseTensor, parent: Int32[Tensor, " sites"], stride: Quad) -> Segments:
    """Order fine rows by tap, dropping those whose parent is -1."""
    n_taps = stride[0] * stride[1] * stride[2] * stride[3]
    digits = fine.coords[:, 1:] % torch.tensor(stride, dtype=torch.int32, device=fine.device)
    tap = torch.where(parent >= 0, tap_number(digits, stride), n_taps)
    rows = torch.argsort(tap, stable=True)
    bounds = [0, *torch.bincount(tap, minlength=n_taps + 1)[:n_taps].cumsum(0).tolist()]
    rows = rows[: bounds[-1]]
    return Segments(rows.int(), parent[rows], tuple(bounds))


def find_rows(x: SparseTensor, coords: Coordinates) -> Int64[Tensor, " n"]:
    """Give the row of `x` at each of `coords` (batch, x, y, z, t), -1 where `x` has no site or outside its range."""
    extent = torch.tensor(x.spatial_range, device=coords.device)
    inside = ((coords >= 0) & (coords < extent)).all(dim=1)
    rows, found = find_keys(site_keys(x.coords, x.spatial_range), site_keys(coords, x.spatial_range))
    return torch.where(inside & found, rows, -1)
