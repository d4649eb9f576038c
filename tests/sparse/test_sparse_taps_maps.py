"""Tap order and kernel maps against loops over sites."""

import pytest
import torch

from sparse_ulm.errors import UserError
from sparse_ulm.sparse import SparseTensor, maps, prune, tap_offsets
from sparse_ulm.sparse.engines.kernels import use_kernel
from sparse_ulm.sparse.pairs import Pairs
from sparse_ulm.sparse.taps import tap_digits, tap_number


def test_tap_order_by_hand() -> None:
    assert tap_offsets((3, 1, 3, 1))[:4].tolist() == [[-1, 0, -1, 0], [0, 0, -1, 0], [1, 0, -1, 0], [-1, 0, 0, 0]]
    assert tap_offsets((2, 2, 2, 1))[:3].tolist() == [[0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0]]
    assert tap_offsets((1, 1, 1, 4))[:, 3].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("size", [(3, 3, 3, 1), (1, 1, 1, 5), (2, 2, 1, 1), (3, 2, 1, 2), (5, 3, 1, 7)])
def test_tap_number_inverts_tap_digits(size: tuple[int, ...]) -> None:
    digits = tap_digits(size)
    assert torch.equal(tap_number(digits, size), torch.arange(len(digits)))
    assert (digits.amax(0) + 1).tolist() == list(size)


pytestmark = pytest.mark.usefixtures("each_kernel")


def set_of(pairs: Pairs) -> set[tuple[int, int, int]]:
    """Collect (tap, input row, output row), and check that rows ascend within a tap."""
    found = set()
    for tap, rows_in, rows_out in pairs.taps():
        for rows in (rows_in, rows_out):
            assert (rows[1:] > rows[:-1]).all()
        found |= {(tap, *pair) for pair in zip(rows_in.tolist(), rows_out.tolist(), strict=True)}
    return found


@pytest.mark.parametrize("size", [(3, 3, 3, 1), (1, 1, 1, 5), (3, 1, 5, 3), (1, 1, 1, 1), (9, 1, 1, 1)])
@pytest.mark.parametrize("share", [1.0, 0.3, 0.01])
def test_neighbours_against_a_dictionary(make_tensor, size: tuple[int, ...], share: float) -> None:
    x = make_tensor(share=share)
    row_at = {tuple(site): row for row, site in enumerate(x.coords.tolist())}
    expected = set()
    for row, (b, *site) in enumerate(x.coords.tolist()):
        for tap, offset in enumerate(tap_offsets(size).tolist()):
            other = row_at.get((b, *(c + o for c, o in zip(site, offset, strict=True))))
            if other is not None:
                expected.add((tap, other, row))
    pairs = maps.neighbours(x, size)
    assert set_of(pairs) == expected
    assert set_of(pairs.swapped) == {(tap, b, a) for tap, a, b in expected}


def test_both_builders_give_the_same_lists(make_tensor) -> None:
    x = make_tensor(share=0.4)
    with use_kernel("compiled"):
        merged = maps.neighbours(x, (3, 3, 3, 3))
    with use_kernel("torch"):
        searched = maps.neighbours(x.to("cpu"), (3, 3, 3, 3))
    assert searched is not merged
    assert torch.equal(merged.inputs, searched.inputs)
    assert torch.equal(merged.outputs, searched.outputs)
    assert (merged.segments, merged.swap) == (searched.segments, searched.swap)


@pytest.mark.parametrize("block", [1, 7, 100, 10_000])
def test_bounds_of_blocks(make_tensor, block: int) -> None:
    pairs = maps.neighbours(make_tensor(share=0.4), (3, 1, 3, 3))
    bounds = pairs.bounds(block)
    for tap, ((start, stop), swap) in enumerate(zip(pairs.segments, pairs.swap, strict=True)):
        rows = (pairs.inputs if swap else pairs.outputs).tolist()
        assert (bounds[0, tap], bounds[-1, tap]) == (start, stop)
        for number in range(len(bounds) - 1):
            inside = rows[bounds[number, tap] : bounds[number + 1, tap]]
            assert all(row // block == number for row in inside)


def test_maps_are_built_once_and_shared(make_tensor) -> None:
    x = make_tensor(spatial_range=(2, 4, 6, 8, 4))
    y = x.with_feats(x.feats * 2)
    assert maps.neighbours(x, (3, 3, 3, 1)) is maps.neighbours(y, (3, 3, 3, 1))
    assert maps.level(x, (2, 2, 2, 1)).maps is maps.level(y, (2, 2, 2, 1)).maps
    assert maps.children(x, (2, 2, 2, 1)) is maps.children(y, (2, 2, 2, 1))


@pytest.mark.parametrize("stride", [(2, 2, 2, 1), (1, 1, 1, 4), (2, 3, 1, 1), (4, 6, 8, 4), (1, 3, 1, 2)])
def test_level_against_a_set(make_tensor, stride: tuple[int, ...]) -> None:
    x = make_tensor(spatial_range=(2, 4, 6, 8, 4))
    parents = [(b, *(c // s for c, s in zip(site, stride, strict=True))) for b, *site in x.coords.tolist()]
    level = maps.level(x, stride)
    assert [tuple(site) for site in level.coords.tolist()] == sorted(set(parents))
    assert [tuple(level.coords[row].tolist()) for row in level.parent.tolist()] == parents
    assert level.spatial_range == (2, *(r // s for r, s in zip((4, 6, 8, 4), stride, strict=True)))


def test_children_hold_every_child_once_in_its_tap(make_tensor) -> None:
    x = make_tensor(spatial_range=(2, 4, 6, 8, 4))
    pairs = maps.children(x, (2, 2, 2, 1))
    assert sorted(pairs.inputs.tolist()) == list(range(len(x)))
    offsets = tap_offsets((2, 2, 2, 1))
    coarse = maps.level(x, (2, 2, 2, 1)).coords
    for tap in range(8):
        chosen = slice(*pairs.segments[tap])
        digits = x.coords[pairs.inputs[chosen].long(), 1:] - coarse[pairs.outputs[chosen].long(), 1:] * torch.tensor(
            [2, 2, 2, 1]
        )
        assert (digits == offsets[tap]).all()


def test_looked_up_parents_equal_remembered_ones(make_tensor) -> None:
    x = make_tensor(spatial_range=(2, 4, 6, 8, 4))
    level = maps.level(x, (2, 2, 2, 1))
    feats = torch.zeros(len(level.coords), 1)
    stranger = SparseTensor(level.coords, feats, spatial_range=level.spatial_range, stride=level.stride)
    found, known = maps.children_of(stranger, x, (2, 2, 2, 1)), maps.children(x, (2, 2, 2, 1))
    assert torch.equal(found.inputs, known.inputs)
    assert torch.equal(found.outputs, known.outputs)
    assert found.segments == known.segments
    fewer = maps.children_of(prune(stranger, torch.arange(len(feats)) > 3), x, (2, 2, 2, 1))
    assert fewer.segments[-1][1] == int((level.parent > 3).sum())


def test_range_must_be_a_multiple_of_the_stride(make_tensor) -> None:
    with pytest.raises(UserError, match="no multiple of the stride"):
        maps.level(make_tensor(), (2, 2, 2, 1))
    with pytest.raises(UserError, match="fine range"):
        maps.children_of(make_tensor(), make_tensor(), (2, 1, 1, 1))
