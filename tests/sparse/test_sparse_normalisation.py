"""Norm with ReLU against PyTorch's two layers; what is kept for the backward pass, and in how many bytes."""

import copy

import pytest
import torch
from torch import nn

from sparse_ulm.errors import UserError
from sparse_ulm.networks.blocks import ConvNormRelu, SpaceTimeConv
from sparse_ulm.sparse import NormRelu, SparseTensor, stored_as
from sparse_ulm.sparse.engines.kernels import use_kernel
from sparse_ulm.sparse.kept import features_of, kept_tensors

pytestmark = pytest.mark.usefixtures("each_kernel")

DOUBLE = torch.float64


def rows(n: int, channels: int, dtype: torch.dtype = DOUBLE) -> SparseTensor:
    """Make `n` sites in a row, with means far from 0 and unequal scales."""
    coords = nn.functional.pad(torch.arange(n, dtype=torch.int32)[:, None], (4, 0))
    scales = torch.linspace(0.1, 3.0, channels, dtype=DOUBLE)
    feats = torch.randn(n, channels, dtype=DOUBLE) * scales + 5 * scales.flip(0)
    return SparseTensor(coords, feats.to(dtype), spatial_range=(1, 1, 1, 1, n))


def make_pair(channels: int, dtype: torch.dtype = DOUBLE) -> tuple[NormRelu, nn.BatchNorm1d]:
    """Make our layer and PyTorch's norm with the same parameters, none of them at its start value."""
    ours = NormRelu(channels).to(dtype)
    for tensor in (ours.weight.data, ours.bias.data, ours.running_mean):
        tensor.normal_()
    ours.running_var.uniform_(0.5, 2.0)
    torchs = nn.BatchNorm1d(channels).to(dtype)
    torchs.load_state_dict(ours.state_dict())
    return ours, torchs


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("n", "channels"), [(2, 1), (5, 3), (777, 8), (3001, 24), (130, 70), (40_000, 5)])
def test_numbers_and_gradients_are_torchs(n: int, channels: int, training: bool) -> None:
    x = rows(n, channels)
    ours, torchs = make_pair(channels)
    weights = torch.randn(n, channels, dtype=DOUBLE)
    results = []
    for layer, call in ((ours, lambda f: ours(x.with_feats(f)).feats), (torchs, lambda f: torchs(f).relu())):
        layer.train(training)
        feats = x.feats.clone().requires_grad_()
        y = call(feats)
        (y * weights).sum().backward()
        results.append((y.detach(), feats.grad, layer.weight.grad, layer.bias.grad, *layer.buffers()))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    assert (results[0][0] == 0).any() or n < 10
    assert (results[0][0] > 0).any()


def test_single_precision_is_as_good_as_torchs() -> None:
    x = rows(50_000, 8)
    ours, torchs = make_pair(8)
    exact = torchs(x.feats).relu()
    single = ours.float()(x.with_feats(x.feats.float())).feats
    with_torch = torchs.float()(x.feats.float()).relu()
    assert (single - exact).abs().max() <= 2 * (with_torch - exact).abs().max() + 1e-6


def test_gradcheck() -> None:
    x = rows(23, 3)
    layer, _ = make_pair(3)
    layer.track_running_stats = False
    inputs = (x.feats.clone().requires_grad_(), layer.weight, layer.bias)

    def run(feats: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, x.with_feats(feats)).feats

    assert torch.autograd.gradcheck(run, inputs)


def test_a_nan_is_not_hidden() -> None:
    x = rows(10, 2)
    x.feats[3, 1] = torch.nan
    y = NormRelu(2).double().eval()(x)
    assert y.feats.isnan().sum() == 1


@pytest.mark.parametrize("n", [0, 1])
def test_no_site_and_one_site_use_running_statistics(n: int) -> None:
    x = rows(n, 3)
    layer, torchs = make_pair(3)
    before = copy.deepcopy(layer.state_dict())
    feats = x.feats.clone().requires_grad_()
    y = layer(x.with_feats(feats))
    torch.testing.assert_close(y.feats, torchs.eval()(x.feats).relu())
    y.feats.sum().backward()
    assert all(torch.equal(before[key], value) for key, value in layer.state_dict().items())


def test_the_next_layer_makes_its_input_again() -> None:
    x = rows(300, 8)
    y = NormRelu(8).double()(x)
    kept = kept_tensors(y.feats, y.rebuild)
    assert kept[0].data_ptr() == x.feats.data_ptr(), "the features before the norm, nothing new"
    assert torch.equal(features_of(kept, DOUBLE), y.feats)
    assert y.with_feats(y.feats + 1).rebuild is None


def saved_bytes(run) -> int:
    """Count what autograd keeps of floating-point features while `run` is called, each storage once."""
    seen: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_floating_point() and tensor.ndim == 2 and tensor.shape[0] > 1000:
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        alive = run()
    assert alive.feats.requires_grad
    return sum(seen.values())


def test_one_array_a_layer_is_kept_and_half_of_it_in_bfloat16() -> None:
    x = rows(2000, 4, torch.float32)
    net = nn.Sequential(*(SpaceTimeConv(w, 8, spatial_dims=3, temporal_taps=3, kernel="factorised") for w in (4, 8)))
    full = saved_bytes(lambda: net(x))
    assert full == 2000 * 4 * (4 + 4 * 8), "the input and the features before each of four norms"
    with stored_as("bfloat16"):
        assert saved_bytes(lambda: net(x)) == full // 2
    assert saved_bytes(lambda: net(x)) == full


def test_bfloat16_storage_changes_no_output_and_gradients_little(make_tensor) -> None:
    x = make_tensor(channels=4, share=0.4)
    x = x.with_feats(x.feats.float())
    net = SpaceTimeConv(4, 8, spatial_dims=3, temporal_taps=3, kernel="factorised")
    results = []
    for name in ("float32", "bfloat16"):
        net.zero_grad()
        with stored_as(name):
            y = net(x)
        y.feats.square().sum().backward()
        results.append((y.feats.detach(), torch.cat([p.grad.flatten() for p in net.parameters()])))
    (exact, gradient), (same, rounded) = results
    assert torch.equal(exact, same)
    assert 1e-5 < (rounded - gradient).norm() / gradient.norm() < 0.02


def test_unknown_storage_is_refused() -> None:
    with pytest.raises(UserError, match="float32, bfloat16"), stored_as("float8"):
        pass


def test_inference_folds_the_norm_into_the_kernel(make_tensor) -> None:
    x = make_tensor(channels=3)
    layer = ConvNormRelu(3, 5, (3, 3, 3, 1)).double()
    for _ in range(3):
        layer(x)
    nn.init.normal_(layer.norm.weight)
    nn.init.normal_(layer.norm.bias)
    layer.eval()
    with torch.no_grad():
        folded = layer(x)
    assert folded.rebuild is None
    torch.testing.assert_close(folded.feats, layer(x).feats, rtol=1e-12, atol=1e-12)


def test_bits_do_not_depend_on_the_number_of_threads(make_tensor) -> None:
    x = make_tensor(channels=8, share=0.6, spatial_range=(2, 12, 10, 11, 16))
    net = SpaceTimeConv(8, 8, spatial_dims=3, temporal_taps=3, kernel="factorised")
    before = torch.get_num_threads()
    results = []
    try:
        for n_threads in (1, 2, 3):
            torch.set_num_threads(n_threads)
            with use_kernel("compiled"):
                fresh = x.to("cpu").with_feats(x.feats.float().requires_grad_())
                net.zero_grad()
                y = net(fresh)
                y.feats.square().sum().backward()
                results.append([y.feats.detach(), fresh.feats.grad, *(p.grad.clone() for p in net.parameters())])
    finally:
        torch.set_num_threads(before)
    assert len(x) > 10_000
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
