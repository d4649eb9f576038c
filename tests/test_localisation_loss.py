"""Targets by brute force, the loss by hand."""

import math

import numpy as np
import pytest
import torch

from sparse_ulm.localisation_loss import LocalisationLoss, Targets, centre_loss, make_targets, offset_loss
from sparse_ulm.localise import find_summits
from sparse_ulm.networks.localisation import (
    LOG_AMPLITUDE,
    LOG_DEVIATION,
    LOGIT,
    N_OUTPUTS,
    OFFSET,
    LocalisationNet,
    LocalisationOutput,
)
from sparse_ulm.sparse import SparseTensor

RANGE = (2, 6, 7, 8, 5)


def all_sites(share: float = 1.0, seed: int = 0) -> SparseTensor:
    generator = torch.Generator().manual_seed(seed)
    coords = (torch.rand(RANGE, generator=generator) < share).nonzero().int()
    feats = torch.zeros(len(coords), N_OUTPUTS, dtype=torch.float64)
    return SparseTensor(coords, feats, spatial_range=RANGE)


def bubbles(n: int, seed: int = 1) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    low, high = np.array([-1.0, -1.0, -1.0]), np.array([6.0, 7.0, 8.0])
    rows = [rng.integers(2, size=n), *rng.uniform(low, high, size=(n, 3)).T, rng.integers(5, size=n), np.full(n, 7.0)]
    return torch.from_numpy(np.column_stack(rows).astype(np.float64))


def test_targets_are_those_of_brute_force() -> None:
    sites, truth = all_sites(0.3), bubbles(25)
    targets = make_targets(sites, truth)
    for i, (b, x, y, z, t) in enumerate(sites.coords.tolist()):
        same = (truth[:, 0] == b) & (truth[:, 4] == t)
        gap = (truth[:, 1:4] - torch.tensor([x, y, z], dtype=torch.float64)).abs()
        distance2 = torch.where(same, (gap**2).sum(1), torch.inf)
        if float(distance2.min()) < 1.9**2:  # surely among the pairs looked at
            assert float(targets.distance2[i]) == pytest.approx(float(distance2.min()))
            assert int(targets.nearest[i]) == int(distance2.argmin())
    positives = set()
    for b, x, y, z, t, _ in truth.tolist():
        gap = (sites.coords[:, 1:4] - torch.tensor([x, y, z])).abs()
        near = (sites.coords[:, 0] == b) & (sites.coords[:, 4] == t) & (gap.amax(1) <= 1.5)
        if bool(near.any()):
            positives.add(int(torch.where(near, (gap**2).sum(1), torch.inf).argmin()))
    assert positives == set(torch.nonzero(targets.is_positive)[:, 0].tolist())


def test_loss_of_one_site_by_hand() -> None:
    targets = Targets(
        torch.tensor([0.04, 0.49, torch.inf]), torch.zeros(3, dtype=torch.long), torch.tensor([1.0, 0, 0])
    )
    p = torch.tensor([0.7, 0.2, 0.1])
    loss = centre_loss(torch.logit(p), targets)
    heat = math.exp(-0.5)
    expected = [-(0.3**2) * math.log(0.7), -((1 - heat) ** 4) * 0.04 * math.log(0.8), -0.01 * math.log(0.9)]
    assert loss.tolist() == pytest.approx(expected, rel=1e-5)
    one = offset_loss(torch.tensor([[0.1, 0.0, 0.0]]), torch.log(torch.tensor([[0.2, 0.1, 0.5]])), torch.zeros(1, 3))
    assert one.tolist() == pytest.approx([0.5 * 0.25 + math.log(0.2 * 0.1 * 0.5)], rel=1e-5)


def oracle(truth: torch.Tensor) -> LocalisationOutput:
    """The best answer: sure of the positive sites, exact offsets."""
    sites = all_sites()
    targets = make_targets(sites, truth)
    feats = torch.zeros(len(sites.coords), N_OUTPUTS, dtype=torch.float64)
    feats[:, LOGIT] = torch.where(targets.is_positive > 0, 6.0, -9.0)
    feats[:, OFFSET] = truth[targets.nearest, 1:4] - sites.coords[:, 1:4]
    feats[:, LOG_DEVIATION] = math.log(0.05)
    feats[:, LOG_AMPLITUDE] = math.log(7.0)
    return LocalisationOutput(sites.with_feats(feats))


def inside(truth: torch.Tensor) -> torch.Tensor:
    """Bubbles well apart, inside the grid."""
    rows = [[0, 1.3, 2.2, 3.4, 0, 7], [0, 4.6, 5.1, 6.7, 0, 7], [1, 0.2, 0.4, 7.3, 2, 7], [1, 3.5, 3.4, 3.3, 4, 7]]
    return torch.tensor(rows, dtype=torch.float64)


def test_the_oracle_has_less_loss_than_its_neighbours_and_is_read_back() -> None:
    truth = inside(bubbles(1))
    best = oracle(truth)
    loss = LocalisationLoss()
    least = float(loss(best, truth))
    for column, step in ((1, 0.1), (2, -0.1), (4, 0.7), (LOG_AMPLITUDE, 0.7), (LOG_AMPLITUDE, -0.7)):
        worse = best.sites.feats.clone()
        worse[:, column] += step
        assert float(loss(LocalisationOutput(best.sites.with_feats(worse)), truth)) > least
    shuffled = best.sites.feats.clone()
    shuffled[:, LOGIT] = shuffled[:, LOGIT].flip(0)
    assert float(loss(LocalisationOutput(best.sites.with_feats(shuffled)), truth)) > least + 1.0
    tables = find_summits(best, 2)
    found = torch.cat(
        [torch.cat([torch.full((len(t), 1), float(b)), t[:, 1:4], t[:, :1]], 1) for b, t in enumerate(tables)]
    )
    torch.testing.assert_close(found, truth[:, :5], atol=1e-6, rtol=0)
    assert tables[0][:, 5:8].flatten().tolist() == pytest.approx([0.05] * 6, rel=1e-5)
    assert tables[0][:, 8].tolist() == pytest.approx([7.0, 7.0], rel=1e-5)


def test_without_bubbles_or_sites_the_loss_is_finite_and_has_a_gradient() -> None:
    net = LocalisationNet(in_channels=N_OUTPUTS, widths=(2, 3, 4))
    x = all_sites(0.2)
    output = net(SparseTensor(x.coords, x.feats.float(), spatial_range=(2, 8, 8, 8, 5)))
    loss = LocalisationLoss()(output, bubbles(0))
    loss.backward()
    assert math.isfinite(loss.item())
    assert net.head.bias.grad is not None


def test_a_network_learns_two_bubbles() -> None:
    torch.manual_seed(0)
    x = all_sites(1.0)
    truth = inside(bubbles(1))
    distance = torch.stack(
        [
            ((x.coords[:, 1:4] - row[1:4]) ** 2).sum(1)
            + 1e3 * ((x.coords[:, 0] != row[0]) | (x.coords[:, 4] != row[4]))
            for row in truth
        ]
    )
    feats = torch.exp(-distance / 2).amax(0)[:, None].float()
    x = SparseTensor(x.coords, feats, spatial_range=(2, 8, 8, 8, 5))
    net, loss = LocalisationNet(in_channels=1, widths=(4, 6, 8)), LocalisationLoss()
    adam = torch.optim.Adam(net.parameters(), lr=2e-2)
    losses = []
    for _ in range(15):
        value = loss(net(x), truth)
        adam.zero_grad()
        value.backward()
        adam.step()
        losses.append(float(value.detach()))
    assert losses[-1] < 0.2 * losses[0]
