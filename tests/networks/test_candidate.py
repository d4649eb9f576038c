"""CandidateNet: about 4 to 5 thousand parameters, space and time both seen, thresholded as probabilities."""

from pathlib import Path

import pytest
import torch

from sparse_ulm.checkpoint import write_checkpoint
from sparse_ulm.errors import UserError, WeightsError
from sparse_ulm.networks import candidate
from sparse_ulm.networks.candidate import (
    N_CHANNELS,
    CandidateNet,
    candidate_features,
    keep_candidates,
    load_candidate_net,
)
from sparse_ulm.sparsify import site_features


def make(spatial_dims: int = 3) -> CandidateNet:
    torch.manual_seed(2)
    return CandidateNet(spatial_dims=spatial_dims, width=4, hidden=6, n_blocks=2).eval()


def shape_of(spatial_dims: int) -> tuple[int, ...]:
    return (5, 6 if spatial_dims == 3 else 1, 7, 9)


@pytest.mark.parametrize(("spatial_dims", "count"), [(2, 4033), (3, 4897)])
def test_the_network_is_small(spatial_dims: int, count: int) -> None:
    assert sum(p.numel() for p in CandidateNet(spatial_dims=spatial_dims).parameters()) == count


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_a_voxel_sees_two_voxels_and_two_frames_through_two_blocks(spatial_dims: int) -> None:
    net = make(spatial_dims)
    # The norm joins all voxels; with its statistics fixed, what is left is the convolutions' reach.
    for block in net.blocks:
        block.norm = torch.nn.Identity()
    shape = shape_of(spatial_dims)
    x = torch.randn(1, N_CHANNELS, *shape, requires_grad=True)
    at = (2, shape[1] // 2, 3, 4)
    net(x)[0, 0][at].backward()
    seen = x.grad.abs().sum(dim=1)[0] > 0
    distance = [abs(torch.arange(n) - i) <= 2 for n, i in zip(shape, at, strict=True)]
    wanted = torch.einsum("x,y,z,t->xyzt", *(d.float() for d in distance)) > 0
    assert torch.equal(seen, wanted)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_a_batch_equals_its_samples_one_by_one(spatial_dims: int) -> None:
    net, x = make(spatial_dims), torch.randn(2, N_CHANNELS, *shape_of(spatial_dims))
    with torch.no_grad():
        torch.testing.assert_close(net(x), torch.cat([net(x[:1]), net(x[1:])]))


def test_moving_in_time_and_space_moves_the_answer() -> None:
    net = make()
    x = torch.zeros(1, N_CHANNELS, 12, 13, 14, 15)
    x[:, :, 4:7, 4:7, 4:7, 4:7] = torch.randn(1, N_CHANNELS, 3, 3, 3, 3)
    with torch.no_grad():
        one, moved = net(x), net(x.roll((1, 2, 3, 4), dims=(2, 3, 4, 5)))
    # Away from the zero padding, which is seen from 2 voxels; the norm sees both blocks alike but for their edges.
    back = moved.roll((-1, -2, -3, -4), dims=(2, 3, 4, 5))
    torch.testing.assert_close(back[..., 3:8, 3:8, 3:8, 3:8], one[..., 3:8, 3:8, 3:8, 3:8], atol=0.02, rtol=0.02)
    assert not torch.allclose(moved, one, atol=0.05)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_every_parameter_learns(spatial_dims: int) -> None:
    net = make(spatial_dims).train()
    net(torch.randn(1, N_CHANNELS, *shape_of(spatial_dims))).square().sum().backward()
    silent = [name for name, p in net.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    assert silent == []


def test_a_few_steps_teach_it_where_the_bright_voxels_are() -> None:
    net = make().train()
    x = 0.1 * torch.randn(1, N_CHANNELS, 5, 6, 7, 8)
    target = torch.zeros(1, 1, 5, 6, 7, 8)
    x[:, 0, 2, 3, 4, :], target[:, :, 2, 3, 4, :] = 1.0, 1.0
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(40):
        p = net(x).sigmoid()
        loss = 1.0 - 2.0 * (p * target).sum() / (p.sum() + target.sum())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.equal(net(x) > 0, target > 0.5)


def test_features_are_those_of_kept_sites() -> None:
    iq, c = (torch.randn(3, 4, 5, 6, dtype=torch.complex64) for _ in range(2))
    coords = torch.tensor([[0, 1, 2, 3], [2, 3, 4, 5]], dtype=torch.int32)
    wanted = site_features(iq, c[coords.long().unbind(1)], coords, noise_rms=0.5, features="magnitude_and_complex")
    dense = candidate_features(iq, c, noise_rms=0.5)
    torch.testing.assert_close(dense[:, *coords.long().unbind(1)].T, wanted)


def test_the_mask_is_probability_above_the_threshold_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidate, "FRAMES_AT_ONCE", 4)
    net = make()
    iq, c = (torch.randn(5, 6, 7, 9, dtype=torch.complex64) for _ in range(2))
    pieces = [slice(0, 4), slice(4, 8), slice(8, 9)]
    with torch.no_grad():
        answers = [net(candidate_features(iq[..., s], c[..., s], noise_rms=0.5)[None])[0, 0] for s in pieces]
    probability = torch.cat(answers, dim=3).sigmoid()
    threshold = float(probability.median())
    assert torch.equal(keep_candidates(net, iq, c, noise_rms=0.5, threshold=threshold), probability > threshold)


def test_weights_are_loaded_or_refused_with_the_config_to_run(tmp_path: Path) -> None:
    torch.manual_seed(3)
    net = CandidateNet(spatial_dims=2)
    path = tmp_path / "candidate_2d.pt"
    write_checkpoint(path, {"model": net.state_dict()})
    loaded = load_candidate_net(path, spatial_dims=2)
    assert not loaded.training
    torch.testing.assert_close(loaded.state_dict(), net.state_dict())
    with pytest.raises(WeightsError, match=r"candidate_weights for a 3D recording.*--spatial_dims 3"):
        load_candidate_net(path, spatial_dims=3)
    with pytest.raises(WeightsError, match="do not exist"):
        load_candidate_net(tmp_path / "none.pt", spatial_dims=2)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="wanted 2 or 3"):
        CandidateNet(spatial_dims=4)
    for shape in [(1, 2, 5, 1, 7, 9), (1, N_CHANNELS, 5, 6, 7, 9)]:
        with pytest.raises(UserError, match="does not fit a CandidateNet"):
            make(2)(torch.zeros(shape))
