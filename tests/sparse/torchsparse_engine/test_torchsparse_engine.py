"""The TorchSparse engine by hand, against the native engine, and the laws it keeps."""

import importlib

import fake_torchsparse
import pytest
import torch
from torchsparse_agreement import TOLERANCE, assert_engines_agree, relative

from sparse_ulm.sparse import SparseTensor, StridedConv, SubmanifoldConv, TransposedConv, concatenate, prune
from sparse_ulm.sparse.engines import torchsparse_engine as engine

SUBMANIFOLD_SIZES = [(3, 3, 3, 1), (1, 1, 1, 3), (1, 1, 1, 5), (5, 1, 3, 1), (1, 3, 3, 3), (3, 1, 1, 3), (1, 1, 1, 1)]
STRIDES = [(2, 2, 2, 1), (1, 1, 1, 4), (2, 1, 1, 1), (1, 3, 2, 1), (2, 1, 2, 4)]


# A case by hand.


def test_space_and_time_by_hand(device) -> None:
    coords = torch.tensor([[0, 0, 0, 0, 0], [0, 0, 0, 0, 1], [0, 1, 0, 0, 1], [1, 0, 0, 0, 0]])
    feats = torch.tensor([[1.0], [10.0], [100.0], [1000.0]])
    x = SparseTensor(coords, feats, spatial_range=(2, 2, 2, 2, 2), engine="torchsparse").to(device)
    taps = torch.tensor([2.0, 3.0, 5.0], device=device).view(3, 1, 1)
    along_x = engine.submanifold(x, taps, None, (3, 1, 1, 1))
    assert along_x.flatten().tolist() == [3, 10 * 3 + 100 * 5, 100 * 3 + 10 * 2, 3000]
    along_t = engine.submanifold(x, taps, torch.ones(1, device=device), (1, 1, 1, 3))
    assert along_t.flatten().tolist() == [3 + 50 + 1, 30 + 2 + 1, 301, 3001]
    halved = engine.strided(x, taps[:2], None, (1, 1, 1, 2))
    assert halved.coords.tolist() == [[0, 0, 0, 0, 0], [0, 1, 0, 0, 0], [1, 0, 0, 0, 0]]
    assert halved.feats.flatten().tolist() == [2 + 30, 300, 2000]
    back = engine.transposed(halved, x, taps[:2], None, (1, 1, 1, 2))
    assert back.flatten().tolist() == [64, 96, 900, 4000]


def test_space_layout_by_hand(device) -> None:
    coords = torch.tensor([[0, 3, 1, 2, 4], [1, 0, 2, 3, 0], [1, 0, 2, 3, 6]])
    x = SparseTensor(coords, torch.randn(3, 2), spatial_range=(2, 4, 5, 6, 7), stride=(2, 2, 1, 4)).to(device)
    folded = engine.to_torchsparse(x)
    assert folded.coords.tolist() == [[4, 3, 1, 2], [7, 0, 2, 3], [13, 0, 2, 3]]
    assert (folded.spatial_range, folded.stride, folded.n_frames) == ((14, 4, 5, 6), (2, 2, 1), 7)
    assert folded.coords.dtype == torch.int32
    assert folded.feats is x.feats


# The native engine as an independent reference.


@pytest.mark.parametrize("size", SUBMANIFOLD_SIZES)
def test_submanifold_is_native(make, size) -> None:
    layer = SubmanifoldConv(3, 5, size, bias=True)
    assert_engines_agree(layer, [layer], [make()])


@pytest.mark.parametrize("stride", STRIDES)
def test_strided_is_native(make, stride) -> None:
    layer = StridedConv(3, 5, stride, bias=True)
    assert_engines_agree(layer, [layer], [make()])


@pytest.mark.parametrize("stride", STRIDES)
def test_down_and_up_is_native(make, stride) -> None:
    down, up = StridedConv(3, 5, stride), TransposedConv(5, 2, stride, bias=True)
    assert_engines_agree(lambda x: up(down(x), x), [down, up], [make()])


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_up_from_pruned_sites_that_no_strided_layer_made_is_native(make, share) -> None:
    fine = make()
    coarse = StridedConv(3, 5, (2, 2, 2, 1)).to(fine.device)(fine)
    keep = torch.arange(len(coarse), device=fine.device) < share * len(coarse)
    up = TransposedConv(5, 2, (2, 2, 2, 1), bias=True)
    assert_engines_agree(lambda c, f: up(c, f), [up], [prune(coarse, keep), fine])


def test_more_sites_above_than_parents_is_native(make) -> None:
    fine, up = make(share=0.05), TransposedConv(5, 2, (2, 2, 2, 1))
    assert_engines_agree(lambda c, f: up(c, f), [up], [make(5, 0.6, (2, 2, 3, 4, 12)), fine])


@pytest.mark.parametrize("spatial_range", [(1, 8, 1, 6, 5), (3, 2, 2, 2, 1)])
def test_flat_grids_are_native(make, spatial_range) -> None:
    layer = SubmanifoldConv(3, 4, (3, 1, 3, 3) if spatial_range[2] == 1 else (3, 3, 3, 1))
    assert_engines_agree(layer, [layer], [make(share=0.6, spatial_range=spatial_range)])


def test_factorised_network_is_native(make) -> None:
    """Both layouts at one level, with a kernel first used after striding: TorchSparse holds another table then."""
    sizes = [(3, 3, 3, 1), (1, 1, 1, 3), (5, 3, 1, 1), (3, 1, 1, 1)]
    first, time, late, low = (SubmanifoldConv(c, 4, size) for c, size in zip((3, 4, 8, 4), sizes, strict=True))
    down, up = StridedConv(4, 4, (2, 2, 2, 1)), TransposedConv(4, 4, (2, 2, 2, 1))

    def run(x: SparseTensor) -> SparseTensor:
        h = time(first(x))
        return late(concatenate([up(low(down(h)), h), h]))

    assert_engines_agree(run, [first, time, late, low, down, up], [make()])


def test_strided_first_then_back_and_across(make) -> None:
    """A transposed layer right after a first strided one, and time strided from the same sites as space."""
    space, time = StridedConv(3, 4, (2, 2, 2, 1)), StridedConv(3, 4, (1, 1, 1, 4))
    up_space, up_time = TransposedConv(4, 4, (2, 2, 2, 1)), TransposedConv(4, 4, (1, 1, 1, 4))

    def run(x: SparseTensor) -> SparseTensor:
        return concatenate([up_space(space(x), x), up_time(time(x), x)])

    assert_engines_agree(run, [space, time, up_space, up_time], [make()])


@pytest.mark.parametrize("batch_size", [0, 2])
def test_no_sites(make, batch_size) -> None:
    x = make(share=0.0, spatial_range=(batch_size, 4, 6, 8, 12))
    same, down, up = (
        SubmanifoldConv(3, 4, (3, 3, 3, 1)),
        StridedConv(4, 5, (2, 2, 2, 1)),
        TransposedConv(5, 2, (2, 2, 2, 1)),
    )
    layers = [layer.to(x.device) for layer in (same, down, up)]
    h = same(x.with_engine("torchsparse"))
    y = up(down(h), h)
    y.feats.sum().backward()
    assert y.feats.shape == (0, 2)
    assert all(not layer.kernel.grad.any() for layer in layers)


# Laws.


def test_round_trip(make) -> None:
    x = make()
    folded = engine.to_torchsparse(x)
    order = torch.randperm(len(x)).to(x.device)
    folded.coords, folded.feats = folded.coords[order], folded.feats[order]
    for y in (engine.from_torchsparse(folded), engine.from_torchsparse(folded, x.spatial_range[4])):
        assert torch.equal(y.coords, x.coords)
        assert torch.equal(y.feats, x.feats)
        assert (y.spatial_range, y.stride, y.engine) == (x.spatial_range, x.stride, "torchsparse")


def test_round_trip_of_a_library_layer(library, device, make) -> None:
    """TorchSparse's own layer on the tensor that we hand out gives what our layer gives on ours."""
    x = make()
    layer = SubmanifoldConv(3, 4, (3, 3, 3, 1)).to(device)
    functional = importlib.import_module("torchsparse.nn.functional")
    config = engine._configuration(functional, device.type)
    folded = engine.to_torchsparse(x)
    theirs = functional.conv3d(folded, layer.kernel, (3, 3, 3), stride=(1, 1, 1), padding=(1, 1, 1), config=config)
    ours = engine.from_torchsparse(theirs, n_frames=x.spatial_range[4])
    assert relative(ours.feats, layer(x).feats) < TOLERANCE
    assert ours.spatial_range == x.spatial_range


def test_feats_are_left_alone_and_x_stays_valid(make) -> None:
    x = make().with_engine("torchsparse")
    before = x.feats.clone()
    SubmanifoldConv(3, 3, (1, 1, 1, 3), bias=True).to(x.device)(x)
    engine.to_torchsparse(x).feats = None
    assert torch.equal(x.feats, before)


def test_evaluation_before_training_at_the_same_sites(make) -> None:
    x = make().with_engine("torchsparse")
    down, up = (kind(3, 3, (2, 2, 2, 1)).to(x.device) for kind in (StridedConv, TransposedConv))
    with torch.no_grad():
        evaluated = up(down(x), x).feats
    trained = up(down(x), x).feats
    trained.sum().backward()
    assert torch.equal(evaluated, trained)
    assert up.kernel.grad.any()
    assert down.kernel.grad.any()


def test_maps_are_built_once_a_level(library, make) -> None:
    if library != "fake":
        pytest.skip("only the stand-in counts the maps it builds")
    x = make().with_engine("torchsparse")
    layers = [SubmanifoldConv(3, 3, size) for size in [(3, 3, 3, 1), (1, 1, 1, 3), (3, 3, 3, 1)]]
    down, up = StridedConv(3, 3, (2, 2, 2, 1)), TransposedConv(3, 3, (2, 2, 2, 1))
    for _ in range(2):
        h = x
        for layer in layers:
            h = layer(h)
        up(layers[1](layers[0](down(h))), h)
    assert sorted(fake_torchsparse.built) == sorted(2 * [(3, 3, 3), (1, 1, 3)] + [(2, 2, 2)])


@pytest.mark.parametrize(
    ("precision", "capability", "expected"),
    [("highest", 900, False), ("high", 900, True), ("medium", 800, True), ("high", 750, False)],
)
def test_tf32_only_where_torch_has_it(make, monkeypatch, precision, capability, expected) -> None:
    backends = importlib.import_module("torchsparse.backends")
    monkeypatch.setattr(backends, "device_capability", capability)
    monkeypatch.setattr(backends, "allow_tf32", not expected)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: precision)
    engine.submanifold(make(), torch.ones(3, 3, 3, device=make().device), None, (3, 1, 1, 1))
    assert backends.allow_tf32 is expected


def test_global_settings_of_the_library_do_not_matter_and_are_left_alone(make, monkeypatch) -> None:
    config = importlib.import_module("torchsparse.nn.functional").conv_config.get_default_conv_config()
    monkeypatch.setitem(config, "kmap_mode", "hashmap")
    before = dict(config.items())
    x, kernel = make(), torch.ones(4, 3, 3, device=make().device)
    ours, native = (StridedConv(3, 3, (1, 1, 1, 4)).to(x.device) for _ in range(2))
    ours.kernel.data = native.kernel.data = kernel
    assert relative(ours(x.with_engine("torchsparse")).feats, native(x).feats) < TOLERANCE
    assert dict(config.items()) == before


def test_available() -> None:
    assert engine.torchsparse_available()
