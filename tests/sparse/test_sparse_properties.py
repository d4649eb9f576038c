"""Both arithmetics of the native engine against sums written out, over shapes nobody would think of."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_ulm.errors import UserError
from sparse_ulm.sparse import (
    GenerativeUpsample,
    MaxPool,
    SparseTensor,
    StridedConv,
    SubmanifoldConv,
    TransposedConv,
    tap_offsets,
)
from sparse_ulm.sparse.engines.kernels import use_kernel
from sparse_ulm.sparse.taps import tap_digits

DOUBLE = torch.float64
KERNELS = ("compiled", "torch")

widths = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 24, 25, 32, 33, 40])
odd_sizes = st.tuples(*[st.sampled_from([1, 3, 5])] * 4).filter(lambda size: 1 < math.prod(size) <= 81)
strides = st.tuples(*[st.integers(1, 3)] * 4).filter(lambda size: math.prod(size) > 1)


cases = st.tuples(
    st.tuples(st.integers(1, 3), *[st.integers(1, 4)] * 4),
    st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    st.booleans(),
    st.integers(0, 2**31),
)
"""Cells per axis, share of sites, whether both corners are among them, seed."""


def make_tensor(case: tuple, channels: int, multiple: tuple[int, ...] = (1, 1, 1, 1)) -> SparseTensor:
    """Make a grid of unequal sizes and sites in it, none and those on the border among them."""
    cells, share, corners, seed = case
    extent = tuple(size * step for size, step in zip(cells, (1, *multiple), strict=True))
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.rand(extent, generator=generator) < share
    if corners:
        chosen[0, 0, 0, 0, 0] = chosen[-1, -1, -1, -1, -1] = True
    coords = chosen.nonzero().int()
    feats = torch.randn(len(coords), channels, generator=generator, dtype=DOUBLE)
    return SparseTensor(coords, feats, spatial_range=extent)


def sum_over_pairs(
    feats: torch.Tensor, kernel: torch.Tensor, pairs: list[tuple[int, int, int]], n_outputs: int
) -> torch.Tensor:
    """Add feats[input] @ kernel[tap] to every output, one pair after the other."""
    rows = [feats.new_zeros(kernel.shape[2]) for _ in range(n_outputs)]
    for tap, source, target in pairs:
        rows[target] = rows[target] + feats[source] @ kernel[tap]
    return torch.stack(rows) if rows else feats.new_zeros(0, kernel.shape[2]) + 0 * feats.sum() + 0 * kernel.sum()


def check_layer(call, feats: torch.Tensor, kernel: torch.Tensor, pairs: list, n_outputs: int) -> None:
    """Compare output and gradients of both arithmetics with the sum written out."""
    expected = sum_over_pairs(feats, kernel, pairs, n_outputs)
    weights = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * weights).sum(), (feats, kernel), allow_unused=True)
    for name in KERNELS:
        with use_kernel(name):
            found = call(feats)
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
            gradients = torch.autograd.grad((found * weights).sum(), (feats, kernel))
            for gradient, reference, like in zip(gradients, wanted, (feats, kernel), strict=True):
                reference = torch.zeros_like(like) if reference is None else reference
                torch.testing.assert_close(gradient, reference, rtol=1e-10, atol=1e-10)


def rows_of(coords: torch.Tensor) -> dict[tuple[int, ...], int]:
    return {tuple(site): row for row, site in enumerate(coords.tolist())}


@settings(max_examples=40, deadline=None)
@given(cases, widths, widths, odd_sizes)
def test_submanifold(case: tuple, inputs: int, outputs: int, size: tuple[int, ...]) -> None:
    x = make_tensor(case, inputs)
    layer = SubmanifoldConv(inputs, outputs, size).double()
    row_at, pairs = rows_of(x.coords), []
    for (b, *site), row in row_at.items():
        for tap, offset in enumerate(tap_offsets(size).tolist()):
            other = row_at.get((b, *(c + o for c, o in zip(site, offset, strict=True))))
            if other is not None:
                pairs.append((tap, other, row))
    feats = x.feats.clone().requires_grad_()
    check_layer(lambda f: layer(x.to("cpu").with_feats(f)).feats, feats, layer.kernel, pairs, len(x))


@settings(max_examples=40, deadline=None)
@given(cases, widths, widths, strides)
def test_strided_and_transposed(case: tuple, inputs: int, outputs: int, stride: tuple[int, ...]) -> None:
    x = make_tensor(case, inputs, stride)
    down, up = StridedConv(inputs, outputs, stride).double(), TransposedConv(inputs, outputs, stride).double()
    tap_of = {tuple(digits): tap for tap, digits in enumerate(tap_digits(stride).tolist())}
    parents = [(b, *(c // s for c, s in zip(site, stride, strict=True))) for b, *site in x.coords.tolist()]
    taps = [tap_of[tuple(c % s for c, s in zip(site, stride, strict=True))] for _, *site in x.coords.tolist()]
    coarse_row = {site: row for row, site in enumerate(sorted(set(parents)))}
    pairs = [(tap, row, coarse_row[parent]) for row, (tap, parent) in enumerate(zip(taps, parents, strict=True))]
    feats = x.feats.clone().requires_grad_()
    check_layer(lambda f: down(x.to("cpu").with_feats(f)).feats, feats, down.kernel, pairs, len(coarse_row))

    coarse = MaxPool(stride)(x)
    assert [tuple(site) for site in coarse.coords.tolist()] == sorted(set(parents))
    feats = torch.randn(len(coarse), inputs, dtype=DOUBLE, requires_grad=True)
    swapped = [(tap, target, source) for tap, source, target in pairs]
    check_layer(lambda f: up(coarse.with_feats(f), x).feats, feats, up.kernel, swapped, len(x))


@settings(max_examples=40, deadline=None)
@given(cases, st.sampled_from([1, 3, 8, 17]), strides)
def test_maximum_and_children(case: tuple, channels: int, stride: tuple[int, ...]) -> None:
    x = make_tensor(case, channels, stride)
    # Few values, so that children tie.
    x = x.with_feats((x.feats * 2).round())
    results = []
    for name in KERNELS:
        with use_kernel(name):
            feats = x.feats.clone().requires_grad_()
            y = MaxPool(stride)(x.to("cpu").with_feats(feats))
            (y.feats * torch.arange(1.0, y.feats.numel() + 1).view_as(y.feats)).sum().backward()
            torch.manual_seed(3)
            grown = GenerativeUpsample(channels, 2, stride).double()(x)
            results.append((y.coords, y.feats.detach(), feats.grad, grown.coords, grown.feats))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    coords, largest, gradient = results[0][:3]
    parents = x.coords // torch.tensor((1, *stride), dtype=torch.int32)
    for row, site in enumerate(coords.tolist()):
        children = (parents == torch.tensor(site, dtype=torch.int32)).all(1).nonzero()[:, 0]
        assert torch.equal(x.feats[children].amax(0), largest[row])
        first = children[x.feats[children].argmax(0)]  # argmax gives the first of equal ones
        assert (gradient[first, torch.arange(channels)] == row * channels + torch.arange(1, channels + 1)).all()
    assert int((gradient != 0).sum()) == largest.numel()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("axis", [0, 1, 2, 3, 4])
def test_coordinates_up_to_the_last_int32(kernel: str, axis: int) -> None:
    extent = [1, 1, 1, 1, 1]
    extent[axis] = 2**31
    lines = torch.zeros(4, 5, dtype=torch.int64)
    lines[:, axis] = torch.tensor([0, 1, 2**31 - 2, 2**31 - 1])
    x = SparseTensor(lines, torch.tensor([[1.0], [2.0], [4.0], [8.0]]), spatial_range=tuple(extent))
    assert torch.equal(x.coords.long(), lines)
    if axis == 0:
        size = (3, 1, 1, 1)
        expected = [1.0, 2.0, 4.0, 8.0]  # samples do not meet
    else:
        size = tuple(3 if a == axis else 1 for a in range(1, 5))
        expected = [1 + 20, 2 + 0.1, 4 + 80, 8 + 0.4]
    layer = SubmanifoldConv(1, 1, size)
    layer.kernel.data = torch.tensor([0.1, 1.0, 10.0])[:, None, None]
    with use_kernel(kernel):
        torch.testing.assert_close(layer(x.to("cpu")).feats[:, 0], torch.tensor(expected))
        if axis > 0:
            stride = tuple(2 if a == axis else 1 for a in range(1, 5))
            coarse = MaxPool(stride)(x.to("cpu"))
            assert coarse.coords[:, axis].tolist() == [0, 2**30 - 1]
            assert GenerativeUpsample(1, 1, stride)(coarse).coords[:, axis].tolist() == lines[:, axis].tolist()
            with pytest.raises(UserError, match=r"at most 2\*\*31 cells"):
                GenerativeUpsample(1, 1, stride)(x)


def test_a_grid_beyond_int32_is_refused() -> None:
    with pytest.raises(UserError, match="Split the recording"):
        SparseTensor(torch.zeros(1, 5, dtype=torch.int32), torch.zeros(1, 1), spatial_range=(1, 2**31 + 1, 1, 1, 1))
