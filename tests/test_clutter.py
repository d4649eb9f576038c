"""Clutter removal against a full singular value decomposition."""

import numpy as np
import pytest
import torch

from sparse_ulm.clutter import remove_tissue
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
