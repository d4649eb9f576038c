"""Which voxels are kept, and what is said about them."""

import math

import pytest
import torch
from scipy import signal

from sparse_ulm.errors import UserError
from sparse_ulm.sparsify import (
    keep_by_correlation,
    keep_by_noise,
    keep_top_k,
    largest_magnitude,
    measure_noise_rms,
    select_sites,
    site_features,
)

SETTINGS = {
    "noise_factor": 2.5,
    "correlation_threshold": 0.25,
    "max_sites": 10_000,
    "floor_db": -60.0,
    "noise_rms": 1.0,
}


@pytest.fixture
def noise() -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return 3.0 * torch.randn(20, 21, 22, 23, generator=generator, dtype=torch.complex64)  # E|n|^2 = 9


@pytest.mark.parametrize("noise_measure", ["faintest", "differences"])
def test_noise_rms_is_measured(noise: torch.Tensor, noise_measure: str) -> None:
    assert measure_noise_rms(noise, noise_measure=noise_measure) == pytest.approx(3.0, rel=0.03)


def test_noise_is_measured_where_every_voxel_holds_a_slow_bubble(noise: torch.Tensor) -> None:
    t = torch.arange(23.0)
    bubbles = 60.0 * torch.polar(torch.ones_like(t), 0.05 * t)
    assert measure_noise_rms(noise + bubbles, noise_measure="differences") == pytest.approx(3.0, rel=0.03)
    assert measure_noise_rms(noise + bubbles) > 30.0


def test_noise_filtered_along_time_is_read_off_the_faintest_voxels() -> None:
    sections = signal.butter(2, [50.0, 249.0], "bandpass", fs=1000.0, output="sos")  # PALA's
    noise = torch.randn(9, 10, 11, 200, generator=torch.Generator().manual_seed(0), dtype=torch.complex64)
    filtered = torch.from_numpy(signal.sosfilt(sections, noise.numpy(), axis=3).astype("complex64"))[..., 60:]
    rms = float(filtered.abs().square().mean().sqrt())
    assert measure_noise_rms(filtered, noise_measure="differences") == pytest.approx(rms, rel=0.05)


def test_the_brightest_sample_is_found_whatever_the_order_in_memory(noise: torch.Tensor) -> None:
    noise[3, 4, 5, 6] = 300.0 - 400.0j
    assert largest_magnitude(noise) == pytest.approx(500.0)
    assert largest_magnitude(noise.permute(2, 0, 3, 1)) == pytest.approx(500.0)


def test_unknown_noise_measure_is_refused(noise: torch.Tensor) -> None:
    with pytest.raises(UserError, match="wanted one of"):
        measure_noise_rms(noise, noise_measure="guess")


@pytest.mark.parametrize("noise_measure", ["faintest", "differences"])
def test_a_large_block_is_measured_from_voxels_of_all_its_planes(noise_measure: str) -> None:
    block = torch.randn(64, 32, 64, 32, generator=torch.Generator().manual_seed(3), dtype=torch.complex64)
    block[:, :, ::2] *= 20.0  # a draw that only saw even planes would say 20, one of odd planes 1
    # one half of the samples is (almost) never among the faintest 5 %: 10 % of the other half
    expected = math.sqrt(math.log(1.0 - 0.1) / math.log(1.0 - 0.05))
    assert measure_noise_rms(block, noise_measure=noise_measure) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(("occupied", "error"), [(0.1, 0.1), (0.5, 0.55)])
def test_noise_rms_hardly_sees_bubbles_or_masked_sectors(noise: torch.Tensor, occupied: float, error: float) -> None:
    block = noise.clone()
    block[: round(20 * occupied)] += 100.0
    block[-2:] = 0
    assert measure_noise_rms(block) == pytest.approx(3.0, rel=error)
    assert measure_noise_rms(block, noise_measure="differences") == pytest.approx(3.0, rel=0.03)


def test_noise_of_nothing_is_zero() -> None:
    assert measure_noise_rms(torch.zeros(3, 4, 5, 6, dtype=torch.complex64)) == 0.0


def test_noise_alone_keeps_the_share_that_theory_gives(noise: torch.Tensor) -> None:
    kept = keep_by_noise(noise, noise_factor=1.5, noise_rms=3.0, floor_db=-60.0)
    assert float(kept.float().mean()) == pytest.approx(math.exp(-(1.5**2)), rel=0.03)


def test_floor_keeps_the_tails_of_a_noiseless_bubble_out() -> None:
    block = torch.tensor([1.0, 0.5, 0.04, 1e-6], dtype=torch.complex64).reshape(1, 1, 4, 1)
    kept = keep_by_noise(block, noise_factor=2.5, noise_rms=1e-9, floor_db=-20.0)
    assert kept.flatten().tolist() == [True, True, False, False]


def test_correlation_rule_is_on_the_squared_magnitude() -> None:
    c = torch.tensor([0.49, 0.51, 0.51j, -0.6], dtype=torch.complex64).reshape(1, 2, 2, 1)
    assert keep_by_correlation(c, threshold=0.25).flatten().tolist() == [False, True, True, True]


def test_top_k_keeps_the_strongest_and_never_zeros() -> None:
    block = torch.tensor([0.0, 3.0, -5.0, 4.0j, 0.0], dtype=torch.complex64).reshape(1, 1, 5, 1)
    assert keep_top_k(block, k=2).flatten().tolist() == [False, False, True, True, False]
    assert int(keep_top_k(block, k=5).sum()) == 3


@pytest.mark.parametrize("rule", ["iq_over_noise", "correlation_over_noise", "correlation_power", "top_k"])
def test_budget_keeps_the_strongest(noise: torch.Tensor, rule: str) -> None:
    block = noise / noise.abs().max()
    kept = select_sites(block, block, rule=rule, **(SETTINGS | {"max_sites": 50, "noise_rms": 0.01}))
    strongest = torch.sort(block.abs().flatten(), descending=True).values[49]
    assert int(kept.sum()) == 50
    assert float(block.abs()[kept].min()) == pytest.approx(float(strongest))


def test_a_dense_network_is_given_every_voxel_whatever_the_budget(noise: torch.Tensor) -> None:
    assert bool(select_sites(0 * noise, noise, rule="all", **(SETTINGS | {"max_sites": 5})).all())


def test_unknown_rule_is_refused(noise: torch.Tensor) -> None:
    with pytest.raises(UserError, match="wanted iq_over_noise"):
        select_sites(noise, noise, rule="best", **SETTINGS)


def test_features_by_hand() -> None:
    iq = torch.zeros(2, 3, 4, 5, dtype=torch.complex64)
    c = torch.zeros_like(iq)
    iq[1, 2, 3, 4], c[1, 2, 3, 4] = 6.0j, 0.6 - 0.8j
    coords = torch.tensor([[1, 2, 3, 4], [0, 0, 0, 0]], dtype=torch.int32)
    found = site_features(iq, c[coords.long().unbind(1)], coords, noise_rms=2.0, features="magnitude_and_complex")
    expected = torch.tensor([[math.log(4.0) / 4, 1.0, 0.6, -0.8], [0.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        site_features(iq, c[coords.long().unbind(1)], coords, noise_rms=2.0, features="complex"), expected[:, 2:]
    )


def test_features_do_not_depend_on_gain(noise: torch.Tensor) -> None:
    coords = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]], dtype=torch.int32)
    one = site_features(noise, noise[coords.long().unbind(1)], coords, noise_rms=3.0, features="magnitude_and_complex")
    other = site_features(
        7 * noise, noise[coords.long().unbind(1)], coords, noise_rms=21.0, features="magnitude_and_complex"
    )
    torch.testing.assert_close(one, other)


def test_unknown_features_are_refused(noise: torch.Tensor) -> None:
    with pytest.raises(UserError, match="magnitude_and_complex"):
        site_features(noise, noise[0, 0, 0, :1], torch.zeros(1, 4, dtype=torch.int32), noise_rms=1.0, features="all")
