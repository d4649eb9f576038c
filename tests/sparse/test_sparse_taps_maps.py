"""Tap order and kernel maps against loops over sites."""

import pytest
import torch

from sparse_ulm.errors import UserError
from sparse_ulm.sparse import SparseTensor, loops, maps, prune, tap_offsets
from sparse_ulm.sparse.keys import site_keys
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


@pytest.mark.parametrize("size", [(3, 3, 3, 1), (1, 1, 1, 5), (3, 1, 5, 3), (1, 1, 1, 1), (9, 1, 1, 1)])
@pytest.mark.parametrize("share", [1.0, 0.3, 0.01])
def test_neighbours_against_a_dictionary(make_tensor, size: tuple[int, ...], share: float) -> None:
    x = make_tensor(share=share)
    row_at = {tuple(site): row for row, site in enumerate(x.coords.tolist())}
    expected = [
        [
            row_at.get((b, *(c + o for c, o in zip(site, offset, strict=True))), -1)
            for offset in tap_offsets(size).tolist()
        ]
        for b, *site in x.coords.tolist()
    ]
    assert maps.neighbours(x, size).tolist() == expected


def test_the_two_builders_agree(make_tensor) -> None:
    x = make_tensor(share=0.4)
    extent = (2, 6, 7, 8, 9)
    keys = site_keys(x.coords, extent)
    steps = site_keys(torch.nn.functional.pad(tap_offsets((3, 3, 3, 3)), (1, 0)), extent)
    table = loops.neighbour_table(keys, steps)
    assert torch.equal(table, maps.neighbour_table(keys, steps))
    assert (table >= 0).float().mean() > 0.2


def test_maps_are_built_once_and_shared(make_tensor) -> None:
    x = make_tensor(spatial_range=(2, 4, 6, 8, 4))
    y = x.with_feats(x.feats * 2)
    assert maps.neighbours(x, (3, 3, 3, 1)) is maps.neighbours(y, (3, 3, 3, 1))
    assert maps.level(x, (2, 2, 2, 1)).maps is maps.level(y, (2, 2, 2, 1)).maps
    assert maps.segments(x, (2, 2, 2, 1)) is maps.segments(y, (2, 2, 2, 1))


@pytest.mark.parametrize("stride", [(2, 2, 2, 1), (1, 1, 1, 4), (2, 3, 1, 1), (4, 6, 8, 4), (1, 3, 1, 2)])
def test_level_against_a_set(make_tensor, stride: tuple[int, ...]) -> None:
    x = make_tensor(spatial_range=(2, 4, 6, 8, 4))
    parents = [(b, *(c // s for c, s in zip(site, stride, strict=True))) for b, *site in x.coords.tolist()]
    level = maps.level(x, stride)
    assert [tuple(site) for site in level.coords.tolist()] == sorted(set(parents))
    assert [tuple(level.coords[row].tolist()) for row in level.parent.tolist()] == parents
    assert level.spatial_range == (2, *(r // s for r, s in zip((4, 6, 8, 4), stride, strict=True)))


def test_segments_hold_every_child_once_in_its_tap(make_tensor) -> None:
    x = make_tensor(spatial_range=(2, 4, 6, 8, 4))
    pairs = maps.segments(x, (2, 2, 2, 1))
    assert sorted(pairs.fine_rows.tolist()) == list(range(len(x)))
    offsets = tap_offsets((2, 2, 2, 1))
    coarse = maps.level(x, (2, 2, 2, 1)).coords
    for tap in range(8):
        chosen = slice(pairs.bounds[tap], pairs.bounds[tap + 1])
        digits = x.coords[pairs.fine_rows[chosen].long(), 1:] - coarse[
            pairs.coarse_rows[chosen].long(), 1:
        ] * torch.tensor([2, 2, 2, 1])
        assert (digits == offsets[tap]).all()


def test_looked_up_parents_equal_remembered_ones(make_tensor) -> None:
    x = make_tensor(spatial_range=(2, 4, 6, 8, 4))
    level = maps.level(x, (2, 2, 2, 1))
    feats = torch.zeros(len(level.coords), 1)
    stranger = SparseTensor(level.coords, feats, spatial_range=level.spatial_range, stride=level.stride)
    found, known = maps.segments_between(stranger, x, (2, 2, 2, 1)), maps.segments(x, (2, 2, 2, 1))
    assert torch.equal(found.fine_rows, known.fine_rows)
    assert torch.equal(found.coarse_rows, known.coarse_rows)
    assert found.bounds == known.bounds
    fewer = maps.segments_between(prune(stranger, torch.arange(len(feats)) > 3), x, (2, 2, 2, 1))
    assert fewer.bounds[-1] == int((level.parent > 3).sum())


def test_range_must_be_a_multiple_of_the_stride(make_tensor) -> None:
    with pytest.raises(UserError, match="no multiple of the stride"):
        maps.level(make_tensor(), (2, 2, 2, 1))
    with pytest.raises(UserError, match="fine range"):
        maps.segments_between(make_tensor(), make_tensor(), (2, 1, 1, 1))
