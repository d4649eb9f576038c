"""Random sparse tensors of unequal sizes, and dense references."""

from collections.abc import Callable, Iterator

import pytest
import torch

from sparse_ulm.sparse import SparseTensor

RANGE = (2, 5, 6, 7, 8)

MakeTensor = Callable[..., SparseTensor]


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Same numbers in every run, whatever ran before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20240607)
        yield


@pytest.fixture
def make_tensor() -> MakeTensor:
    """Make a float64 tensor with a given share of sites; borders and both samples are always among them."""

    def make(channels: int = 3, share: float = 0.3, spatial_range: tuple[int, ...] = RANGE) -> SparseTensor:
        chosen = torch.rand(spatial_range) < share
        if share > 0:
            chosen[0, 0, 0, 0, 0] = chosen[-1, -1, -1, -1, -1] = True
        coords = chosen.nonzero().int()
        coords = coords[torch.randperm(len(coords))]
        feats = torch.randn(len(coords), channels, dtype=torch.float64)
        return SparseTensor(coords, feats, spatial_range=spatial_range)

    return make
