"""How much of a block is tissue: each rule by hand, and against a search of all pairs of squares."""

import numpy as np
import pytest

from sparse_ulm.errors import UserError
from sparse_ulm.tissue import components_below_hz, components_by_energy, components_by_similarity


@pytest.mark.parametrize(("share", "n"), [(0.05, 1), (0.6, 1), (0.61, 2), (0.9, 2), (0.91, 3), (0.99, 3), (0.999, 4)])
def test_energy_by_hand(share: float, n: int) -> None:
    assert components_by_energy(np.array([60.0, 30.0, 9.0, 1.0]), share=share) == n


def test_no_energy_is_no_tissue() -> None:
    assert components_by_energy(np.zeros(5), share=0.9) == 0


def courses(*frequencies_hz: float, n_frames: int = 100, frame_rate_hz: float = 500.0) -> np.ndarray:
    time_s = np.arange(n_frames)[:, None] / frame_rate_hz
    return np.exp(2j * np.pi * time_s * np.array(frequencies_hz)) / np.sqrt(n_frames)


@pytest.mark.parametrize(("limit_hz", "n"), [(2.0, 1), (12.0, 2), (29.0, 2), (31.0, 4), (99.0, 4)])
def test_frequency_by_hand(limit_hz: float, n: int) -> None:
    """Of either sign, and a slow one behind the first fast one is no tissue."""
    found = components_below_hz(courses(0.0, 10.0, -30.0, 5.0, 100.0), frame_rate_hz=500.0, limit_hz=limit_hz)
    assert found == n


def test_a_limit_that_nothing_exceeds_is_refused() -> None:
    with pytest.raises(UserError, match=r"tissue_below_hz is 150\.0, but no component of 100 frames .* above 100 Hz"):
        components_below_hz(courses(0.0, 100.0), frame_rate_hz=500.0, limit_hz=150.0)


def images(n_tissue: int, n_blood: int, n_noise: int, *, seed: int) -> np.ndarray:
    """Images of tissue share one pattern, those of blood another, and noise none."""
    rng = np.random.default_rng(seed)
    pattern = rng.uniform(size=(2, 500))
    parts = [
        pattern[i][:, None] + 0.3 * rng.uniform(size=(500, n)) for i, n in ((0, n_tissue), (1, n_blood))
    ]  # fmt: skip
    return np.hstack([*parts, rng.uniform(size=(500, n_noise))]) * rng.uniform(0.1, 9.0, n_tissue + n_blood + n_noise)


@pytest.mark.parametrize(("n_tissue", "n_blood", "n_noise"), [(1, 9, 6), (7, 5, 4), (3, 4, 0), (12, 3, 20)])
def test_two_patterns_are_told_apart(n_tissue: int, n_blood: int, n_noise: int) -> None:
    assert components_by_similarity(images(n_tissue, n_blood, n_noise, seed=n_tissue)) == n_tissue


def test_the_pair_of_squares_is_the_best_of_all() -> None:
    """numpy's corrcoef of every mask with the matrix."""
    found = np.random.default_rng(4).uniform(size=(30, 9)) ** 3
    alike = np.corrcoef(found.T)
    scores = {}
    for a in range(1, 9):
        for b in range(a + 1, 10):
            mask = np.zeros((9, 9))
            mask[:a, :a] = mask[a:b, a:b] = 1.0
            scores[a, b] = np.corrcoef(mask.ravel(), alike.ravel())[0, 1]
    assert components_by_similarity(found) == max(scores, key=scores.__getitem__)[0]


def test_one_component_and_flat_images_are_no_reason_to_fail() -> None:
    assert components_by_similarity(np.ones((5, 1))) == 0
    assert 1 <= components_by_similarity(np.ones((5, 4))) <= 3
