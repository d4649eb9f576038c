"""What the TorchSparse engine refuses, each in one line with the cure."""

import importlib

import pytest
import torch

from sparse_ulm.errors import UserError
from sparse_ulm.sparse import SparseTensor, StridedConv, SubmanifoldConv, TransposedConv, engines
from sparse_ulm.sparse.engines import torchsparse_engine as engine

NOT_AVAILABLE = [ImportError("no"), AssertionError("Torch not compiled with CUDA enabled"), OSError("undefined symbol")]


@pytest.mark.parametrize("error", NOT_AVAILABLE)
def test_not_available_whatever_the_import_raises(monkeypatch, error) -> None:
    def refuse(name: str, *rest):
        raise error

    engines.torchsparse_failure.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(importlib, "import_module", refuse)
        assert not engine.torchsparse_available()


def test_four_axes_at_once_are_refused(make) -> None:
    x = make().with_engine("torchsparse")
    with pytest.raises(UserError, match=r"kernel \(3, 3, 3, 3\).*engine: native"):
        SubmanifoldConv(3, 2, (3, 3, 3, 3)).to(x.device)(x)
    with pytest.raises(UserError, match=r"kernel \(2, 2, 2, 2\).*engine: native"):
        StridedConv(3, 2, (2, 2, 2, 2)).to(x.device)(x)


@pytest.mark.parametrize("size", [(3, 3, 3, 1), (1, 1, 1, 1)])
def test_float64_is_refused(make, size) -> None:
    x = make().with_engine("torchsparse")
    x = x.with_feats(x.feats.double())
    with pytest.raises(UserError, match=r"float64.*use float32"):
        SubmanifoldConv(3, 2, size).double().to(x.device)(x)


def test_cpu_is_refused(make, monkeypatch) -> None:
    monkeypatch.delitem(engine._DATAFLOW, "cpu")
    x = make().to("cpu").with_engine("torchsparse")
    for layer in (SubmanifoldConv(3, 2, (3, 3, 3, 1)), StridedConv(3, 2, (2, 2, 2, 1))):
        with pytest.raises(UserError, match=r"on cpu.*engine: native"):
            layer(x)


def test_strided_grids_beyond_32_bits_are_refused(device) -> None:
    down, up = (kind(1, 1, (2, 2, 2, 1)).to(device) for kind in (StridedConv, TransposedConv))

    def along_time(n_frames: int) -> SparseTensor:
        coords = torch.tensor([[0, 0, 0, 0, 0], [0, 511, 511, 511, n_frames - 1]], device=device)
        feats = torch.ones(2, 1, device=device)
        return SparseTensor(coords, feats, spatial_range=(1, 512, 512, 512, n_frames), engine="torchsparse")

    assert len(down(along_time(127))) == 2
    x = along_time(128)
    coarse = down(x.with_engine("native")).with_engine("torchsparse")
    for refused in (lambda: down(x), lambda: up(coarse, x)):
        with pytest.raises(UserError, match=r"2147483648 cells.*fewer frames"):
            refused()
    assert len(SubmanifoldConv(1, 1, (3, 3, 3, 1)).to(device)(x)) == 2, "stride 1 has 64-bit keys"


def test_negative_coordinates_are_refused_when_strided(make, monkeypatch) -> None:
    monkeypatch.setattr(importlib.import_module("torchsparse.tensor"), "get_allow_negative_coordinates", lambda: True)
    x = make().with_engine("torchsparse")
    with pytest.raises(UserError, match=r"set_allow_negative_coordinates\(False\)"):
        StridedConv(3, 2, (2, 2, 2, 1)).to(x.device)(x)


def test_other_coarse_sites_are_noticed(make, monkeypatch) -> None:
    functional = importlib.import_module("torchsparse.nn.functional")
    original = functional.conv3d

    def losing(*args, **options):
        y = original(*args, **options)
        y.coords, y.feats = y.coords[1:], y.feats[1:]
        return y

    monkeypatch.setattr(functional, "conv3d", losing)
    x = make().with_engine("torchsparse")
    with pytest.raises(UserError, match=r"not to the \d+ expected.*engine: native"):
        StridedConv(3, 2, (2, 2, 2, 1)).to(x.device)(x)


def test_coarse_of_another_grid_is_refused(make) -> None:
    coarse = make(spatial_range=(2, 2, 3, 4, 6)).with_engine("torchsparse")
    up = TransposedConv(3, 2, (2, 2, 2, 1)).to(coarse.device)
    with pytest.raises(UserError, match="fine sites of the level below"):
        up(coarse, make())


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("spatial_range", None, "spatial_range None"),
        ("n_frames", None, "n_frames None"),
        ("n_frames", 7, "no multiple"),
    ],
)
def test_what_cannot_be_unfolded_is_refused(make, attribute, value, message) -> None:
    folded = engine.to_torchsparse(make())
    setattr(folded, attribute, value)
    with pytest.raises(UserError, match=message):
        engine.from_torchsparse(folded)
