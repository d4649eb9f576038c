"""One view is the network itself; several make its answer as symmetric as the probe."""

import pytest
import torch

from sparse_ulm.errors import UserError
from sparse_ulm.inferer import SparseInferer, mean_map, mirror
from sparse_ulm.networks.localisation import LocalisationNet
from sparse_ulm.networks.trajectory_map import TrajectoryMapNet, TrajectoryMapOutput, probability_of
from sparse_ulm.sparse import SparseTensor, to_dense


@pytest.fixture
def network() -> TrajectoryMapNet:
    torch.manual_seed(2)
    return TrajectoryMapNet(in_channels=2, encoder_widths=(3, 4, 5), refine_widths=(5, 4, 3, 2)).eval()


@pytest.fixture
def block() -> SparseTensor:
    generator = torch.Generator().manual_seed(4)
    dense = torch.rand(2, 8, 4, 12, 32, generator=generator) < 0.03
    coords = dense.nonzero().int()
    return SparseTensor(coords, torch.rand(len(coords), 2, generator=generator), spatial_range=(2, 8, 4, 12, 32))


def ask(n_views: int, x: SparseTensor, network: TrajectoryMapNet) -> torch.Tensor:
    with torch.no_grad():
        final = SparseInferer(n_views)(x, network).final
    return to_dense(final.with_feats(probability_of(final)[:, None]))[:, 0, ..., 0]


def test_one_view_is_the_network(network: TrajectoryMapNet, block: SparseTensor) -> None:
    with torch.no_grad():
        assert torch.equal(SparseInferer()(block, network).final.feats, network(block).final.feats)


@pytest.mark.parametrize(("n_views", "axis"), [(2, 1), (4, 1), (4, 2), (8, 4)])
def test_the_mean_answers_a_mirrored_block_with_the_mirrored_map(
    n_views: int, axis: int, network: TrajectoryMapNet, block: SparseTensor
) -> None:
    straight, mirrored = ask(n_views, block, network), ask(n_views, mirror(block, (axis,)), network)
    expected = straight if axis == 4 else straight.flip(axis)
    torch.testing.assert_close(mirrored, expected, atol=1e-5, rtol=0)
    alone = ask(1, mirror(block, (axis,)), network)
    once = ask(1, block, network)
    assert not torch.allclose(alone, once if axis == 4 else once.flip(axis), atol=1e-5)  # the network is not symmetric


def test_a_voxel_that_one_view_dropped_counts_as_0_there() -> None:
    def final(rows: list[list[int]], probability: list[float]) -> SparseTensor:
        feats = torch.logit(torch.tensor(probability))[:, None]
        return SparseTensor(torch.tensor(rows, dtype=torch.int32), feats, spatial_range=(1, 3, 4, 5, 1))

    mean = mean_map([final([[0, 0, 1, 2, 0], [0, 2, 3, 4, 0]], [0.2, 0.8]), final([[0, 2, 3, 4, 0]], [0.4])])
    assert mean.coords.tolist() == [[0, 0, 1, 2, 0], [0, 2, 3, 4, 0]]
    torch.testing.assert_close(probability_of(mean), torch.tensor([0.1, 0.6]))


def test_an_empty_block_has_an_empty_map(network: TrajectoryMapNet) -> None:
    empty = SparseTensor(torch.zeros(0, 5, dtype=torch.int32), torch.zeros(0, 2), spatial_range=(1, 8, 4, 12, 32))
    output = SparseInferer(4)(empty, network)
    assert isinstance(output, TrajectoryMapOutput)
    assert output.final is None


def test_other_numbers_of_views_are_refused() -> None:
    with pytest.raises(UserError, match="n_views is 3"):
        SparseInferer(3)


def test_views_of_bubbles_are_turned_back() -> None:
    torch.manual_seed(3)
    net = LocalisationNet(in_channels=2, widths=(3, 4, 5)).eval()
    generator = torch.Generator().manual_seed(5)
    coords = (torch.rand(1, 8, 12, 4, 6, generator=generator) < 0.1).nonzero().int()
    x = SparseTensor(coords, torch.rand(len(coords), 2, generator=generator), spatial_range=(1, 8, 12, 4, 6))
    with torch.no_grad():
        straight = SparseInferer(8)(x, net).sites
        for column, flipped in ((1, 1), (2, 2), (4, None)):
            turned = mirror(SparseInferer(8)(mirror(x, (column,)), net).sites, (column,)).feats.clone()
            if flipped is not None:
                turned[:, flipped].neg_()  # the offset along the mirrored axis
            torch.testing.assert_close(turned, straight.feats, atol=1e-5, rtol=0)
