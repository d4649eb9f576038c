"""The native engine, the network and the loss on a device that is not the CPU, without one (posed_device.py).

Every path runs forward and backward on tensors that claim to be on cuda:0 and refuse to be read by the host; results
and gradients are those of the CPU. `ALLOWED` lists, for the first call on new sites, every operation after which the
host waits for the device; a second call at the same sites may not wait at all.
"""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from posed_device import DeviceError, Ledger, cuda, held, posed
from torch import Tensor, nn

from sparse_ulm.losses import MultiScaleDiceLoss
from sparse_ulm.networks.trajectory_map import PRIOR_LOGIT, TrajectoryMapNet, TrajectoryMapOutput
from sparse_ulm.sparse import (
    BatchNorm,
    GenerativeUpsample,
    MaxPool,
    SparseTensor,
    StridedConv,
    SubmanifoldConv,
    TransposedConv,
    concatenate,
    find_rows,
    from_dense,
    maps,
    pool_sites,
    prune,
    to_dense,
    union,
)

RANGE = (2, 4, 6, 8, 12)
TOLERANCE = 1e-12
"""Of float64, relative to the largest value: sums run in another order than in the compiled loops."""

LARGEST_UPLOAD = 150
"""Elements: lists of taps, ranges and strides are copied to the device, never anything sized by the sites."""

LEVEL = {"item": 2, "unique": 1}
"""Coarse sites: are the parents' keys in order already, and how many are left without repeats?"""

SEGMENTS = {"bincount": 1, "tolist": 1}
"""How many fine sites has each tap?"""


NEIGHBOURS = {"nonzero": 1, "tolist": 1}
"""Which sites are neighbours, and how many has each tap?"""


ALLOWED: dict[str, dict[str, int]] = {
    "space": NEIGHBOURS,
    "time": NEIGHBOURS,
    "space-time": NEIGHBOURS,
    "pointwise": {},
    "strided": LEVEL | SEGMENTS,
    "generative": {},
    "generative odd": {},
    "max pool": LEVEL,
    "all frames": LEVEL,
    "batch norm": {},
}

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "space": lambda: SubmanifoldConv(3, 5, (3, 3, 3, 1), bias=True),
    "time": lambda: SubmanifoldConv(3, 5, (1, 1, 1, 5)),
    "space-time": lambda: SubmanifoldConv(3, 2, (3, 3, 3, 3)),
    "pointwise": lambda: SubmanifoldConv(3, 5, (1, 1, 1, 1), bias=True),
    "strided": lambda: StridedConv(3, 5, (2, 2, 2, 1), bias=True),
    "generative": lambda: GenerativeUpsample(3, 5, bias=True),
    "generative odd": lambda: GenerativeUpsample(3, 5, (1, 3, 1, 1)),
    "max pool": lambda: MaxPool((2, 2, 2, 4)),
    "all frames": lambda: MaxPool((1, 1, 1, 12)),
    "batch norm": lambda: BatchNorm(3),
}


def leaf(x: SparseTensor) -> SparseTensor:
    """Give the same sites, with features that collect a gradient."""
    return x.with_feats(x.feats.detach().clone().requires_grad_())


def plain(x: Any) -> Any:
    """Take results off the posed device, sparse ones as well; refuse what is not there."""
    if isinstance(x, SparseTensor):
        return held(x.coords), held(x.feats), x.spatial_range, x.stride
    return held(x)


def assert_close(ours: Tensor, reference: Tensor, name: str) -> None:
    reference = reference.detach()
    assert ours.dtype == reference.dtype, name
    torch.testing.assert_close(
        ours, reference, rtol=0, atol=TOLERANCE * max([1.0, *reference.abs().ravel().tolist()]), msg=name
    )


def assert_same(ours: SparseTensor, reference: SparseTensor) -> None:
    coords, feats, spatial_range, stride = plain(ours)
    assert (spatial_range, stride) == (reference.spatial_range, reference.stride)
    assert torch.equal(coords, reference.coords)
    assert coords.dtype == torch.int32
    assert_close(feats, reference.feats, "features")


def assert_same_gradient(ours: Tensor, reference: Tensor, name: str) -> None:
    assert (ours.grad is None) == (reference.grad is None), name
    if ours.grad is not None and reference.grad is not None:
        assert_close(held(ours.grad), reference.grad, f"gradient of {name}")


def assert_same_state(ours: nn.Module, reference: nn.Module) -> None:
    """Compare gradients of the parameters and the running statistics."""
    for (name, parameter), wanted in zip(ours.named_parameters(), reference.parameters(), strict=True):
        assert parameter.grad is not None, name
        assert_same_gradient(parameter, wanted, name)
    for (name, buffer), kept in zip(ours.named_buffers(), reference.buffers(), strict=True):
        assert_close(held(buffer), kept, name)


def run(layer: nn.Module, *inputs: SparseTensor) -> SparseTensor:
    """Run forward and backward; the gradient differs from row to row and from channel to channel."""
    y = layer(*inputs)
    weights = torch.arange(y.feats.shape[0] * y.feats.shape[1], device=y.device, dtype=y.feats.dtype)
    (y.feats * torch.sin(weights).view(y.feats.shape)).sum().backward()
    return y


def assert_allowed(ledger: Ledger, allowed: dict[str, int]) -> None:
    too_many = {name: count for name, count in ledger.syncs.items() if count > allowed.get(name, 0)}
    assert not too_many, f"the host waits for the device: {too_many}; allowed {allowed}"
    assert ledger.largest_upload <= LARGEST_UPLOAD


def assert_independent(
    layer: nn.Module, allowed: dict[str, int], *inputs: SparseTensor, again: dict[str, int] | None = None
) -> None:
    """Compare forward and backward on the posed device with the CPU's; run once more, when maps are known."""
    layer.double()
    ours = copy.deepcopy(layer)
    references = [leaf(x) for x in inputs]
    expected = run(layer, *references)
    with cuda() as first:
        posed(ours)
        leaves = [leaf(posed(x)) for x in inputs]
        y = run(ours, *leaves)
    assert_same(y, expected)
    for i, (x, reference) in enumerate(zip(leaves, references, strict=True)):
        assert_same_gradient(x.feats, reference.feats, f"input {i}")
    assert_same_state(ours, layer)
    assert_allowed(first, allowed)
    with cuda() as second:
        run(ours, *leaves)
    assert_allowed(second, again or {})


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name: str, make_tensor) -> None:
    assert_independent(LAYERS[name](), ALLOWED[name], make_tensor(spatial_range=RANGE))


@pytest.mark.parametrize("name", LAYERS)
def test_layer_without_sites(name: str, make_tensor) -> None:
    layer, x = LAYERS[name]().double(), make_tensor(share=0.0, spatial_range=RANGE)
    expected = layer(x)
    with cuda():
        assert_same(posed(layer)(posed(x)), expected)


def test_way_back(make_tensor) -> None:
    fine = make_tensor(spatial_range=RANGE)
    coarse = MaxPool((2, 2, 2, 1))(fine)
    # The device does not know that these coarse sites are those of the fine ones: parents are looked up each time.
    assert_independent(TransposedConv(3, 5, (2, 2, 2, 1), bias=True), SEGMENTS, coarse, fine, again=SEGMENTS)


class DownAndUp(nn.Module):
    """The two directions on shared maps, as in a U-net."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = StridedConv(3, 4, (2, 2, 2, 1)), TransposedConv(4, 3, (2, 2, 2, 1))

    def forward(self, x: SparseTensor) -> SparseTensor:
        return concatenate([self.up(self.down(x), x), x])


def test_down_and_up_share_their_maps(make_tensor) -> None:
    assert_independent(DownAndUp(), LEVEL | SEGMENTS, make_tensor(spatial_range=RANGE))


class Pruned(nn.Module):
    """Prune by the sign of the first channel."""

    def forward(self, x: SparseTensor) -> SparseTensor:
        return prune(x, x.feats.detach()[:, 0] > 0)


class Union(nn.Module):
    """Add two tensors over the union of their sites."""

    def forward(self, a: SparseTensor, b: SparseTensor) -> SparseTensor:
        return union(a, b)


def test_operations_on_sites_wait_once_for_the_number_of_sites(make_tensor) -> None:
    x, other = make_tensor(spatial_range=RANGE), make_tensor(spatial_range=RANGE, share=0.2)
    for operation, inputs, allowed in ((Pruned(), [x], {"nonzero": 1}), (Union(), [x, other], {"unique": 1})):
        references = [leaf(tensor) for tensor in inputs]
        expected = run(operation, *references)
        with cuda() as ledger:
            leaves = [leaf(posed(tensor)) for tensor in inputs]
            y = run(operation, *leaves)
        assert_same(y, expected)
        for ours, reference in zip(leaves, references, strict=True):
            assert_same_gradient(ours.feats, reference.feats, "input")
        assert_allowed(ledger, allowed)


def test_rows_are_found_and_targets_pooled_without_waiting(make_tensor) -> None:
    x = make_tensor(spatial_range=RANGE)
    wanted = torch.cat([x.coords[::3], x.coords[:5] + 1])
    targets = x.feats[:, 0] > 0
    rows, pooled = find_rows(x, wanted), pool_sites(x, (2, 2, 2, 4), targets)
    with cuda() as ledger:
        ours = posed(x)
        assert torch.equal(held(find_rows(ours, posed(wanted))), rows)
        assert_allowed(ledger, {})
        assert torch.equal(held(pool_sites(ours, (2, 2, 2, 4), posed(targets))), pooled)
    assert_allowed(ledger, LEVEL)


def test_dense_and_back(make_tensor) -> None:
    x = make_tensor(spatial_range=RANGE)
    dense = to_dense(x)
    with cuda() as ledger:
        ours = to_dense(posed(x))
        assert_close(held(ours), dense, "dense")
        assert_allowed(ledger, {})
        assert_same(from_dense(ours), x)
    # Which voxels, and the checks of every SparseTensor made by users: none below 0, none beyond, unique and in order.
    assert_allowed(ledger, {"nonzero": 1, "item": 3})


@pytest.mark.parametrize("shuffled", [False, True])
def test_sites_are_checked_and_sorted_on_their_device(make_tensor, shuffled: bool) -> None:
    x = make_tensor(spatial_range=RANGE)
    order = torch.randperm(len(x)) if shuffled else torch.arange(len(x))
    with cuda() as ledger:
        ours = SparseTensor(posed(x.coords[order]), posed(x.feats[order]), spatial_range=RANGE)
        assert_same(ours, x)
    assert_allowed(ledger, {"item": 4})


def test_sites_may_move_to_the_device(make_tensor) -> None:
    x = make_tensor(spatial_range=RANGE)
    maps.neighbours(x, (3, 3, 3, 1))
    with cuda():
        ours = x.to("cuda:0")
        assert_same(ours, x)
        assert ours.maps == {}
        assert ours.device == torch.device("cuda:0")


@pytest.mark.parametrize("size", [(3, 3, 3, 1), (1, 1, 1, 5), (3, 1, 3, 3)])
def test_map_of_neighbours_is_the_compiled_one(make_tensor, size: tuple[int, int, int, int]) -> None:
    x = make_tensor(spatial_range=RANGE)
    expected = maps.neighbours(x, size)
    with cuda() as ledger:
        ours = maps.neighbours(posed(x), size)
    for rows in ("inputs", "outputs"):
        assert torch.equal(held(getattr(ours, rows)), getattr(expected, rows))
    assert (ours.segments, ours.swap, ours.centre) == (expected.segments, expected.swap, expected.centre)
    assert_allowed(ledger, NEIGHBOURS)


@pytest.mark.parametrize("stride", [(2, 2, 2, 1), (1, 1, 1, 4), (1, 1, 1, 12), (2, 3, 2, 4)])
def test_map_of_coarse_sites_is_that_of_the_cpu(make_tensor, stride: tuple[int, int, int, int]) -> None:
    x = make_tensor(spatial_range=RANGE)
    expected = maps.level(x, stride)
    with cuda() as ledger:
        ours = maps.level(posed(x), stride)
    assert torch.equal(held(ours.coords), expected.coords)
    assert torch.equal(held(ours.parent), expected.parent)
    assert_allowed(ledger, LEVEL)


# -- the network and its loss ---------------------------------------------------------------------------------------

SMALL = {"encoder_widths": [3, 4, 5], "refine_widths": [7, 6, 5, 4], "temporal_strides": [2, 4, 2], "in_channels": 2}
NETWORK_RANGE = (2, 8, 12, 4, 32)


STEP = {"nonzero": 19, "item": 49, "unique": 11, "bincount": 5, "tolist": 21, "isin": 4, "mask index": 1}
"""One training step: of "nonzero" and "tolist" 16 are neighbour maps, of "nonzero" 3 prunings, the heads' choices are
"bincount" and "tolist" per batch and two "item" per sample; `losses.unique_sites` reads its range with five "item"."""


@pytest.fixture
def batch() -> tuple[SparseTensor, Tensor]:
    """Two blocks and the trajectories in them, (sample, x, y, z, slot) on the grid refined by 8."""
    columns = [torch.randint(0, size, (160,)) for size in NETWORK_RANGE]
    coords = torch.unique(torch.stack(columns, dim=1).int(), dim=0)
    x = SparseTensor(coords, torch.randn(len(coords), 2, dtype=torch.float64), spatial_range=NETWORK_RANGE)
    scale = torch.tensor([1, 8, 8, 8, 1], dtype=torch.int32)
    truth = coords[::2] * scale + torch.tensor([0, 3, 5, 6, 0], dtype=torch.int32)
    truth[:, 4] //= 16
    return x, torch.unique(truth, dim=0)


def network(variant: str, **options: Any) -> TrajectoryMapNet:
    """Make an untrained network that keeps some sites and drops others."""
    prior = float(torch.sigmoid(torch.tensor(PRIOR_LOGIT)))
    return TrajectoryMapNet(**SMALL, variant=variant, keep_probability=prior, **options).double()  # type: ignore[arg-type]


def step(net: nn.Module, loss: nn.Module, x: SparseTensor, truth: Tensor) -> tuple[TrajectoryMapOutput, Tensor]:
    """Run one training step but for the optimiser."""
    output = net(x)
    value = loss(output, truth)
    value.backward()
    return output, value


@pytest.mark.parametrize(
    ("variant", "kernel"),
    [
        ("plain", "factorised"),
        ("deep_supervision", "factorised"),
        ("pruning", "factorised"),
        ("pruning", "hypercubic"),
    ],
)
def test_training_step(batch: tuple[SparseTensor, Tensor], variant: str, kernel: str) -> None:
    x, truth = batch
    net = network(variant, kernel=kernel)
    loss = MultiScaleDiceLoss(upsampling=(8, 8, 8), head_miss_weight=0.8, dilate=True)
    ours = copy.deepcopy(net)
    expected, expected_loss = step(net, loss, x, truth)
    with cuda() as ledger:
        output, value = step(posed(ours), loss, posed(x), posed(truth))
    assert output.final is not None
    assert expected.final is not None
    for head, reference in zip((*output.heads, output.final), (*expected.heads, expected.final), strict=True):
        assert_same(head, reference)
    assert_close(held(value), expected_loss, "loss")
    assert_same_state(ours, net)
    assert_allowed(ledger, STEP)


def test_the_budget_of_sites_is_kept_on_the_device(batch: tuple[SparseTensor, Tensor]) -> None:
    net = network("pruning", max_kept_sites=5).eval()
    expected = net(batch[0])
    with cuda():
        output = posed(net)(posed(batch[0]))
    for head, reference in zip((*output.heads, output.final), (*expected.heads, expected.final), strict=True):
        assert_same(head, reference)


def test_dense_blocks(batch: tuple[SparseTensor, Tensor]) -> None:
    dense = to_dense(batch[0])[:, :, :7, :, :3]
    net = network("plain").eval()
    with torch.no_grad():
        expected = net(dense)
        with cuda():
            assert_close(held(posed(net)(posed(dense))), expected, "probability")


# -- the posed device itself ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        lambda x: x.cpu(),
        lambda x: x.to("cpu"),
        lambda x: x.to(torch.device("cpu"), torch.int64),
        lambda x: x.to(torch.zeros(3)),
        lambda x: x.numpy(),
        lambda x: np.asarray(x),
        lambda x: x.detach().numpy(),
        lambda x: x.data_ptr(),
        lambda x: torch.from_dlpack(x),
        lambda x: x + torch.ones(3),
        lambda x: torch.cat([x, torch.ones(1)]),
        lambda x: torch.ones(5).index_select(0, x.long()),
        lambda x: torch.ones(3).copy_(x),
        lambda x: torch.mm(x[None], x[:, None], out=torch.empty(1, 1)),
        lambda x: pickle.dumps(x),
    ],
)
def test_posed_tensors_stay_on_their_device(fault: Callable[[Tensor], Any]) -> None:
    with cuda(), pytest.raises(DeviceError):
        fault(posed(torch.ones(3)))


def test_posed_tensors_take_numbers_and_count_what_waits() -> None:
    with cuda() as ledger:
        x = posed(torch.arange(4.0))
        assert x.device == torch.device("cuda:0")
        assert x.is_cuda
        assert (x * 2 + torch.tensor(1.0))[3].item() == 7.0
        assert x.tolist() == [0.0, 1.0, 2.0, 3.0]
        assert bool((x > -1).all())
        assert len(x[x > 1]) == len(x[torch.tensor([2, 3])]) == 2
        assert torch.equal(x, torch.tensor([0.0, 1, 2, 3], device=x.device))
        assert x[[3, 1]].tolist() == x.new_tensor([3, 1]).tolist() == [3.0, 1.0]
    assert ledger.syncs == {"item": 2, "tolist": 3, "mask index": 1, "equal": 1}
    assert (ledger.uploads, ledger.largest_upload) == (4, 4)
