"""A block answered in tiles is the block answered at once, and no tile is larger than it may be."""

import pytest
import torch

from sparse_ulm.errors import UserError
from sparse_ulm.inferer import SparseInferer
from sparse_ulm.networks.localisation import LocalisationNet
from sparse_ulm.networks.trajectory_map import TrajectoryMapNet
from sparse_ulm.sparse import SparseTensor
from sparse_ulm.tiles import Tile, answer_in_tiles, divide

RANGE = (2, 192, 4, 8, 32)


@pytest.fixture
def block() -> SparseTensor:
    """Two samples, denser at one end of x."""
    generator = torch.Generator().manual_seed(4)
    share = 0.05 * torch.linspace(1.0, 0.1, RANGE[1])[None, :, None, None, None]
    coords = (torch.rand(RANGE, generator=generator) < share).nonzero().int()
    return SparseTensor(coords, torch.rand(len(coords), 4, generator=generator), spatial_range=RANGE)


def localisation(**options: object) -> LocalisationNet:
    torch.manual_seed(3)
    return LocalisationNet(widths=(3, 4, 5), **options).eval()  # type: ignore[arg-type]


def trajectory_map() -> TrajectoryMapNet:
    """Prunes, but keeps something of every tile."""
    torch.manual_seed(2)
    net = TrajectoryMapNet(encoder_widths=(3, 4, 5), refine_widths=(5, 4, 3, 2), keep_probability=0.1).eval()
    for head in net.heads:
        head.kernel.data.mul_(30.0)
    return net


def test_bubbles_are_those_of_the_whole_block(block: SparseTensor) -> None:
    network, sizes = localisation(), []

    def watched(x: SparseTensor):  # type: ignore[no-untyped-def]
        sizes.append(len(x))
        return network(x)

    limit = int(0.55 * len(block))
    with torch.no_grad():
        whole = network(block).sites
        tiled = answer_in_tiles(
            block, watched, max_sites=limit, reach=network.reach, multiple=network.site_multiple
        ).sites
    assert len(sizes) > 2
    assert max(sizes) <= limit
    assert torch.equal(tiled.coords, whole.coords)
    torch.testing.assert_close(tiled.feats, whole.feats, atol=1e-5, rtol=1e-5)


def test_a_map_is_that_of_the_whole_block(block: SparseTensor) -> None:
    network = trajectory_map()
    with torch.no_grad():
        whole = network(block).final
        tiled = SparseInferer(max_tile_sites=int(0.8 * len(block)))(block, network).final
    assert torch.equal(tiled.coords, whole.coords)
    n_kept = len(whole) / (8**3 * len({tuple(row) for row in (whole.coords[:, :4] // 8).tolist()}))
    assert n_kept < 0.9  # pruning has something to do
    torch.testing.assert_close(tiled.feats, whole.feats, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("network", [localisation(), localisation(phase="steps"), trajectory_map()])
def test_nothing_beyond_the_reach_changes_an_answer(network: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(6)
    wide = (1, 96, 4, 4, 32)
    coords = (torch.rand(wide, generator=generator) < 0.4).nonzero().int()
    x = SparseTensor(coords, torch.rand(len(coords), 4, generator=generator), spatial_range=wide)
    changed = x.feats + 3.0 * (x.coords[:, 1:2] == 48)
    with torch.no_grad():
        before, after = network(x), network(x.with_feats(changed))
    one, two = (out.sites if isinstance(network, LocalisationNet) else out.final for out in (before, after))
    scale = one.spatial_range[1] // wide[1]
    far = [(out.coords[:, 1] // scale - 48).abs() > network.reach[0] + 3 for out in (one, two)]  # 3: of a pooled cell
    assert torch.equal(one.coords[far[0]], two.coords[far[1]])
    assert torch.equal(one.feats[far[0]], two.feats[far[1]])
    assert not torch.equal(one.feats[~far[0]], two.feats[~far[1]])


def test_tiles_cover_every_site_once_and_begin_where_cells_do(block: SparseTensor) -> None:
    whole = Tile((0, 0, 0, 0), RANGE[1:])
    tiles = list(divide(block, whole, max_sites=900, around=(4, 0, 4, 3), multiple=(4, 4, 4, 1), cuttable=(True,) * 4))
    counts = torch.stack([tile.holds(block) for tile in tiles]).sum(0)
    assert len(tiles) > 4
    assert torch.equal(counts, torch.ones_like(counts))
    assert all(first % 4 == 0 for tile in tiles for first in tile.first[:3])
    assert max(int(tile.holds(block, reach=(4, 0, 4, 3)).sum()) for tile in tiles) <= 900


def test_time_is_not_cut_where_the_network_sees_all_of_it(block: SparseTensor) -> None:
    whole = Tile((0, 0, 0, 0), RANGE[1:])
    options = {"around": (8, 8, 8, 0), "multiple": (4, 4, 4, 8), "cuttable": (True, True, True, False)}
    tiles = list(divide(block, whole, max_sites=1, **options))  # type: ignore[arg-type]
    assert {(tile.first[3], tile.last[3]) for tile in tiles} == {(0, 32)}
    assert len(tiles) > 8


def test_a_small_block_is_asked_as_it_is(block: SparseTensor) -> None:
    network = localisation()
    with torch.no_grad():
        answer = SparseInferer(max_tile_sites=len(block))(block, network).sites
        assert torch.equal(answer.feats, network(block).sites.feats)


def test_an_impossible_size_is_refused() -> None:
    with pytest.raises(UserError, match="max_tile_sites is 0; wanted a positive number"):
        SparseInferer(max_tile_sites=0)
