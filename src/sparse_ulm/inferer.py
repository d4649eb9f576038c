"""The inferer: how a network is asked, once or from several views of the same block."""

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import Inferer

from sparse_ulm.conventions import TIME_COLUMN, X_COLUMN, Y_COLUMN
from sparse_ulm.errors import UserError
from sparse_ulm.networks.localisation import OFFSET, LocalisationOutput
from sparse_ulm.networks.trajectory_map import TrajectoryMapOutput, probability_of
from sparse_ulm.sparse import SparseTensor
from sparse_ulm.sparse.keys import keys_to_coords, site_keys
from sparse_ulm.tiles import answer_in_tiles

VIEW_COLUMNS = ((), (X_COLUMN,), (Y_COLUMN,), (X_COLUMN, Y_COLUMN))
"""Columns that each view mirrors; the same again backwards in time. Training mirrors along the same ones."""

SMALLEST_PROBABILITY = 1.0e-6
"""Keeps the logit of a mean probability finite."""


class SparseInferer(Inferer):
    """Run the network on a sparse batch; on a dense one, as MONAI Label and Deploy hand it over, get a dense answer.

    Args:
        n_views: Mirrored copies of each sparse block whose answers are averaged: 1 for the block alone, 2 with the
            one mirrored along x, 4 along x and y, 8 also backwards in time. Time grows with it, memory does not. Our
            choice: the probe and a bubble's way are symmetric, the network only nearly.
        max_tile_sites: Sites that a network sees at once: larger blocks are answered in tiles
            (`tiles.answer_in_tiles`), by networks that say what they look at. None for all sites.

    Raises:
        UserError: If `n_views` is none of these, or `max_tile_sites` is not positive.
    """

    def __init__(self, n_views: int = 1, *, max_tile_sites: int | None = None) -> None:
        """Keep the number of views and the size of tiles."""
        super().__init__()
        if n_views not in (1, 2, 4, 8):
            raise UserError(f"n_views is {n_views}; wanted 1, 2, 4 or 8.")
        if max_tile_sites is not None and not max_tile_sites > 0:
            raise UserError(f"max_tile_sites is {max_tile_sites}; wanted a positive number, or null for all at once.")
        self.max_tile_sites = max_tile_sites
        self.views = [(*columns, *extra) for extra in ((), (TIME_COLUMN,)) for columns in VIEW_COLUMNS][:n_views]

    def __call__(
        self, inputs: Any, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> TrajectoryMapOutput | LocalisationOutput | torch.Tensor:
        """Call the network; an empty sparse batch is answered without it, by an empty map, except in training.

        Training needs a loss with a gradient from every batch, and the native engine gives one without a site.
        """
        if isinstance(inputs, SparseTensor) and len(inputs) == 0 and not getattr(network, "training", False):
            return TrajectoryMapOutput((), None)
        if not isinstance(inputs, SparseTensor):
            return network(inputs, *args, **kwargs)
        if len(self.views) == 1:
            return self._ask(inputs, network)
        answers: list[Any] = [self._ask(mirror(inputs, view), network) for view in self.views]
        if isinstance(answers[0], LocalisationOutput):
            return mean_localisation([a.sites for a in answers], self.views)
        return TrajectoryMapOutput((), mean_map([mirror(a.final, v) for a, v in zip(answers, self.views, strict=True)]))

    def _ask(self, x: SparseTensor, network: Any) -> TrajectoryMapOutput | LocalisationOutput:
        reach = getattr(network, "reach", None)
        if self.max_tile_sites is None or reach is None:
            return network(x)
        return answer_in_tiles(x, network, max_sites=self.max_tile_sites, reach=reach, multiple=network.site_multiple)


def mirror(x: SparseTensor, columns: tuple[int, ...]) -> SparseTensor:
    """Mirror a sparse tensor within its range along some columns of its coordinates."""
    coords = x.coords.clone()
    for column in columns:
        coords[:, column] = x.spatial_range[column] - 1 - coords[:, column]
    return SparseTensor(coords, x.feats, spatial_range=x.spatial_range, stride=x.stride, engine=x.engine)


def mean_map(finals: list[SparseTensor]) -> SparseTensor:
    """Average the probabilities of several final maps; a voxel that one of them dropped counts as 0 there.

    Returns:
        Logits of the mean at the union of the sites.
    """
    first = finals[0]
    keys = torch.cat([site_keys(final.coords, first.spatial_range) for final in finals])
    every, row = torch.unique(keys, return_inverse=True)
    total = torch.zeros(len(every), dtype=first.feats.dtype, device=every.device)
    total.index_add_(0, row, torch.cat([probability_of(final) for final in finals]))
    logits = torch.logit(total / len(finals), eps=SMALLEST_PROBABILITY)[:, None]
    coords = keys_to_coords(every, first.spatial_range)
    return SparseTensor(coords, logits, spatial_range=first.spatial_range, stride=first.stride, engine=first.engine)


def mean_localisation(answers: list[SparseTensor], views: list[tuple[int, ...]]) -> LocalisationOutput:
    """Average the answers of LocalisationNet to mirrored blocks at the sites of the block itself.

    Logits, offsets and logarithms are averaged; an offset along a mirrored axis changes its sign.
    """
    straight = []
    for answer, view in zip(answers, views, strict=True):
        x = mirror(answer, view)
        feats = x.feats.clone()
        for column in view:
            if column != TIME_COLUMN:
                feats[:, OFFSET.start + column - X_COLUMN].neg_()
        straight.append(x.with_feats(feats))
    return LocalisationOutput(straight[0].with_feats(torch.stack([x.feats for x in straight]).mean(dim=0)))
