"""The library under test: a stand-in everywhere, TorchSparse itself where it can be imported."""

import fake_torchsparse
import pytest
import torch

from sparse_ulm.sparse import SparseTensor, engines
from sparse_ulm.sparse.engines import torchsparse_engine as engine

RANGE = (2, 4, 6, 8, 12)


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.torchsparse)], autouse=True)
def library(request, monkeypatch):
    """Run on the stand-in, and on TorchSparse itself where it can be imported (on a CPU: with its maps ported)."""
    if request.param == "fake":
        fake_torchsparse.install(monkeypatch)
    engines.torchsparse_failure.cache_clear()
    if (failure := engines.torchsparse_failure()) is not None:
        engines.torchsparse_failure.cache_clear()
        pytest.skip(f"TorchSparse cannot be imported: {failure}")
    monkeypatch.setitem(engine._DATAFLOW, "cpu", "GatherScatter")
    yield request.param
    engines.torchsparse_failure.cache_clear()


@pytest.fixture
def device(library) -> torch.device:
    return torch.device("cuda" if library == "real" and torch.cuda.is_available() else "cpu")


@pytest.fixture
def make(device, make_tensor):
    """Make a float32 tensor on the library's device, its features a leaf."""

    def make_leaf(channels: int = 3, share: float = 0.2, spatial_range: tuple[int, ...] = RANGE) -> SparseTensor:
        x = make_tensor(channels, share, spatial_range)
        return x.with_feats(x.feats.float()).to(device)

    return make_leaf
