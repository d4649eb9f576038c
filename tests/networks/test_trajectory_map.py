"""TrajectoryMapNet: strides, variants, and the laws that any V-net of submanifold layers obeys."""

import math

import pytest
import torch

from sparse_ulm.errors import UserError
from sparse_ulm.networks.trajectory_map import PRIOR_LOGIT, TrajectoryMapNet, TrajectoryMapOutput
from sparse_ulm.sparse import SparseTensor, to_dense

SMALL = {"encoder_widths": [3, 4, 5], "refine_widths": [7, 6, 5, 4], "temporal_strides": [2, 4, 2], "in_channels": 2}
PRIOR = 1 / (1 + math.exp(-PRIOR_LOGIT))
"""About where an untrained head stands: keeps some sites and denies others."""
RANGE = (2, 8, 12, 4, 32)


def sites(n: int = 60, spatial_range: tuple[int, ...] = RANGE, channels: int = 2) -> SparseTensor:
    generator = torch.Generator().manual_seed(4)
    columns = [torch.randint(0, size, (n,), generator=generator, dtype=torch.int32) for size in spatial_range]
    coords = torch.unique(torch.stack(columns, dim=1), dim=0)
    feats = torch.randn(len(coords), channels, generator=generator)
    return SparseTensor(coords, feats, spatial_range=spatial_range)


def make(**sizes: object) -> TrajectoryMapNet:
    torch.manual_seed(1)
    return TrajectoryMapNet(**(SMALL | sizes)).eval()  # type: ignore[arg-type]


def dense_final(output: TrajectoryMapOutput) -> torch.Tensor:
    assert output.final is not None
    return to_dense(output.final)


def test_heads_and_map_have_their_true_strides() -> None:
    output = make(variant="deep_supervision")(sites())
    # 32 frames at a temporal stride of 2 * 4 * 2 = 16 give 2 slots; the map has one.
    assert [head.spatial_range for head in output.heads] == [
        (2, 8, 12, 4, 2),
        (2, 16, 24, 8, 2),
        (2, 32, 48, 16, 2),
    ]
    assert output.final is not None
    assert output.final.spatial_range == (2, 64, 96, 32, 1)


def test_without_pruning_every_child_of_every_voxel_is_in_the_map() -> None:
    x = sites()
    output = make(variant="plain")(x)
    assert output.heads == ()
    columns = torch.unique(x.coords[:, :4], dim=0)
    assert output.final is not None
    assert len(output.final) == 512 * len(columns)
    assert torch.equal(torch.unique(output.final.coords[:, :4] // torch.tensor([1, 8, 8, 8]), dim=0), columns)


def test_a_head_that_denies_a_voxel_prunes_it() -> None:
    net = make(variant="pruning", keep_probability=PRIOR)
    x = sites()
    head_0 = net(x).heads[0]
    wanted = head_0.feats[:, 0].sigmoid() > PRIOR
    assert 0 < int(wanted.sum()) < len(head_0)
    parents = torch.unique(net(x).heads[1].coords // torch.tensor([1, 2, 2, 2, 1]), dim=0)
    assert torch.equal(parents, head_0.coords[wanted])


def test_the_likeliest_voxel_survives_when_all_are_denied() -> None:
    net = make(variant="pruning", keep_probability=0.999999)
    heads = net(sites()).heads
    assert len(heads[1]) == 8 * 2, "one voxel of each sample, with its children"


def test_budget_bounds_the_sites() -> None:
    heads = make(variant="pruning", keep_probability=1e-6, max_kept_sites=5)(sites()).heads
    assert len(heads[1]) == 8 * 5 * 2


@pytest.mark.parametrize("phase", [0, 1, 2])
def test_cascade_stops_after_the_head_of_its_phase(phase: int) -> None:
    net = make(variant="cascade")
    net.set_phase(phase)
    output = net(sites())
    assert len(output.heads) == phase + 1
    assert output.final is None


def test_2d_network_leaves_y_alone() -> None:
    net = make(spatial_dims=2, variant="deep_supervision")
    output = net(sites(spatial_range=(1, 8, 1, 12, 16)))
    assert output.final is not None
    assert output.final.spatial_range == (1, 64, 1, 96, 1)
    assert net.site_multiple == (4, 1, 4, 16)
    assert net.upsampling == (8, 1, 8)


@pytest.mark.parametrize("variant", ["plain", "pruning"])
def test_moving_the_bubbles_by_a_stride_moves_the_map(variant: str) -> None:
    net = make(variant=variant, keep_probability=PRIOR)
    x = sites(spatial_range=(1, 4, 8, 4, 16))
    moved = SparseTensor(
        x.coords + torch.tensor([0, 4, 0, 8, 16], dtype=torch.int32), x.feats, spatial_range=(1, 8, 8, 12, 32)
    )
    one, other = dense_final(net(x)), dense_final(net(moved))
    torch.testing.assert_close(other[:, :, 32:, :, 64:96], one, atol=1e-5, rtol=1e-5)
    assert int((other != 0).sum()) == int((one != 0).sum())


def test_a_batch_equals_its_samples_one_by_one() -> None:
    net = make(variant="pruning", keep_probability=PRIOR)
    x = sites()
    together = dense_final(net(x))
    for i in range(2):
        mine = x.coords[:, 0] == i
        coords = x.coords[mine].clone()
        coords[:, 0] = 0
        alone = dense_final(net(SparseTensor(coords, x.feats[mine], spatial_range=(1, *RANGE[1:]))))
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=1e-5)


def test_dense_input_gives_the_sparse_answer_on_the_dense_grid() -> None:
    net = make(variant="plain")
    x = sites(spatial_range=(2, 8, 12, 4, 16))
    dense = to_dense(x)[:, :, :7, :11, :3, :15]  # not a multiple of the stride: padded inside
    inside = (x.coords[:, 1:] < torch.tensor([7, 11, 3, 15])).all(dim=1)
    kept = SparseTensor(x.coords[inside], x.feats[inside], spatial_range=x.spatial_range)
    final = net(kept).final
    assert final is not None
    expected = to_dense(final.with_feats(final.feats.sigmoid()))[:, :, :56, :88, :24, 0]
    torch.testing.assert_close(net(dense), expected)


def test_every_parameter_learns() -> None:
    net = make(variant="deep_supervision").train()
    output = net(sites())
    assert output.final is not None
    loss = output.final.feats.square().sum() + sum(head.feats.square().sum() for head in output.heads)
    loss.backward()
    silent = [name for name, p in net.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    # A convolution followed by batch norm has no use for a bias, and has none; all else must move.
    assert silent == []


def test_two_runs_give_identical_bits() -> None:
    net, x = make(variant="pruning"), sites(400)
    assert torch.equal(dense_final(net(x)), dense_final(net(x)))


def test_hypercubic_kernels_have_81_taps_and_run() -> None:
    net = make(kernel="hypercubic", variant="pruning")
    assert any(p.shape[0] == 81 for p in net.parameters() if p.ndim == 3)
    assert net(sites()).final is not None


@pytest.mark.parametrize(
    "sizes",
    [
        {"spatial_dims": 4},
        {"encoder_widths": [3, 4]},
        {"refine_widths": [7, 6, 5]},
        {"temporal_strides": [2, 0, 2]},
        {"keep_probability": 1.0},
    ],
)
def test_impossible_sizes_are_refused(sizes: dict[str, object]) -> None:
    with pytest.raises(UserError, match="wanted"):
        make(**sizes)
