"""Whole recordings: seeds, levels, draws, 2D."""

from dataclasses import replace

import numpy as np
import pytest

from sparse_ulm.simulation import (
    ParameterRanges,
    RecordingParameters,
    SimulatedRecording,
    SimulationError,
    VesselTree,
    draw_parameters,
    grow_vessel_tree,
    parameter_ranges,
    simulate_recording,
)
from sparse_ulm.simulation.imaging import render
from sparse_ulm.simulation.kernels import make_psf
from sparse_ulm.simulation.recording import field_of_view, recording_geometry

SMALL = ParameterRanges(grid_size=(11, 12, 13), n_frames=14)


@pytest.fixture(scope="module")
def tree() -> VesselTree:
    return grow_vessel_tree(
        np.random.default_rng(1), box_size_m=(5e-4, 6e-4, 7e-4), n_leaves=60, leaf_radius_m=3e-6, tortuosity=0.1
    )


def drawn(seed: int = 2, ranges: ParameterRanges = SMALL, **changes: object) -> RecordingParameters:
    return replace(draw_parameters(np.random.default_rng(seed), ranges), **({"kernel": "gaussian"} | changes))


def simulated(parameters: RecordingParameters, tree: VesselTree, seed: int = 5) -> SimulatedRecording:
    return simulate_recording(parameters, tree, np.random.default_rng(seed))


@pytest.mark.parametrize("kernel", ["gaussian", "side_lobes"])
def test_same_seed_same_bits_and_other_seed_others(tree: VesselTree, kernel: str) -> None:
    parameters = drawn(kernel=kernel, has_tissue=True)
    one, again, other = (simulated(parameters, tree, seed) for seed in (5, 5, 6))
    assert one.frames.dtype == np.complex64
    assert one.frames.shape == (11, 12, 13, 14)
    np.testing.assert_array_equal(one.frames, again.frames)
    np.testing.assert_array_equal(one.tracks.position_m, again.tracks.position_m)
    assert not np.array_equal(one.frames, other.frames)


def test_count_is_as_asked_in_every_frame(tree: VesselTree) -> None:
    recording = simulated(drawn(n_bubbles=7), tree)
    inside = (np.abs(recording.geometry.to_voxel(recording.tracks.position_m) - [5, 5.5, 6]) <= [5.5, 6, 6.5]).all(1)
    np.testing.assert_array_equal(np.bincount(recording.tracks.frame[inside], minlength=14), 7)
    assert recording.parameters["n_bubbles"] == 7


@pytest.mark.parametrize(("grid", "exponent"), [((11, 12, 13), 3), ((11, 1, 13), 2)])
def test_concentration_counts_psf_volumes(tree: VesselTree, grid: tuple[int, int, int], exponent: int) -> None:
    parameters = drawn(grid_size=grid, bubbles_per_psf_volume=0.8)
    recording = simulated(parameters, tree)
    x, y, z = recording.psf.fwhm_m / recording.geometry.voxel_size_m
    psf_voxels = np.pi / 6 * x * y * z if exponent == 3 else np.pi / 4 * x * z
    assert recording.parameters["n_bubbles"] == round(0.8 * np.prod(grid) / psf_voxels)


def test_snr_is_median_peak_over_noise_rms(tree: VesselTree) -> None:
    recording = simulated(drawn(snr_db=20.0, white_noise_share=0.3), tree)
    bubbles = render(recording.tracks, recording.psf, (11, 12, 13), 14, recording.geometry)
    noise_rms = np.sqrt((np.abs(recording.frames - bubbles) ** 2).mean())
    assert np.median(recording.tracks.amplitude) / noise_rms == pytest.approx(10.0, rel=0.05)
    assert recording.parameters["noise_rms"] == pytest.approx(noise_rms, rel=0.05)


def test_tissue_is_as_far_above_the_bubbles_as_asked(tree: VesselTree) -> None:
    levels = []
    for seed in range(6):
        recording = simulated(drawn(has_tissue=True, tissue_db=30.0), tree, seed)
        levels.append(np.mean(np.abs(recording.frames) ** 2) / np.median(recording.tracks.amplitude) ** 2)
    assert 10 * np.log10(np.mean(levels)) == pytest.approx(30.0, abs=1.5)


def test_a_2d_recording_projects_its_slab(tree: VesselTree) -> None:
    for kernel in ("gaussian", "side_lobes"):
        recording = simulated(drawn(grid_size=(15, 1, 16), kernel=kernel), tree)
        assert recording.frames.shape == (15, 1, 16, 14)
        np.testing.assert_allclose(recording.geometry.to_voxel(recording.tracks.position_m)[:, 1], 0.0, atol=1e-9)


def test_demodulation_keeps_magnitudes(tree: VesselTree) -> None:
    kept, removed = (simulated(drawn(demodulated=d), tree).frames for d in (False, True))
    np.testing.assert_allclose(np.abs(kept), np.abs(removed), atol=1e-5)
    assert not np.allclose(kept, removed, atol=0.1)


def test_geometry_is_centred_on_the_probe_and_states_all() -> None:
    parameters = drawn(transmit_frequency_hz=7.7e6, voxel_size_wavelengths=(0.5, 0.5, 0.4), depth_m=8e-3)
    geometry = recording_geometry(parameters)
    np.testing.assert_allclose(geometry.voxel_size_m, [100e-6, 100e-6, 80e-6])
    np.testing.assert_allclose(geometry.matrix_m[:3, 3], [-500e-6, -550e-6, 8e-3])
    assert geometry.sound_speed_m_s == 1540.0
    box = field_of_view(parameters, geometry)
    np.testing.assert_allclose(box.low_m, [-550e-6, -600e-6, 8e-3 - 40e-6])
    np.testing.assert_allclose(box.high_m, [550e-6, 600e-6, 8e-3 + 12.5 * 80e-6])


def test_draws_stay_in_their_ranges_and_vary() -> None:
    ranges = ParameterRanges(bubbles_per_psf_volume=(0.02, 0.3))
    draws = [draw_parameters(np.random.default_rng(seed), ranges) for seed in range(60)]
    for name, (low, high) in {
        "bubbles_per_psf_volume": (0.02, 0.3), "snr_db": (10, 30), "transmit_frequency_hz": (7e6, 16e6),
        "frame_rate_hz": (400, 1000), "f_number": (0.8, 1.5), "edge_wave_gain": (0, 1), "speed_exponent": (0.6, 1.9),
    }.items():  # fmt: skip
        values = np.array([getattr(d, name) for d in draws])
        assert low <= values.min() < values.max() <= high
        assert np.ptp(values) > 0.5 * (high - low)
    assert 15 < sum(d.kernel == "side_lobes" for d in draws) < 45
    assert np.median([d.bubbles_per_psf_volume for d in draws]) == pytest.approx(np.sqrt(0.02 * 0.3), rel=0.5)


def test_changing_one_range_keeps_the_other_draws() -> None:
    one = draw_parameters(np.random.default_rng(3), SMALL)
    other = draw_parameters(np.random.default_rng(3), replace(SMALL, snr_db=(5.0, 5.0), tissue_share=1.0))
    assert other.snr_db == 5.0
    assert (one.depth_m, one.speed_exponent, one.tissue_db) == (other.depth_m, other.speed_exponent, other.tissue_db)


def test_matrix_array_kernels_are_about_as_wide_as_the_gaussians() -> None:
    """Guards against a draw whose kernel falls apart: widths within the range that simulators showed, and beyond."""
    for seed in range(6):
        parameters = draw_parameters(np.random.default_rng(seed), ParameterRanges(side_lobe_share=1.0))
        psf = make_psf(parameters)
        x, y, z = psf.fwhm_m / parameters.wavelength_m
        assert 1.0 < x < 4.5
        assert 1.0 < y < 4.5
        assert 0.6 < z < 2.0
        assert 0.55 < psf.carrier_rad_m[2] * parameters.wavelength_m / (4 * np.pi) < 1.05


def test_configs_may_give_lists_and_whole_numbers() -> None:
    ranges = parameter_ranges(grid_size=[8, 1, 9], snr_db=[10, 20], frame_rate_hz=500, tissue_share=1)
    assert (ranges.grid_size, ranges.snr_db, ranges.frame_rate_hz) == ((8, 1, 9), (10.0, 20.0), (500.0, 500.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"snr_db": (20, 10)}, "snr_db is"),
        ({"snr_db": (10, 20, 30)}, "snr_db: too many values"),
        ({"snr": 3}, "snr: no such range"),
        ({"frame_rate_hz": 0}, "frame_rate_hz starts at 0"),
        ({"frame_rate_hz": "fast"}, "frame_rate_hz: could not convert"),
        ({"tissue_share": 1.5}, "tissue_share is 1.5"),
        ({"grid_size": (8, 8)}, "grid_size: not enough values"),
        ({"n_frames": 0}, "at least 1 of each"),
        ({"n_bubbles": -1}, "n_bubbles is -1"),
    ],
)
def test_impossible_ranges_are_refused(options: dict, message: str) -> None:
    with pytest.raises(SimulationError, match=message):
        parameter_ranges(**options)
