"""Sites and weights that the sparse engines are timed on: moving blobs, and the layers of one kind of convolution.

Cubes of 3 to 5 voxels a side live 8 to 40 frames and move with a random constant velocity: the law of a bubble's image
in a filtered recording. The grid grows with the number of sites, so that about 1 % of it is occupied at every size.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Quad = tuple[int, int, int, int]
Extent = tuple[int, int, int, int, int]

SPATIAL, TEMPORAL = (3, 3, 3, 1), (1, 1, 1, 3)
KINDS: dict[str, tuple[Quad, ...]] = {"factorised": (SPATIAL, TEMPORAL), "hypercubic": ((3, 3, 3, 3),)}
"""Kernel sizes along (x, y, z, t), layer by layer."""

SIDES = (3, 5)
LIVES = (8, 40)
FASTEST = 0.75
"""Voxels per frame along an axis. A site then has 16 of 27 neighbours in space, 2.5 of 3 in time, 43 of 81 in both."""
SMALLEST_GRID = (32, 32, 32, 512)
LARGEST_OCCUPANCY = 0.015


@dataclass(frozen=True)
class Case:
    """One thing to convolve: sites in key order, features, the gradient that comes back, and every layer's weights.

    Attributes:
        coords: (sites, 5) int32, contiguous: batch, x, y, z, t.
        extent: (1, X, Y, Z, T) cells.
        sizes: Kernel size of every layer along (x, y, z, t).
        kernels: (taps, channels, channels) of every layer, x fastest: the order of the native parameters.
        feats: (sites, channels).
        upstream: (sites, channels) gradient of the loss to the last layer's output.
    """

    coords: Tensor
    extent: Extent
    sizes: tuple[Quad, ...]
    kernels: tuple[Tensor, ...]
    feats: Tensor
    upstream: Tensor


def grid_for(n_sites: int) -> Extent:
    """Double the axes of 32x32x32x512 in turn until the sites fill no more than 1.5 % of the cells."""
    grid, axis = list(SMALLEST_GRID), 0
    while n_sites > LARGEST_OCCUPANCY * math.prod(grid):
        grid[axis] *= 2
        axis = (axis + 1) % 4
    return (1, grid[0], grid[1], grid[2], grid[3])


def moving_blobs(n_sites: int, *, seed: int, extent: Extent | None = None) -> tuple[Tensor, Extent]:
    """Fill a grid with moving cubes until it has `n_sites` sites; give them in key order, (sites, 5) int32."""
    extent = grid_for(n_sites) if extent is None else extent
    rng = np.random.default_rng(seed)
    cells, keys = np.array(extent[1:]), np.empty(0, np.int64)
    while len(keys) < n_sites:
        more = [_blob(rng, cells) for _ in range(n_sites // 1500 + 2)]
        keys = np.concatenate((keys, *more))
        # Sites of the first blobs are kept, so that the last ones are cut off whole: no blob is thinned.
        keys = keys[np.sort(np.unique(keys, return_index=True)[1])]
    quads = np.stack(np.unravel_index(np.sort(keys[:n_sites]), extent[1:]), axis=1)
    coords = np.concatenate((np.zeros((n_sites, 1)), quads), axis=1).astype(np.int32)
    return torch.from_numpy(np.ascontiguousarray(coords)), extent


def _blob(rng: np.random.Generator, cells: np.ndarray) -> np.ndarray:
    """Give the cell numbers of one cube over its life; those outside the grid are dropped."""
    side, life = rng.integers(*SIDES, endpoint=True), rng.integers(*LIVES, endpoint=True)
    first = rng.integers(1 - life, cells[3])
    start, velocity = rng.uniform(0, cells[:3]), rng.uniform(-FASTEST, FASTEST, size=3)
    age = np.arange(life)
    corner = np.floor(start + velocity * age[:, None]).astype(np.int64) - side // 2
    cube = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    voxels = (corner[:, None] + cube).reshape(-1, 3)
    sites = np.concatenate((voxels, np.repeat(first + age, len(cube))[:, None]), axis=1)
    return np.ravel_multi_index(tuple(sites[((sites >= 0) & (sites < cells)).all(axis=1)].T), tuple(cells))


def make_case(coords: Tensor, extent: Extent, sizes: tuple[Quad, ...], channels: int, *, seed: int) -> Case:
    """Draw features, weights and a gradient for sites; outputs are of the order of one."""
    generator = torch.Generator().manual_seed(seed)
    kernels = tuple(
        torch.randn(math.prod(size), channels, channels, generator=generator) / math.sqrt(math.prod(size) * channels)
        for size in sizes
    )
    feats, upstream = (torch.randn(len(coords), channels, generator=generator) for _ in range(2))
    return Case(coords, extent, sizes, kernels, feats, upstream)


def neighbour_pairs(coords: Tensor, extent: Extent, offsets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Find, for every offset (x, y, z, t), the rows (input, output) with input = output + offset; plain searches."""
    reach = [int(offsets[:, axis].abs().max()) for axis in range(4)]
    # A gap between grid lines keeps what lies beyond the border from being taken for the next line's first cells.
    gapped = [cells + gap for cells, gap in zip(extent[1:], reach, strict=True)]
    weights = torch.tensor([math.prod(gapped[axis + 1 :]) for axis in range(4)])
    keys = coords[:, 1:].long() @ weights
    for step in (offsets.long() @ weights).tolist():
        place = torch.searchsorted(keys, keys + step).clamp_(max=len(keys) - 1)
        outputs = torch.nonzero(keys[place] == keys + step).squeeze(1)
        yield place[outputs], outputs


def tap_offsets(size: Quad) -> Tensor:
    """List the offsets of a centred kernel's taps, x fastest: the native order, told here without the native code."""
    axes = [torch.arange(taps) - taps // 2 for taps in size]
    return torch.stack(torch.meshgrid(*axes[::-1], indexing="ij")[::-1], dim=-1).reshape(-1, 4)


def count_pairs(coords: Tensor, extent: Extent, size: Quad) -> int:
    """Count the (input, output) pairs of a centred kernel: half the taps searched, the others mirror them."""
    offsets = tap_offsets(size)
    half = offsets[: len(offsets) // 2]
    return len(coords) + 2 * sum(len(outputs) for _, outputs in neighbour_pairs(coords, extent, half))
