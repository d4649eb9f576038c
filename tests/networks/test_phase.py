"""What the network is told of the phase: steps by hand, and the turns that change nothing."""

import math

import pytest
import torch

from sparse_ulm.errors import UserError
from sparse_ulm.networks.localisation import LocalisationNet
from sparse_ulm.networks.phase import describe_phase, n_described
from sparse_ulm.sparse import SparseTensor

RANGE = (2, 8, 12, 8, 5)


def block(share: float = 0.5, spatial_range: tuple[int, ...] = RANGE, seed: int = 1) -> SparseTensor:
    generator = torch.Generator().manual_seed(seed)
    coords = (torch.rand(spatial_range, generator=generator) < share).nonzero().int()
    return SparseTensor(coords, torch.randn(len(coords), 4, generator=generator), spatial_range=spatial_range)


def turned(x: SparseTensor, angle: float) -> SparseTensor:
    """All phases on by one angle."""
    c = torch.complex(x.feats[:, 2], x.feats[:, 3]) * complex(math.cos(angle), math.sin(angle))
    return x.with_feats(torch.cat([x.feats[:, :2], c.real[:, None], c.imag[:, None]], dim=1))


@pytest.mark.parametrize(("spatial_dims", "spatial_range"), [(3, RANGE), (2, (2, 8, 1, 12, 6))])
def test_steps_are_those_of_a_loop(spatial_dims: int, spatial_range: tuple[int, ...]) -> None:
    x = block(spatial_range=spatial_range)
    found = describe_phase(x, phase="steps", spatial_dims=spatial_dims).feats
    angle = {
        tuple(row): math.atan2(im, re) for row, (re, im) in zip(x.coords.tolist(), x.feats[:, 2:].tolist(), strict=True)
    }
    axes = [1, 2, 3, 4] if spatial_dims == 3 else [1, 3, 4]
    assert found.shape == (len(x), n_described(4, phase="steps", spatial_dims=spatial_dims))
    torch.testing.assert_close(found[:, :2], x.feats[:, :2])
    for row, own in zip(found.tolist(), x.coords.tolist(), strict=True):
        wanted = []
        for axis in axes:
            for way in (-1, 1):
                there = tuple(v + way * (i == axis) for i, v in enumerate(own))
                step = angle[tuple(own)] - angle[there] if there in angle else None
                wanted += [0.0, 0.0] if step is None else [math.cos(step), math.sin(step)]
        assert row[2:] == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("phase", ["steps", "none"])
def test_a_turn_of_all_phases_changes_nothing(phase: str) -> None:
    torch.manual_seed(1)
    net, x = LocalisationNet(widths=(3, 4, 5), phase=phase).eval(), block()
    answer = net(x).sites.feats
    torch.testing.assert_close(net(turned(x, 1.1)).sites.feats, answer, atol=1e-5, rtol=1e-5)
    torch.manual_seed(1)
    plain = LocalisationNet(widths=(3, 4, 5)).eval()
    assert (plain(turned(x, 1.1)).sites.feats - plain(x).sites.feats).abs().max() > 1e-3


def test_the_phase_of_one_frame_is_seen_in_steps_alone() -> None:
    x = block()
    one = x.with_feats(torch.where((x.coords[:, 4] == 2)[:, None], turned(x, 0.7).feats, x.feats))
    for phase, is_seen in (("steps", True), ("none", False)):
        torch.manual_seed(2)
        net = LocalisationNet(widths=(3, 4, 5), phase=phase).eval()
        change = (net(one).sites.feats - net(x).sites.feats).abs().max()
        assert (change > 1e-3) == is_seen


def test_sites_without_a_phase_have_finite_steps() -> None:
    x = block()
    silent = x.with_feats(torch.zeros_like(x.feats))
    assert (describe_phase(silent, phase="steps", spatial_dims=3).feats == 0).all()


def test_a_mistake_is_named() -> None:
    with pytest.raises(UserError, match="phase is 'phasor'; wanted one of as_given, steps, none"):
        LocalisationNet(phase="phasor")
    with pytest.raises(UserError, match="'steps' was given 2 features; wanted the 4"):
        LocalisationNet(in_channels=2, phase="steps")
