"""Multi-scale Dice by hand, and the stride of its targets."""

import pytest
import torch

from sparse_ulm.losses import (
    MultiScaleDiceLoss,
    dilate_sites,
    floor_sites,
    is_in,
    offsets_within,
    soft_dice_loss,
    tolerant_dice_loss,
    unique_sites,
)
from sparse_ulm.metrics import tolerant_overlap
from sparse_ulm.networks.trajectory_map import TrajectoryMapOutput
from sparse_ulm.sparse import SparseTensor


def logits(coords: list[list[int]], probability: list[float], spatial_range: tuple[int, ...]) -> SparseTensor:
    feats = torch.logit(torch.tensor(probability, dtype=torch.float64))[:, None]
    return SparseTensor(torch.tensor(coords, dtype=torch.int32), feats, spatial_range=spatial_range)


def rows(*sites: list[int]) -> torch.Tensor:
    return torch.tensor(sites, dtype=torch.int32).reshape(-1, 5)


def test_dice_by_hand() -> None:
    x = logits([[0, 1, 2, 3, 0], [0, 1, 2, 4, 0], [1, 1, 2, 3, 0]], [0.8, 0.4, 0.6], (2, 5, 6, 7, 1))
    truth = rows([0, 1, 2, 3, 0], [1, 0, 0, 0, 0])  # the second has no site: missed
    loss = soft_dice_loss(x, truth, miss_weight=0.5, smooth=0.5)
    assert float(loss) == pytest.approx(1 - (2 * 0.8 + 0.5) / (1.8 + 2 + 0.5))


def test_missing_costs_more_than_inventing_at_a_high_miss_weight() -> None:
    truth = rows([0, 1, 2, 3, 0], [0, 0, 0, 0, 0])  # one found, one without a site
    x = logits([[0, 1, 2, 3, 0], [0, 1, 2, 4, 0]], [1 - 1e-12, 0.5], (1, 5, 6, 7, 1))
    loss = soft_dice_loss(x, truth, miss_weight=0.8, smooth=0.0)
    assert float(loss) == pytest.approx(1 - 1 / (1 + 0.2 * 0.5 + 0.8 * 1))


def test_perfect_and_empty() -> None:
    x = logits([[0, 1, 2, 3, 0]], [1 - 1e-12], (1, 5, 6, 7, 1))
    assert float(soft_dice_loss(x, rows([0, 1, 2, 3, 0]), miss_weight=0.5, smooth=1e-3)) == pytest.approx(0.0, abs=1e-9)
    none = SparseTensor(
        torch.zeros(0, 5, dtype=torch.int32), torch.zeros(0, 1, dtype=torch.float64), spatial_range=(1, 5, 6, 7, 1)
    )
    assert float(soft_dice_loss(none, rows([0, 1, 2, 3, 0]), miss_weight=0.5, smooth=1e-3)) == pytest.approx(
        1.0, abs=1e-3
    )
    assert float(soft_dice_loss(none, rows(), miss_weight=0.5, smooth=1e-3)) == pytest.approx(0.0, abs=1e-9)


def test_targets_are_floored_to_each_heads_stride_and_slots_are_kept() -> None:
    truth = rows([0, 15, 0, 7, 0], [0, 8, 1, 0, 0], [0, 8, 1, 0, 1], [1, 8, 1, 0, 1])
    assert floor_sites(truth, [8, 8, 8]).tolist() == [[0, 1, 0, 0, 0], [0, 1, 0, 0, 1], [1, 1, 0, 0, 1]]
    head = logits([[0, 1, 0, 0, 0], [0, 1, 0, 0, 1], [1, 1, 0, 0, 1]], [0.999999] * 3, (2, 2, 1, 1, 2))
    final = logits([[0, 15, 0, 7, 0], [0, 8, 1, 0, 0], [1, 8, 1, 0, 0]], [0.999999] * 3, (2, 16, 8, 8, 1))
    loss = MultiScaleDiceLoss(upsampling=(8, 8, 8), head_miss_weight=0.5)(TrajectoryMapOutput((head,), final), truth)
    assert float(loss) == pytest.approx(0.0, abs=1e-5)
    # The released code's half stride would put the second slot's targets where no head has a site.
    wrong = truth * torch.tensor([1, 1, 1, 1, 2], dtype=torch.int32)
    assert (
        float(MultiScaleDiceLoss(upsampling=(8, 8, 8), head_miss_weight=0.5)(TrajectoryMapOutput((head,), None), wrong))
        > 0.3
    )


def test_mean_over_heads() -> None:
    truth = rows([0, 0, 0, 0, 0])
    right = logits([[0, 0, 0, 0, 0]], [1 - 1e-9], (1, 1, 1, 1, 1))
    wrong = logits([[0, 0, 0, 0, 0]], [1e-9], (1, 2, 2, 2, 1))
    loss = MultiScaleDiceLoss(upsampling=(8, 8, 8), head_miss_weight=0.5)(
        TrajectoryMapOutput((right, wrong), None), truth
    )
    assert float(loss) == pytest.approx(0.5, abs=1e-3)


def test_gradient_raises_true_sites_and_lowers_others() -> None:
    x = logits([[0, 1, 2, 3, 0], [0, 1, 2, 4, 0]], [0.5, 0.5], (1, 5, 6, 7, 1))
    feats = x.feats.clone().requires_grad_()
    soft_dice_loss(x.with_feats(feats), rows([0, 1, 2, 3, 0]), miss_weight=0.5, smooth=1e-3).backward()
    assert feats.grad is not None
    assert feats.grad[0] < 0 < feats.grad[1]


def test_dilation_adds_the_26_neighbours_inside_the_range() -> None:
    grown = dilate_sites(rows([0, 2, 2, 2, 0]), (1, 5, 6, 7, 1))
    assert len(grown) == 27
    assert len(dilate_sites(rows([0, 0, 0, 0, 0]), (1, 5, 6, 7, 1))) == 8
    assert len(dilate_sites(rows([0, 2, 0, 2, 0]), (1, 5, 1, 7, 1))) == 9


def test_membership_and_uniqueness_against_sets() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randint(0, 3, (50, 5), generator=generator, dtype=torch.int32) for _ in range(2))
    expected = set(map(tuple, b.tolist()))
    assert is_in(a, b, (3, 3, 3, 3, 3)).tolist() == [tuple(row) in expected for row in a.tolist()]
    assert unique_sites(a).tolist() == sorted(map(list, set(map(tuple, a.tolist()))))
    assert len(unique_sites(a[:0])) == 0


def test_tolerant_dice_by_hand() -> None:
    truth = rows([0, 1, 2, 3, 0], [0, 4, 5, 6, 0])
    # One site beside the first true voxel, one two steps from it; the second truth lies in a corner of the grid, and
    # the site at the opposite corner must not count as its neighbour.
    x = logits([[0, 0, 0, 0, 0], [0, 1, 2, 4, 0], [0, 1, 2, 5, 0]], [0.2, 0.8, 0.4], (1, 5, 6, 7, 1))
    loss = tolerant_dice_loss(x, truth, offsets_within((1.0, 1.0, 1.0)), smooth=0.0)
    precision, recall = 0.8 / 1.4, 0.8 / 2
    assert float(loss) == pytest.approx(1 - 2 * precision * recall / (precision + recall))


def test_tolerant_dice_of_a_sure_answer_is_the_metric() -> None:
    generator = torch.Generator().manual_seed(3)
    grid = (1, 9, 10, 11, 1)
    flat = [torch.randperm(990, generator=generator)[:n].sort().values for n in (60, 40)]
    sites, truth = (torch.stack([0 * f, f // 110, f // 11 % 10, f % 11, 0 * f], dim=1).int() for f in flat)
    tolerance, voxel = 0.1, (0.06, 0.07, 0.05)
    loss = tolerant_dice_loss(
        logits(sites.tolist(), [1 - 1e-12] * 60, grid),
        truth,
        offsets_within([tolerance / v for v in voxel]),
        smooth=0.0,
    )
    metric = tolerant_overlap(
        sites[:, 1:4].long().numpy(), truth[:, 1:4].long().numpy(), voxel_size_m=voxel, tolerance_m=tolerance
    )
    assert 0.2 < metric["dice"] < 0.8
    assert 1 - float(loss) == pytest.approx(metric["dice"], abs=1e-9)


def test_tolerance_halves_the_weight_of_the_exact_dice() -> None:
    truth = rows([0, 1, 2, 3, 0])
    final = logits([[0, 1, 2, 4, 0]], [1 - 1e-12], (1, 8, 8, 8, 1))
    exact = MultiScaleDiceLoss(upsampling=(8, 8, 8), head_miss_weight=0.5)
    tolerant = MultiScaleDiceLoss(upsampling=(8, 8, 8), head_miss_weight=0.5, tolerance_voxels=[1.0, 1.0, 1.0])
    assert float(exact(TrajectoryMapOutput((), final), truth)) == pytest.approx(1.0, abs=1e-3)
    assert float(tolerant(TrajectoryMapOutput((), final), truth)) == pytest.approx(0.5, abs=1e-3)
