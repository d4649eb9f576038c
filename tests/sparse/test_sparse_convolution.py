"""Convolution layers against dense torch convolution in float64, loops in 4D, laws and gradients."""

import copy
import math

import pytest
import torch
from torch.nn import functional

from sparse_ulm.errors import UserError
from sparse_ulm.sparse import (
    GenerativeUpsample,
    SparseTensor,
    StridedConv,
    SubmanifoldConv,
    TransposedConv,
    find_rows,
    from_dense,
    prune,
    tap_offsets,
    to_dense,
)

SPACE = (3, 3, 3, 1)
EVEN_RANGE = (2, 4, 6, 8, 4)
pytestmark = pytest.mark.usefixtures("each_kernel")


def dense_weight(kernel: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """Turn the first three axes of a kernel parameter into torch's (out, in, kx, ky, kz), straight from the offsets."""
    offsets = tap_offsets(size)[:, :3]
    weight = kernel.new_zeros(kernel.shape[2], kernel.shape[1], *size[:3])
    for tap, (x, y, z) in enumerate((offsets - offsets.amin(0)).tolist()):
        weight[:, :, x, y, z] = kernel[tap].T
    return weight


def frames(dense: torch.Tensor) -> torch.Tensor:
    """Fold the frames of (B, C, X, Y, Z, T) into the batch."""
    return dense.movedim(-1, 1).flatten(0, 1)


def unfold(volumes: torch.Tensor, n_frames: int) -> torch.Tensor:
    """Undo `frames`."""
    return volumes.unflatten(0, (-1, n_frames)).movedim(1, -1)


def loop_convolution(x: SparseTensor, kernel: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """Sum over taps and sites, one by one."""
    row_at = {tuple(site): row for row, site in enumerate(x.coords.tolist())}
    result = x.feats.new_zeros(len(x), kernel.shape[2])
    for row, (b, *site) in enumerate(x.coords.tolist()):
        for tap, offset in enumerate(tap_offsets(size).tolist()):
            source = row_at.get((b, *(c + o for c, o in zip(site, offset, strict=True))))
            if source is not None:
                result[row] += x.feats[source] @ kernel[tap]
    return result


@pytest.mark.parametrize("size", [(3, 3, 3, 1), (5, 1, 3, 1), (1, 3, 1, 1)])
@pytest.mark.parametrize("share", [1.0, 0.3])
def test_submanifold_against_conv3d(make_tensor, size: tuple[int, ...], share: float) -> None:
    x = make_tensor(share=share)
    layer = SubmanifoldConv(3, 4, size, bias=True).double()
    torch.nn.init.normal_(layer.bias)
    padding = [k // 2 for k in size[:3]]
    reference = functional.conv3d(frames(to_dense(x)), dense_weight(layer.kernel, size), layer.bias, padding=padding)
    expected = from_dense(unfold(reference, 8), to_dense(x.with_feats(torch.ones(len(x), 1)))[:, 0] > 0)
    torch.testing.assert_close(layer(x).feats, expected.feats, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("taps", [3, 5, 9])
def test_temporal_against_conv1d(make_tensor, taps: int) -> None:
    x = make_tensor(share=1.0)
    layer = SubmanifoldConv(3, 4, (1, 1, 1, taps)).double()
    series = to_dense(x).movedim(1, -2).reshape(-1, 3, 8)
    reference = functional.conv1d(series, layer.kernel.permute(2, 1, 0), padding=taps // 2)
    reference = reference.reshape(2, 5, 6, 7, 4, 8).movedim(-2, 1)
    torch.testing.assert_close(to_dense(layer(x)), reference, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(3, 3, 3, 3), (1, 3, 1, 5)])
def test_true_4d_against_a_loop(make_tensor, size: tuple[int, ...]) -> None:
    x = make_tensor(share=0.1)
    layer = SubmanifoldConv(3, 2, size).double()
    torch.testing.assert_close(layer(x).feats, loop_convolution(x, layer.kernel, size), rtol=1e-12, atol=1e-12)


def test_kernel_of_one_is_a_matrix(make_tensor) -> None:
    x = make_tensor()
    layer = SubmanifoldConv(3, 2, (1, 1, 1, 1)).double()
    assert layer.kernel.shape == (3, 2)
    torch.testing.assert_close(layer(x).feats, x.feats @ layer.kernel)


@pytest.mark.parametrize("stride", [(2, 2, 2, 1), (2, 3, 1, 1)])
@pytest.mark.parametrize("share", [1.0, 0.2])
def test_strided_and_back_against_torch(make_tensor, stride: tuple[int, ...], share: float) -> None:
    x = make_tensor(share=share, spatial_range=EVEN_RANGE)
    down, up = StridedConv(3, 5, stride, bias=True).double(), TransposedConv(5, 2, stride).double()
    torch.nn.init.normal_(down.bias)
    coarse = down(x)
    weight = dense_weight(down.kernel, stride)
    reference = unfold(functional.conv3d(frames(to_dense(x)), weight, down.bias, stride=stride[:3]), 4)
    at_sites = reference.movedim(1, -1)[coarse.coords.long().unbind(1)]
    torch.testing.assert_close(coarse.feats, at_sites, rtol=1e-12, atol=1e-12)
    assert coarse.spatial_range[1:4] == tuple(r // s for r, s in zip((4, 6, 8), stride[:3], strict=True))
    assert coarse.stride == stride
    weight = dense_weight(up.kernel, stride).transpose(0, 1)
    reference = unfold(functional.conv_transpose3d(frames(to_dense(coarse)), weight, stride=stride[:3]), 4)
    fine = up(coarse, x)
    assert fine.coords is x.coords
    at_sites = reference.movedim(1, -1)[x.coords.long().unbind(1)]
    torch.testing.assert_close(fine.feats, at_sites, rtol=1e-12, atol=1e-12)


def test_odd_strided_kernel_runs_forward(make_tensor) -> None:
    x = make_tensor(share=1.0, spatial_range=(1, 3, 6, 3, 2))
    layer = StridedConv(3, 2, (3, 3, 3, 1)).double()
    reference = functional.conv3d(frames(to_dense(x)), dense_weight(layer.kernel, (3, 3, 3, 1)), stride=3)
    torch.testing.assert_close(to_dense(layer(x)), unfold(reference, 2), rtol=1e-12, atol=1e-12)


def test_temporal_stride_by_hand() -> None:
    coords = torch.tensor([[0, 0, 0, 0, 1], [0, 0, 0, 0, 3], [0, 0, 0, 0, 4]])
    x = SparseTensor(coords, torch.tensor([[1.0], [10.0], [100.0]]), spatial_range=(1, 1, 1, 1, 8))
    layer = StridedConv(1, 1, (1, 1, 1, 4))
    layer.kernel.data = torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None, None]
    y = layer(x)
    assert y.coords.tolist() == [[0, 0, 0, 0, 0], [0, 0, 0, 0, 1]]
    assert y.feats[:, 0].tolist() == [2 + 40, 100]


def test_pruned_parents_leave_children_with_the_bias(make_tensor) -> None:
    x = make_tensor(spatial_range=EVEN_RANGE)
    down, up = StridedConv(3, 3, (2, 2, 2, 1)).double(), TransposedConv(3, 2, (2, 2, 2, 1), bias=True).double()
    torch.nn.init.constant_(up.bias, 7.0)
    coarse = down(x)
    mask = torch.rand(len(coarse)) < 0.5
    full, part = up(coarse, x).feats, up(prune(coarse, mask), x).feats
    kept = find_rows(prune(coarse, mask), x.coords // torch.tensor([1, 2, 2, 2, 1], dtype=torch.int32)) >= 0
    assert 0 < kept.sum() < len(kept)
    torch.testing.assert_close(part[kept], full[kept])
    assert (part[~kept] == 7.0).all()


@pytest.mark.parametrize("factor", [(2, 2, 2, 1), (3, 1, 2, 1), (1, 1, 1, 4)])
def test_generative_upsampling_makes_all_children(make_tensor, factor: tuple[int, ...]) -> None:
    x = make_tensor(share=0.2)
    layer = GenerativeUpsample(3, 4, factor, bias=True).double()
    torch.nn.init.normal_(layer.bias)
    y = layer(x)
    n_children = math.prod(factor)
    assert len(y) == n_children * len(x)
    assert y.spatial_range == (2, *(r * f for r, f in zip((5, 6, 7, 8), factor, strict=True)))
    again = SparseTensor(y.coords, y.feats, spatial_range=y.spatial_range)
    assert torch.equal(again.feats, y.feats), "rows must already be in key order"
    scale = torch.tensor((1, *factor), dtype=torch.int32)
    rows = find_rows(x, y.coords // scale)
    assert torch.equal(rows.bincount(), torch.full((len(x),), n_children))
    digits = (y.coords % scale)[:, 1:].tolist()
    taps = [(tap_offsets(factor) - tap_offsets(factor).amin(0)).tolist().index(digit) for digit in digits]
    expected = torch.einsum("nc,ncd->nd", x.feats[rows], layer.kernel[taps]) + layer.bias
    torch.testing.assert_close(y.feats, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layer", [SubmanifoldConv(2, 3, SPACE, bias=True), SubmanifoldConv(3, 2, (1, 1, 1, 3))])
def test_submanifold_gradients(make_tensor, layer: SubmanifoldConv) -> None:
    x = make_tensor(channels=layer.in_channels, share=0.06)
    layer = copy.deepcopy(layer).double()

    def run(feats: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        names = [name for name, _ in layer.named_parameters()]
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), x.with_feats(feats)).feats

    feats = x.feats.clone().requires_grad_()
    assert torch.autograd.gradcheck(run, (feats, *layer.parameters()), fast_mode=True)
    assert torch.autograd.gradcheck(run, (feats.detach(), *layer.parameters()), fast_mode=True)
    for parameter in layer.parameters():
        parameter.requires_grad_(False)
    assert torch.autograd.gradcheck(run, (feats, *layer.parameters()), fast_mode=True)


def test_strided_transposed_and_generative_gradients(make_tensor) -> None:
    x = make_tensor(channels=2, share=0.1, spatial_range=EVEN_RANGE)
    down, up = StridedConv(2, 3, (2, 2, 2, 1)).double(), TransposedConv(3, 2, (2, 2, 2, 1)).double()
    grow = GenerativeUpsample(2, 2).double()

    def run(feats: torch.Tensor, *kernels: torch.Tensor) -> torch.Tensor:
        calls = [
            lambda m, k, *args: torch.func.functional_call(m, {"kernel": k}, args),
        ]
        coarse = calls[0](down, kernels[0], x.with_feats(feats))
        return calls[0](grow, kernels[2], calls[0](up, kernels[1], coarse, x)).feats

    feats = x.feats.clone().requires_grad_()
    assert torch.autograd.gradcheck(run, (feats, down.kernel, up.kernel, grow.kernel), fast_mode=True)


def test_translation_and_batch_laws(make_tensor) -> None:
    x = make_tensor(spatial_range=(2, 5, 6, 7, 8))
    layer = SubmanifoldConv(3, 4, (3, 3, 3, 3)).double()
    moved = SparseTensor(x.coords + torch.tensor([0, 3, 1, 2, 4]), x.feats, spatial_range=(2, 8, 8, 9, 12))
    torch.testing.assert_close(layer(moved).feats, layer(x).feats, rtol=1e-13, atol=1e-13)
    for sample in range(2):
        rows = x.coords[:, 0] == sample
        alone = SparseTensor(
            x.coords[rows] - torch.tensor([sample, 0, 0, 0, 0]), x.feats[rows], spatial_range=(1, 5, 6, 7, 8)
        )
        torch.testing.assert_close(layer(alone).feats, layer(x).feats[rows], rtol=1e-13, atol=1e-13)


def test_row_order_does_not_matter(make_tensor) -> None:
    x = make_tensor(spatial_range=EVEN_RANGE)
    order = torch.randperm(len(x))
    shuffled = SparseTensor(x.coords[order], x.feats[order], spatial_range=EVEN_RANGE)
    layer = torch.nn.Sequential(SubmanifoldConv(3, 4, SPACE), StridedConv(4, 4, (2, 2, 2, 1))).double()
    assert torch.equal(layer(shuffled).feats, layer(x).feats)


def test_two_runs_give_the_same_bits(make_tensor) -> None:
    x = make_tensor(channels=8, share=0.5, spatial_range=(2, 8, 8, 8, 16))
    x = x.with_feats(x.feats.float())
    net = torch.nn.Sequential(SubmanifoldConv(8, 8, SPACE), StridedConv(8, 8, (2, 2, 2, 1)), GenerativeUpsample(8, 4))
    results = []
    for _ in range(2):
        net.zero_grad()
        y = net(x.to("cpu"))
        y.feats.square().sum().backward()
        results.append([y.feats.detach(), *(p.grad.clone() for p in net.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("n_sites", [0, 1])
def test_no_site_and_one_site(n_sites: int) -> None:
    coords = torch.tensor([[1, 3, 5, 7, 3]])[:n_sites]
    feats = torch.ones(n_sites, 2, requires_grad=True)
    x = SparseTensor(coords, feats, spatial_range=EVEN_RANGE)
    inner, down = SubmanifoldConv(2, 3, SPACE), StridedConv(3, 4, (2, 2, 2, 1))
    up, grow = TransposedConv(4, 3, (2, 2, 2, 1)), GenerativeUpsample(3, 2)
    y = grow(up(down(inner(x)), x))
    assert len(y) == 8 * n_sites
    y.feats.sum().backward()
    assert feats.grad.shape == feats.shape
    assert all(p.grad is not None for m in (inner, down, up, grow) for p in m.parameters())
    if n_sites:
        expected = feats[0] @ inner.kernel[13] @ down.kernel[7] @ up.kernel[7] @ grow.kernel
        torch.testing.assert_close(y.feats, expected[:, 0] if expected.ndim == 3 else expected)


def test_features_keep_their_scale() -> None:
    coords = torch.ones(12, 12, 12, 1).nonzero()
    x = SparseTensor(torch.nn.functional.pad(coords, (1, 0)), torch.randn(1728, 16), spatial_range=(1, 12, 12, 12, 1))
    for _ in range(4):
        x = x.with_feats(SubmanifoldConv(16, 16, SPACE)(x).feats.relu())
    assert 0.1 < x.feats.square().mean() < 2.0


def test_refusals(make_tensor) -> None:
    x = make_tensor()
    with pytest.raises(UserError, match="odd positive"):
        SubmanifoldConv(3, 3, (2, 3, 3, 1))
    with pytest.raises(UserError, match="wanted 4"):
        SubmanifoldConv(4, 3, SPACE)(x)
    with pytest.raises(UserError, match="no multiple"):
        StridedConv(3, 3, (2, 2, 2, 1))(x)
    with pytest.raises(UserError, match="four positive"):
        StridedConv(3, 3, (2, 2, 2))
    with pytest.raises(UserError, match="SubmanifoldConv"):
        GenerativeUpsample(3, 3, (1, 1, 1, 1))
