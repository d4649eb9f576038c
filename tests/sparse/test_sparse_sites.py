"""Pooling, pruning, union, concatenation, normalisation, dense arrays."""

import pytest
import torch
from torch.nn import functional

from sparse_ulm.errors import UserError
from sparse_ulm.sparse import (
    BatchNorm,
    MaxPool,
    SparseTensor,
    concatenate,
    from_dense,
    pool_sites,
    prune,
    to_dense,
    union,
)

EVEN_RANGE = (2, 4, 6, 8, 4)


@pytest.mark.usefixtures("each_kernel")
def test_max_pool_against_dense(make_tensor) -> None:
    x = make_tensor(spatial_range=EVEN_RANGE)
    present = to_dense(x.with_feats(torch.ones_like(x.feats))) > 0
    lowest = to_dense(x).masked_fill(~present, -torch.inf).movedim(-1, 1).flatten(0, 1)
    dense = functional.max_pool3d(lowest, 2).unflatten(0, (2, 4)).movedim(1, -1)
    y = MaxPool((2, 2, 2, 1))(x)
    assert torch.equal(y.feats, dense.movedim(1, -1)[y.coords.long().unbind(1)])
    assert len(y) == int((dense[:, 0] > -torch.inf).sum())
    assert y.stride == (2, 2, 2, 1)


@pytest.mark.usefixtures("each_kernel")
def test_max_pool_collapses_all_frames(make_tensor) -> None:
    x = make_tensor(share=0.1)
    y = MaxPool((1, 1, 1, 8))(x)
    assert y.spatial_range == (2, 5, 6, 7, 1)
    assert len(y) == len(torch.unique(x.coords[:, :4], dim=0))
    assert torch.equal(y.feats.amax(0), x.feats.amax(0))


@pytest.mark.usefixtures("each_kernel")
def test_max_pool_gradient_goes_to_the_first_of_the_largest() -> None:
    coords = torch.tensor([[0, 0, 0, 0, t] for t in range(4)])
    feats = torch.tensor([[1.0, -5.0], [3.0, -2.0], [3.0, -9.0], [2.0, -4.0]], requires_grad=True)
    y = MaxPool((1, 1, 1, 4))(SparseTensor(coords, feats, spatial_range=(1, 1, 1, 1, 4)))
    assert y.feats.tolist() == [[3.0, -2.0]]
    y.feats.sum().backward()
    assert feats.grad.tolist() == [[0, 0], [1, 1], [0, 0], [0, 0]]


@pytest.mark.usefixtures("each_kernel")
def test_max_pool_gradcheck(make_tensor) -> None:
    x = make_tensor(share=0.1, spatial_range=EVEN_RANGE)
    pool = MaxPool((2, 3, 2, 2))
    feats = x.feats.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda f: pool(x.with_feats(f)).feats, feats, fast_mode=True)
    assert MaxPool((1, 1, 1, 1))(x) is x


@pytest.mark.parametrize("columns", [(), (2,)])
def test_pool_sites_marks_cells_with_any_positive(make_tensor, columns: tuple[int, ...]) -> None:
    x = make_tensor(spatial_range=EVEN_RANGE)
    truth = torch.rand(len(x), *columns) < 0.3
    pooled = pool_sites(x, (2, 2, 2, 1), truth)
    as_feats = x.with_feats(truth.reshape(len(x), -1).double())
    reference = MaxPool((2, 2, 2, 1))(as_feats).feats > 0
    assert pooled.dtype == torch.bool
    assert torch.equal(pooled, reference.reshape(-1, *columns))
    assert 0 < pooled.sum() < pooled.numel()
    assert pool_sites(x, (1, 1, 1, 1), truth) is truth


def test_prune_keeps_rows(make_tensor) -> None:
    x = make_tensor()
    mask = torch.rand(len(x)) < 0.5
    y = prune(x, mask)
    assert torch.equal(y.coords, x.coords[mask])
    assert torch.equal(y.feats, x.feats[mask])
    assert y.maps is not x.maps
    assert len(prune(x, torch.zeros(len(x), dtype=torch.bool))) == 0


def test_concatenate(make_tensor) -> None:
    x = make_tensor()
    twin = SparseTensor(x.coords.clone(), x.feats[:, :1] * 2, spatial_range=x.spatial_range)
    y = concatenate([x, twin, x])
    assert torch.equal(y.feats, torch.cat([x.feats, twin.feats, x.feats], 1))
    assert y.maps is x.maps


def test_union_is_the_sum_of_dense_arrays(make_tensor) -> None:
    a, b = make_tensor(share=0.2), make_tensor(share=0.1)
    y = union(a, b)
    assert torch.equal(to_dense(y), to_dense(a) + to_dense(b))
    both = torch.unique(torch.cat([a.coords, b.coords]), dim=0)
    assert torch.equal(y.coords, both)
    assert torch.equal(union(a, a).feats, 2 * a.feats)
    empty = prune(a, torch.zeros(len(a), dtype=torch.bool))
    assert torch.equal(union(empty, a).feats, a.feats)


def test_dense_round_trip(make_tensor) -> None:
    x = make_tensor()
    back = from_dense(to_dense(x))
    assert torch.equal(back.coords, x.coords)
    assert torch.equal(back.feats, x.feats)
    assert back.spatial_range == x.spatial_range
    assert to_dense(x).shape == (2, 3, 5, 6, 7, 8)
    everywhere = from_dense(torch.zeros(1, 2, 3, 1, 4, 5), torch.ones(1, 3, 1, 4, 5, dtype=torch.bool))
    assert len(everywhere) == 60


def test_batch_norm_is_torchs(make_tensor) -> None:
    x = make_tensor()
    ours, torchs = BatchNorm(3).double(), torch.nn.BatchNorm1d(3).double()
    for _ in range(2):
        assert torch.equal(ours(x).feats, torchs(x.feats))
    assert torch.equal(ours.running_var, torchs.running_var)
    assert torch.equal(ours.eval()(x).feats, torchs.eval()(x.feats))
    assert ours.state_dict().keys() == torchs.state_dict().keys()


@pytest.mark.parametrize("n_sites", [0, 1])
def test_batch_norm_of_one_site_or_none_uses_running_statistics(n_sites: int) -> None:
    x = SparseTensor(torch.zeros(n_sites, 5, dtype=torch.int32), torch.ones(n_sites, 3), spatial_range=(1, 1, 1, 1, 1))
    norm = BatchNorm(3)
    norm.running_mean.fill_(1.0)
    y = norm(x)
    assert torch.equal(y.feats, torch.zeros(n_sites, 3))
    assert torch.equal(norm.running_mean, torch.ones(3))


def test_refusals(make_tensor) -> None:
    x = make_tensor()
    other = prune(x, torch.arange(len(x)) > 0)
    with pytest.raises(UserError, match="one per site"):
        prune(x, torch.ones(3, dtype=torch.bool))
    with pytest.raises(UserError, match="equal sites"):
        concatenate([x, other])
    with pytest.raises(UserError, match="at least one"):
        concatenate([])
    with pytest.raises(UserError, match="union wants"):
        union(x, other.with_feats(other.feats[:, :1]))
    with pytest.raises(UserError, match="one target per site"):
        pool_sites(x, (1, 1, 1, 2), torch.zeros(3))
    with pytest.raises(UserError, match="four positive"):
        MaxPool((2, 2, 2))
