"""Answer a block with more sites than memory allows tile by tile: parts that overlap by what the network looks at.

A site's answer follows from the sites within the network's reach, so that a tile read with so much around it answers
as the whole block would, and the joined answer does not tell where the cuts are.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from sparse_ulm.networks.localisation import LocalisationOutput
from sparse_ulm.networks.trajectory_map import TrajectoryMapOutput
from sparse_ulm.sparse import SparseTensor

Bounds = tuple[int, int, int, int]
"""Along x, y, z and t of the input's grid."""

Reach = tuple[int, int, int, int | None]
"""Voxels and frames on either side that an answer depends on; None along time, which the network then sees whole."""

Output = TrajectoryMapOutput | LocalisationOutput


@dataclass(frozen=True)
class Tile:
    """A box of the input's grid.

    Attributes:
        first: First voxel along x, y, z, and first frame.
        last: One past the last.
    """

    first: Bounds
    last: Bounds

    def holds(
        self, x: SparseTensor, *, scale: Bounds = (1, 1, 1, 1), reach: Bounds = (0, 0, 0, 0)
    ) -> Bool[Tensor, " n"]:
        """Tell which rows lie inside, on a grid refined by `scale`, or within `reach` of it."""
        inside = torch.ones(len(x), dtype=torch.bool, device=x.device)
        for axis in range(4):
            column = x.coords[:, axis + 1]
            inside &= column >= (self.first[axis] - reach[axis]) * scale[axis]
            inside &= column < (self.last[axis] + reach[axis]) * scale[axis]
        return inside

    def cut(self, axis: int, at: int) -> "tuple[Tile, Tile]":
        """Divide along an axis."""
        first, last = list(self.first), list(self.last)
        first[axis] = last[axis] = at
        return Tile(self.first, tuple(last)), Tile(tuple(first), self.last)  # type: ignore[arg-type]


def answer_in_tiles(
    x: SparseTensor, network: Callable[[SparseTensor], Output], *, max_sites: int, reach: Reach, multiple: Bounds
) -> Output:
    """Ask a network about a batch, in tiles where it has more sites than `max_sites`.

    Args:
        x: The batch.
        network: In inference: its answer to a site depends on the sites within its reach alone.
        max_sites: That the network sees at once, those around a tile included; a tile that is too small to be divided
            may have more.
        reach: Of the network.
        multiple: What the network pools: tiles begin at multiples of it.

    Returns:
        The network's answer at the same sites in the same order. Site pruning differs in one thing: where it would
        drop a whole tile it keeps the tile's likeliest site (`TrajectoryMapNet`), and its budget is each tile's.

    Source: our choice, because the budget of the released code drops sites, and bubbles with them.
    """
    around: Bounds = tuple(-(-(r or 0) // m) * m for r, m in zip(reach, multiple, strict=True))  # type: ignore[assignment]
    whole = Tile((0, 0, 0, 0), tuple(x.spatial_range[1:]))  # type: ignore[arg-type]
    cuttable = tuple(r is not None for r in reach)
    tiles = list(divide(x, whole, max_sites=max_sites, around=around, multiple=multiple, cuttable=cuttable))
    if len(tiles) == 1:
        return network(x)
    filled = [tile for tile in tiles if bool(tile.holds(x).any())]
    return _joined([_within(network(_rows(x, tile.holds(x, reach=around))), tile, x) for tile in filled])


def divide(
    x: SparseTensor, tile: Tile, *, max_sites: int, around: Bounds, multiple: Bounds, cuttable: tuple[bool, ...]
) -> Iterator[Tile]:
    """Halve a tile along the axis where that costs least, until each half and what lies around it is small enough."""
    axis = _best_axis(tile, around, multiple, cuttable)
    if axis is None or int(tile.holds(x, reach=around).sum()) <= max_sites:
        yield tile
        return
    first, last, step = tile.first[axis], tile.last[axis], multiple[axis]
    own = x.coords[tile.holds(x)][:, axis + 1]
    middle = int(own.median()) if len(own) else (first + last) // 2
    at = min(max(round(middle / step) * step, first + step), (last - 1) // step * step)
    for half in tile.cut(axis, at):
        yield from divide(x, half, max_sites=max_sites, around=around, multiple=multiple, cuttable=cuttable)


def _best_axis(tile: Tile, around: Bounds, multiple: Bounds, cuttable: tuple[bool, ...]) -> int | None:
    """Find the axis along which the tile is longest against its surroundings; None where no half would be smaller."""
    length = [last - first for first, last in zip(tile.first, tile.last, strict=True)]
    best = max(range(4), key=lambda axis: length[axis] / max(1, around[axis]) if cuttable[axis] else -1.0)
    # Below its own surroundings a half reads nearly what the tile reads.
    return best if length[best] > max(around[best], multiple[best]) else None


def _rows(x: SparseTensor, kept: Bool[Tensor, " n"]) -> SparseTensor:
    return SparseTensor(x.coords[kept], x.feats[kept], spatial_range=x.spatial_range, stride=x.stride, engine=x.engine)


def _within(output: Output, tile: Tile, x: SparseTensor) -> Output:
    """Keep the answers that are the tile's own."""
    if isinstance(output, LocalisationOutput):
        return LocalisationOutput(_rows(output.sites, tile.holds(output.sites)))
    if output.final is None:
        return TrajectoryMapOutput((), None)
    fine = output.final.spatial_range
    scale: Bounds = (*(fine[axis] // x.spatial_range[axis] for axis in (1, 2, 3)), 1)  # type: ignore[assignment]
    return TrajectoryMapOutput((), _rows(output.final, tile.holds(output.final, scale=scale)))


def _joined(parts: list[Output]) -> Output:
    """Join the answers of all tiles; heads, which only training wants, are left out."""
    bubbles = [part.sites for part in parts if isinstance(part, LocalisationOutput)]
    if bubbles:
        return LocalisationOutput(_concatenated(bubbles))
    finals = [part.final for part in parts if isinstance(part, TrajectoryMapOutput) and part.final is not None]
    return TrajectoryMapOutput((), _concatenated(finals) if finals else None)


def _concatenated(parts: list[SparseTensor]) -> SparseTensor:
    coords, feats = torch.cat([p.coords for p in parts]), torch.cat([p.feats for p in parts])
    first = parts[0]
    return SparseTensor(coords, feats, spatial_range=first.spatial_range, stride=first.stride, engine=first.engine)
