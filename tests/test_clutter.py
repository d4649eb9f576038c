"""Clutter removal against a full singular value decomposition."""

import numpy as np
import pytest
import torch

from sparse_ulm.clutter import band_pass, remove_tissue
from sparse_ulm.errors import UserError


@pytest.fixture
def block() -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(5, 6, 7, 8, generator=generator, dtype=torch.complex64)


def test_static_tissue_is_removed_and_a_moving_bubble_stays(block: torch.Tensor) -> None:
    tissue = 100.0 * block[..., :1].expand(5, 6, 7, 8)
    bubble = torch.zeros(5, 6, 7, 8, dtype=torch.complex64)
    for t in range(8):
        bubble[t % 5, 2, t % 7, t] = 1.0
    filtered = remove_tissue(tissue + bubble, n_components=1)
    assert filtered.abs().mean() < 0.02 * tissue.abs().mean()
    assert (filtered - bubble).abs().max() < 0.5
    assert filtered[1, 2, 1, 1].abs() > 0.5


@pytest.mark.parametrize("n_components", [1, 3, 7])
def test_agrees_with_a_full_svd(block: torch.Tensor, n_components: int) -> None:
    u, s, vh = np.linalg.svd(block.reshape(-1, 8).numpy().astype(np.complex128), full_matrices=False)
    s[:n_components] = 0
    expected = ((u * s) @ vh).reshape(5, 6, 7, 8)
    filtered = remove_tissue(block, n_components=n_components).numpy()
    # complex64 output: rounding of the inputs, 1e-7, times the norm of a voxel's time course
    np.testing.assert_allclose(filtered, expected, atol=2e-5)


def test_removing_none_changes_nothing(block: torch.Tensor) -> None:
    assert torch.equal(remove_tissue(block, n_components=0), block)


def test_filtering_ignores_the_order_of_voxels(block: torch.Tensor) -> None:
    mirrored = remove_tissue(block.flip(0), n_components=2).flip(0)
    torch.testing.assert_close(mirrored, remove_tissue(block, n_components=2), atol=2e-5, rtol=0)


@pytest.mark.parametrize("n_components", [-1, 8, 100])
def test_impossible_count_is_refused(block: torch.Tensor, n_components: int) -> None:
    with pytest.raises(UserError, match="wanted 0 to 7"):
        remove_tissue(block, n_components=n_components)


def sines(frequencies_hz, *, n_frames=200, frame_rate_hz=500.0):
    """A block (5, 1, 2, t) of complex oscillations, all of these frequencies in every voxel."""
    time_s = torch.arange(n_frames) / frame_rate_hz
    signal = sum(torch.exp(2j * torch.pi * f * time_s) for f in frequencies_hz)
    return signal.expand(5, 1, 2, n_frames).to(torch.complex64)


@pytest.mark.parametrize(("frequency_hz", "gain"), [(0.0, 0.0), (1.0, 0.0), (80.0, 1.0), (-80.0, 1.0), (245.0, 0.0)])
def test_band_pass_keeps_its_band_of_either_sign_without_delay(frequency_hz, gain):
    block = sines([frequency_hz])
    filtered = band_pass(block, band_hz=(20.0, 200.0), frame_rate_hz=500.0)
    middle = slice(60, 140)  # away from the ends
    torch.testing.assert_close(filtered[..., middle], gain * block[..., middle], atol=0.05, rtol=0.0)


@pytest.mark.parametrize("n_frames", [1, 2, 7])
def test_band_pass_takes_short_blocks(n_frames):
    filtered = band_pass(sines([80.0], n_frames=n_frames), band_hz=(20.0, 200.0), frame_rate_hz=500.0)
    assert filtered.shape == (5, 1, 2, n_frames)
    assert filtered.dtype == torch.complex64
    assert torch.isfinite(filtered.abs()).all()


@pytest.mark.parametrize("band_hz", [(0.0, 100.0), (100.0, 50.0), (50.0, 250.0)])
def test_band_pass_refuses_what_the_frame_rate_does_not_resolve(band_hz):
    with pytest.raises(UserError, match=r"band_pass_hz is .* at 500\.0 frames a second; wanted .* < 250\.0"):
        band_pass(sines([80.0]), band_hz=band_hz, frame_rate_hz=500.0)
