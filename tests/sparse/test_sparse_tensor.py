"""The sparse tensor: order, checks, sharing, copies."""

import copy
import pickle
from fractions import Fraction

import pytest
import torch

from sparse_ulm.errors import UserError
from sparse_ulm.sparse import SparseTensor, find_rows
from sparse_ulm.sparse.keys import keys_to_coords, site_keys
from sparse_ulm.sparse.tensor import divided_stride

RANGE = (2, 5, 6, 7, 8)


def test_rows_are_sorted_with_their_features() -> None:
    coords = torch.tensor([[1, 0, 0, 0, 0], [0, 4, 5, 6, 7], [0, 4, 5, 6, 2], [0, 0, 5, 0, 0]])
    x = SparseTensor(coords, torch.tensor([[3.0], [2.0], [1.0], [0.0]]), spatial_range=RANGE)
    assert x.feats[:, 0].tolist() == [0, 1, 2, 3]
    assert x.coords.tolist() == sorted(coords.tolist())
    assert x.coords.dtype == torch.int32
    assert x.coords.is_contiguous()
    assert (x.batch_size, len(x), x.stride, x.engine) == (2, 4, (1, 1, 1, 1), "native")


def test_gradient_flows_through_the_sorting(make_tensor) -> None:
    coords = make_tensor().coords.flip(0)
    feats = torch.randn(len(coords), 2, requires_grad=True)
    weight = torch.randn(len(coords), 2)
    (SparseTensor(coords, feats, spatial_range=RANGE).feats * weight).sum().backward()
    assert torch.equal(feats.grad, weight.flip(0))


def test_keys_sort_as_rows_and_come_back(make_tensor) -> None:
    coords = make_tensor().coords
    keys = site_keys(coords, RANGE)
    assert (keys[1:] > keys[:-1]).all()
    assert torch.equal(keys_to_coords(keys, RANGE), coords)
    assert site_keys(torch.tensor([[1, 2, 3, 4, 5]]), RANGE).tolist() == [(((1 * 5 + 2) * 6 + 3) * 7 + 4) * 8 + 5]


def test_with_feats_shares_sites_and_maps(make_tensor) -> None:
    x = make_tensor()
    y = x.with_feats(x.feats[:, :1])
    assert y.coords is x.coords
    assert y.maps is x.maps
    assert y.with_engine("native").maps is x.maps
    assert y.to("cpu").maps is not x.maps


def test_copies_and_pickles(make_tensor) -> None:
    x = make_tensor()
    for twin in (copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        assert torch.equal(twin.coords, x.coords)
        assert torch.equal(twin.feats, x.feats)
        assert (twin.stride, twin.spatial_range, twin.engine) == (x.stride, x.spatial_range, x.engine)


def test_a_value_cannot_be_changed(make_tensor) -> None:
    with pytest.raises(AttributeError, match="with_feats"):
        make_tensor().feats = torch.zeros(1, 1)


def test_no_sites() -> None:
    x = SparseTensor(torch.zeros(0, 5, dtype=torch.int32), torch.zeros(0, 3), spatial_range=RANGE)
    assert len(x) == 0
    assert "0 sites" in repr(x)


def test_find_rows(make_tensor) -> None:
    x = make_tensor()
    order = torch.randperm(len(x))
    assert torch.equal(find_rows(x, x.coords[order]), order)
    absent = torch.tensor([[0, 0, 0, 0, 8], [-1, 0, 0, 0, 0], [2, 0, 0, 0, 0]], dtype=torch.int32)
    assert find_rows(x, absent).tolist() == [-1, -1, -1]


def test_stride_below_one_is_exact() -> None:
    assert divided_stride((4, 1, 1, 2), (2, 2, 4, 1)) == (2, Fraction(1, 2), Fraction(1, 4), 2)


@pytest.mark.parametrize(
    ("coords", "found"),
    [
        ([[0, 0, 0, 0, 0], [0, 0, 0, 0, 0]], "more than once"),
        ([[0, 0, -1, 0, 0], [0, 0, 0, 0, 0]], "none below 0"),
        ([[0, 0, 0, 0, 8], [0, 0, 0, 0, 0]], "spatial_range"),
        ([[2, 0, 0, 0, 0], [0, 0, 0, 0, 0]], "spatial_range"),
        ([[0, 0, 0, 0], [1, 0, 0, 0]], "4 columns"),
        ([[0, 0, 0, 0, 0]], "1 rows"),
    ],
)
def test_refusals_fit_one_line(coords: list[list[int]], found: str) -> None:
    with pytest.raises(UserError, match=found) as caught:
        SparseTensor(torch.tensor(coords), torch.zeros(2, 1), spatial_range=RANGE)
    assert "\n" not in str(caught.value)


def test_wrong_rows_and_engine_are_refused(make_tensor) -> None:
    x = make_tensor()
    with pytest.raises(UserError, match="one row per site"):
        x.with_feats(x.feats[1:])
    with pytest.raises(UserError, match="wanted one of"):
        x.with_engine("spconv")


def test_a_grid_beyond_64_bits_is_refused() -> None:
    with pytest.raises(UserError, match="2\\*\\*62"):
        site_keys(torch.zeros(1, 5, dtype=torch.int32), (2**20, 2**20, 2**20, 2**20, 1))
