"""LocalisationNet: one answer per site, that depends on neighbours in space and time and on nothing else."""

import pytest
import torch

from sparse_ulm.errors import UserError
from sparse_ulm.networks.localisation import N_OUTPUTS, LocalisationNet
from sparse_ulm.sparse import SparseTensor

RANGE = (2, 8, 12, 16, 9)


def block(seed: int, spatial_range: tuple[int, ...] = RANGE, share: float = 0.05) -> SparseTensor:
    generator = torch.Generator().manual_seed(seed)
    coords = (torch.rand(spatial_range, generator=generator) < share).nonzero().int()
    feats = torch.rand(len(coords), 2, generator=generator)
    return SparseTensor(coords, feats, spatial_range=spatial_range)


def network(**options: object) -> LocalisationNet:
    torch.manual_seed(1)
    return LocalisationNet(in_channels=2, widths=(3, 4, 5), **options).eval()


def test_every_site_has_an_answer() -> None:
    x = block(1)
    y = network()(x).sites
    assert torch.equal(y.coords, x.coords)
    assert y.feats.shape == (len(x.coords), N_OUTPUTS)


def test_samples_do_not_see_each_other() -> None:
    net, x = network(), block(2)
    together = net(x).sites.feats
    for sample in range(2):
        rows = x.coords[:, 0] == sample
        coords = x.coords[rows].clone()
        coords[:, 0] = 0
        alone = net(SparseTensor(coords, x.feats[rows], spatial_range=(1, *RANGE[1:]))).sites.feats
        torch.testing.assert_close(alone, together[rows], atol=1e-5, rtol=1e-5)


def test_a_shift_by_the_stride_and_by_a_frame_shifts_the_answer() -> None:
    net, x = network(), block(3, (1, 8, 8, 8, 6))
    step = torch.tensor([0, 4, 8, 4, 1], dtype=torch.int32)
    wide = (1, 16, 16, 16, 7)
    here = net(SparseTensor(x.coords, x.feats, spatial_range=wide)).sites.feats
    there = net(SparseTensor(x.coords + step, x.feats, spatial_range=wide)).sites.feats
    torch.testing.assert_close(there, here, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("taps", [(3, 5), (5, 1)])
def test_an_answer_depends_on_no_frame_beyond_its_reach(taps: tuple[int, int]) -> None:
    net, x = network(temporal_taps=taps), block(5, (1, 4, 4, 4, 40), share=0.9)
    changed = x.feats.clone()
    changed[x.coords[:, 4] == 3] += 3.0
    moved = (net(x).sites.feats - net(x.with_feats(changed)).sites.feats).abs().amax(dim=1)
    last = int(x.coords[moved > 0, 4].max())
    assert last == 3 + net.temporal_reach


def test_a_bubble_is_told_from_its_past() -> None:
    net, x = network(), block(4, (1, 8, 8, 8, 6), share=0.2)
    changed = x.feats.clone()
    changed[x.coords[:, 4] == 2] += 1.0
    moved = (net(x).sites.feats - net(x.with_feats(changed)).sites.feats).abs().amax(dim=1)
    for frame in (1, 2, 3):
        assert moved[x.coords[:, 4] == frame].max() > 1e-4
    no_time = network(temporal_taps=(1, 1))
    moved = (no_time(x).sites.feats - no_time(x.with_feats(changed)).sites.feats).abs().amax(dim=1)
    assert moved[x.coords[:, 4] != 2].max() == 0.0


def test_2d_takes_no_neighbour_along_y() -> None:
    net = network(spatial_dims=2)
    assert net.site_multiple == (4, 1, 4, 1)
    x = block(5, (1, 12, 1, 16, 5), share=0.2)
    assert net(x).sites.feats.shape == (len(x.coords), N_OUTPUTS)


def test_every_parameter_learns() -> None:
    net = network().train()
    net(block(6, share=0.2)).sites.feats.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in net.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial_dims": 4}, "spatial_dims is 4"),
        ({"widths": (3, 4)}, "wanted 3 positive"),
        ({"temporal_taps": (2, 5)}, "wanted 2 odd"),
    ],
)
def test_impossible_sizes_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LocalisationNet(**options)
