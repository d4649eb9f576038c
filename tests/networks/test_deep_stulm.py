"""DeepStulm: its published size, its convolutions against PyTorch's own, and where it stands in for the sparse one."""

import pytest
import torch

from sparse_ulm.batching import split_output
from sparse_ulm.errors import UserError
from sparse_ulm.losses import MultiScaleDiceLoss
from sparse_ulm.networks.deep_stulm import DeepStulm
from sparse_ulm.networks.dense_blocks import (
    SpaceTimeConv,
    double_space,
    max_over_space,
    max_over_time,
    pad_to_multiple,
)
from sparse_ulm.networks.trajectory_map import TrajectoryMapOutput
from sparse_ulm.sparse import SparseTensor, to_dense

SMALL = {"encoder_widths": [4, 5, 6], "refine_width": 3, "output_width": 2, "temporal_strides": [2, 2, 2, 1]}


def make(**sizes: object) -> DeepStulm:
    torch.manual_seed(1)
    return DeepStulm(**(SMALL | sizes)).eval()  # type: ignore[arg-type]


def sites(spatial_range: tuple[int, ...], n: int = 40) -> SparseTensor:
    generator = torch.Generator().manual_seed(4)
    columns = [torch.randint(0, size, (n,), generator=generator, dtype=torch.int32) for size in spatial_range]
    coords = torch.unique(torch.stack(columns, dim=1), dim=0)
    return SparseTensor(coords, torch.randn(len(coords), 2, generator=generator), spatial_range=spatial_range)


def test_the_published_network_has_the_published_number_of_parameters() -> None:
    assert sum(p.numel() for p in DeepStulm().parameters()) == 1_038_065


def test_convolution_over_2d_and_time_is_pytorchs_conv3d() -> None:
    conv = SpaceTimeConv(3, 4, spatial_dims=2, taps=3, temporal_taps=5)
    x = torch.randn(6, 2, 3, 7, 8)
    kernel = conv.kernel.permute(1, 2, 0, 3, 4)  # (t, out, in, x, z) -> (out, in, t, x, z)
    wanted = torch.nn.functional.conv3d(x.permute(1, 2, 0, 3, 4), kernel, conv.bias, padding=(2, 1, 1))
    torch.testing.assert_close(conv(x), wanted.permute(2, 0, 1, 3, 4), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("n_frames", [1, 2, 6])
def test_convolution_over_3d_and_time_of_a_separable_kernel_is_two_convolutions(n_frames: int) -> None:
    conv = SpaceTimeConv(1, 1, spatial_dims=3, taps=3, temporal_taps=5)
    in_space, in_time = torch.randn(1, 1, 3, 3, 3), torch.randn(1, 1, 5)
    with torch.no_grad():
        conv.kernel.copy_(in_time.reshape(5, 1, 1, 1, 1, 1) * in_space)
    x = torch.randn(n_frames, 2, 1, 4, 5, 6)
    blurred = torch.nn.functional.conv3d(x.flatten(0, 1), in_space, padding=1).unflatten(0, (n_frames, 2))
    lines = torch.nn.functional.conv1d(blurred.permute(1, 3, 4, 5, 2, 0).reshape(-1, 1, n_frames), in_time, padding=2)
    wanted = lines.reshape(2, 4, 5, 6, 1, n_frames).permute(5, 0, 4, 1, 2, 3) + conv.bias
    torch.testing.assert_close(conv(x), wanted, atol=1e-5, rtol=1e-5)


def test_pooling_doubling_and_padding_by_hand() -> None:
    x = torch.arange(2 * 2 * 4.0).reshape(2, 1, 1, 2, 4)
    assert max_over_time(x, 2).flatten().tolist() == list(range(8, 16))
    assert max_over_space(x).flatten().tolist() == [5, 7, 13, 15]
    assert double_space(x)[0, 0, 0, :, :4].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [4, 4, 5, 5], [4, 4, 5, 5]]
    assert pad_to_multiple(torch.ones(3, 5, 6, 7), [4, 3, 2]).sum(dim=(1, 2, 3)).tolist() == [210] * 3
    assert pad_to_multiple(torch.ones(3, 5, 6, 7), [4, 3, 2]).shape == (3, 8, 6, 8)


@pytest.mark.parametrize(
    ("dims", "strides", "shape", "map_shape"),
    [
        (2, [4, 4, 2, 2], (2, 2, 20, 1, 28, 128), (2, 1, 160, 1, 224)),
        (2, [2, 2, 2, 1], (1, 2, 7, 1, 9, 11), (1, 1, 56, 1, 72)),
        (3, [2, 2, 2, 2], (1, 2, 4, 5, 8, 16), (1, 1, 32, 40, 64)),
    ],
)
def test_maps_of_blocks_of_unequal_sizes(
    dims: int, strides: list[int], shape: tuple[int, ...], map_shape: tuple[int, ...]
) -> None:
    net = make(spatial_dims=dims, temporal_strides=strides)
    with torch.no_grad():
        answer = net(torch.randn(shape))
    assert answer.shape == map_shape
    assert 0 < float(answer.min()) <= float(answer.max()) < 1
    assert answer.std() > 0


@pytest.mark.parametrize(("dims", "spatial_range"), [(2, (2, 8, 1, 12, 16)), (3, (2, 4, 8, 4, 8))])
def test_a_sparse_batch_is_a_dense_one_with_zeros(dims: int, spatial_range: tuple[int, ...]) -> None:
    net, x = make(spatial_dims=dims), sites(spatial_range)
    with torch.no_grad():
        output, dense = net(x), net(to_dense(x))
    assert isinstance(output, TrajectoryMapOutput)
    assert output.heads == ()
    assert output.final is not None
    shape = [size * factor for size, factor in zip(spatial_range[1:4], net.upsampling, strict=True)]
    assert output.final.spatial_range == (2, *shape, 1)
    torch.testing.assert_close(to_dense(output.final)[..., 0].sigmoid(), dense)
    # Sites made without checks obey the checks: sorted, unique, inside.
    checked = SparseTensor(output.final.coords, output.final.feats, spatial_range=output.final.spatial_range)
    assert torch.equal(checked.coords, output.final.coords)
    assert [len(table) for table in split_output(output, 2)] == [dense[0].numel()] * 2


def test_strides_are_told() -> None:
    net = make(temporal_strides=[4, 4, 2, 2])
    assert (net.slot_frames, net.site_multiple, net.upsampling) == (32, (4, 1, 4, 64), (8, 1, 8))
    assert make(spatial_dims=3).site_multiple == (4, 4, 4, 8)
    assert make(spatial_dims=3).upsampling == (8, 8, 8)


def test_a_batch_equals_its_samples_one_by_one() -> None:
    net, x = make(), torch.randn(2, 2, 8, 1, 12, 16)
    with torch.no_grad():
        torch.testing.assert_close(net(x), torch.cat([net(x[:1]), net(x[1:])]))


def test_moving_a_block_by_a_stride_moves_the_map_away_from_the_edges() -> None:
    net = make()
    # The edges' zero padding is seen from 44 voxels away: one axis is long enough, the other keeps the test cheap.
    x = torch.zeros(1, 2, 160, 1, 4, 8)
    x[:, :, 70:90] = 100.0 * torch.randn(1, 2, 20, 1, 4, 8)  # an untrained network answers faintly
    with torch.no_grad():
        one, moved = net(x), net(x.roll(4, dims=2))
    inside = slice(8 * 50, 8 * 110)
    torch.testing.assert_close(moved.roll(-32, dims=2)[:, :, inside], one[:, :, inside], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(moved[:, :, inside], one[:, :, inside], atol=1e-4)


def test_a_part_of_the_grid_is_refined_as_in_the_whole() -> None:
    """What benchmarks/dense_memory.py relies on to refine a large block in slabs."""
    net, x = make(spatial_dims=3), torch.randn(2, 1, 6, 16, 3, 4)
    net.narrow = torch.nn.Identity()  # features of the V-net are drawn here
    x = x[:, :, :3]
    with torch.no_grad():
        whole, part = net.refine(x), net.refine(x[..., 3:14, :, :])
    torch.testing.assert_close(part[:, :, 8 * 5 : 8 * 6], whole[:, :, 8 * 8 : 8 * 9], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
def test_every_parameter_learns(dims: int) -> None:
    net = make(spatial_dims=dims)  # eval: behind a batch norm in training a bias has no effect
    net(torch.randn(1, 2, 4, 1 if dims == 2 else 4, 8, 8)).sum().backward()
    silent = [name for name, p in net.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    assert silent == []


def test_a_few_steps_fit_one_block() -> None:
    net = make(encoder_widths=[4, 6, 6], refine_width=6, output_width=4).train()
    # A bubble on the diagonal in every frame, and the band that it covers on the refined grid.
    coords = torch.tensor([[0, i, 0, i + 2, 2 * i] for i in range(4)], dtype=torch.int32)
    x = SparseTensor(coords, torch.ones(4, 2), spatial_range=(1, 4, 1, 8, 8))
    near = [[0, x, 0, z, 0] for x in range(32) for z in range(64) if abs(z - x - 16) < 6]
    truth = torch.tensor(near, dtype=torch.int32)
    loss = MultiScaleDiceLoss(upsampling=net.upsampling, head_miss_weight=0.5)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    values = []
    for _ in range(25):
        value = loss(net(x), truth)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[0] > 0.7
    assert values[-1] < 0.5 * values[0]


@pytest.mark.parametrize(
    "sizes",
    [{"spatial_dims": 4}, {"encoder_widths": [4, 5]}, {"temporal_strides": [2, 2, 2]}, {"encoder_widths": [5, 5, 6]}],
)
def test_impossible_sizes_are_refused(sizes: dict[str, object]) -> None:
    with pytest.raises(UserError, match="want"):
        make(**sizes)


@pytest.mark.parametrize("shape", [(1, 4, 8, 1, 8, 8), (1, 2, 8, 4, 8, 8)])
def test_a_block_of_other_features_or_axes_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="does not fit the dense network"):
        make()(torch.randn(shape))
