"""Two ranks take the step that one process takes on the blocks of both."""

from typing import Any

import pytest
import torch
from rank_processes import on_ranks
from torch import Tensor

from sparse_ulm import ranks
from sparse_ulm.batching import collate
from sparse_ulm.errors import RanksError, UserError
from sparse_ulm.localisation_loss import LocalisationLoss
from sparse_ulm.losses import MultiScaleDiceLoss
from sparse_ulm.networks.deep_stulm import DeepStulm
from sparse_ulm.networks.localisation import LocalisationNet
from sparse_ulm.networks.trajectory_map import TrajectoryMapNet
from sparse_ulm.shared_training import average_gradients, start_together
from sparse_ulm.sparse import NormRelu, SparseTensor

RANGE = (1, 8, 4, 12, 16)
SITES = (230, 90, 0)
"""Of the blocks: two of unequal size, and one without any."""


def block(number: int, method: str, dtype: torch.dtype) -> dict[str, Any]:
    """A block of random sites, with bubbles at some of them and at others."""
    generator = torch.Generator().manual_seed(number)
    chosen = torch.randperm(8 * 4 * 12 * 16, generator=generator)[: SITES[number]].sort().values
    coords = torch.stack(torch.unravel_index(chosen, RANGE), dim=1).int()
    feats = torch.randn(len(coords), 4, generator=generator).to(dtype)
    places = torch.rand(40, 4, generator=generator) * torch.tensor([8.0, 4.0, 12.0, 16.0])
    if method == "localisation":
        label = torch.cat([places[:, :3] - 0.5, places[:, 3:].floor(), torch.full((40, 1), 7.0)], dim=1).to(dtype)
    else:
        label = torch.unique((places * torch.tensor([8, 8, 8, 1 / 8])).int(), dim=0)
    return {"image": SparseTensor(coords, feats, spatial_range=RANGE), "label": label}


def make(method: str, dtype: torch.dtype) -> tuple[torch.nn.Module, torch.nn.Module]:
    torch.manual_seed(3)
    if method == "localisation":
        return LocalisationNet(widths=(4, 5, 6)).to(dtype), LocalisationLoss()
    network = TrajectoryMapNet(
        encoder_widths=(4, 5, 6), refine_widths=(5, 4, 3, 2), temporal_strides=(2, 2, 2), variant="cascade",
        max_kept_sites=40,
    )  # fmt: skip
    network.set_phase(1 if method == "first heads" else 3)
    loss = MultiScaleDiceLoss(upsampling=(8, 8, 8), head_miss_weight=0.8, tolerance_voxels=(1.5, 1.5, 2.1))
    return network.to(dtype), loss


def step(method: str, dtype: torch.dtype, numbers: list[int]) -> dict[str, Tensor | None]:
    """The loss, gradients and running statistics of a step on these blocks."""
    network, loss = make(method, dtype)
    batch = collate([block(number, method, dtype) for number in numbers])
    found = loss(network.train()(batch["image"]), batch["label"])
    found.backward()
    average_gradients(network.parameters())
    gradients = {name: p.grad for name, p in network.named_parameters()}
    statistics = {name: value for name, value in network.named_buffers() if "running" in name}
    return {"loss": found.detach()} | gradients | statistics


def step_of_rank(method: str, dtype: torch.dtype, first: int) -> dict[str, Tensor | None]:
    return step(method, dtype, [first + ranks.rank()])


@pytest.mark.parametrize("first", [0, 1], ids=["full", "one empty"])
@pytest.mark.parametrize("method", ["map", "first heads", "localisation"])
def test_two_ranks_take_the_step_of_one_process(method: str, first: int) -> None:
    wanted = step(method, torch.float64, [first, first + 1])
    unused = {name for name, value in wanted.items() if value is None}
    assert bool(unused) == (method == "first heads")
    assert sum(float(value.abs().sum()) > 0 for value in wanted.values() if value is not None) > 20
    one, two = on_ranks(2, step_of_rank, method, torch.float64, first)
    for name, value in wanted.items():
        if value is None:
            assert one[name] is two[name] is None
        else:
            assert torch.equal(one[name], two[name]), name  # or the ranks would drift apart
            torch.testing.assert_close(one[name], value, rtol=1e-9, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")


def test_in_single_precision_they_differ_by_rounding() -> None:
    wanted = step("localisation", torch.float32, [0, 1])
    found, _ = on_ranks(2, step_of_rank, "localisation", torch.float32, 0)
    scale = max(float(value.abs().max()) for name, value in wanted.items() if name != "loss")
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6 * scale)


def norms_of_rank() -> tuple[list[int], Tensor]:
    norm = NormRelu(3)
    x = SparseTensor(
        torch.zeros(1 - ranks.rank(), 5, dtype=torch.int32), torch.ones(1 - ranks.rank(), 3), spatial_range=RANGE
    )
    norm(x).feats.sum().backward()
    return [int(norm.num_batches_tracked)], norm.running_mean


def test_a_single_site_on_all_ranks_has_no_variance() -> None:
    for tracked, mean in on_ranks(2, norms_of_rank):
        assert tracked == [0]
        assert mean.tolist() == [0.0, 0.0, 0.0]


def start_of_rank(kind: str) -> Tensor:
    torch.manual_seed(ranks.rank())
    network = LocalisationNet(widths=(2, 3, 4)) if kind == "sparse" else DeepStulm(spatial_dims=2)
    start_together(network)
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def test_all_start_from_the_parameters_of_the_first() -> None:
    one, two = on_ranks(2, start_of_rank, "sparse")
    assert torch.equal(one, two)
    torch.manual_seed(0)
    assert torch.equal(
        one[:100], torch.cat([p.detach().flatten() for p in LocalisationNet(widths=(2, 3, 4)).parameters()])[:100]
    )


def test_a_network_with_norms_of_one_process_is_refused() -> None:
    for error in on_ranks(2, start_of_rank, "dense"):
        assert isinstance(error, UserError)
        assert "BatchNorm2d layers, whose statistics are those of one process" in str(error)
    start_of_rank("dense")  # alone it may


def sums_of_rank() -> tuple[float, list[float]]:
    x = torch.tensor([1.0 + ranks.rank(), 10.0], requires_grad=True)
    total = ranks.add_up(x)
    (total[0] * total[1]).backward()
    assert x.grad is not None
    return float(total[0]), x.grad.tolist()


def test_sums_and_their_gradients_by_hand() -> None:
    # x = (1, 10) and (2, 10): sums (3, 20); d/dx of each rank's product is (20, 3), and both ranks' come back.
    assert on_ranks(2, sums_of_rank) == [(3.0, [40.0, 6.0])] * 2
    assert sums_of_rank() == (1.0, [10.0, 1.0])


def lonely() -> list[int]:
    if ranks.rank() == 1:
        raise KeyError("lost")
    return ranks.gather(1)


def test_a_rank_that_ends_is_one_line_of_the_others() -> None:
    first, second = on_ranks(2, lonely)
    assert isinstance(second, KeyError)
    assert isinstance(first, RanksError)
    assert "another of the 2 processes ended, or did not answer in time" in str(first)
