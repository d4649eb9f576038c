"""The pipeline on one recording: blocks of any length, gaps of clutter, stored correlation maps."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from track_cases import CUBIC

from sparse_ulm.acquisition import Acquisition
from sparse_ulm.classical.pipeline import Recorded, process
from sparse_ulm.classical.presets import find_preset
from sparse_ulm.clutter import ClutterFilter
from sparse_ulm.errors import UserError
from sparse_ulm.filtered import filtered

SHAPE = (13, 12, 14, 30)
RECORDED = Recorded(
    block_frames=30, noise_measure="faintest", psf_fwhm_wavelengths=(1.2, 1.2, 1.2),
)  # fmt: skip


def path_of(t):
    """Where the bubble is, in voxels."""
    return np.stack([3.0 + 0.2 * t, 5.3 + 0.05 * t, 9.0 - 0.15 * t], axis=-1)


def recording(shape=SHAPE, *, content="iq", noise=0.02, missed=()):
    """One Gaussian bubble, 1.2 wavelengths wide, that is missing in some frames."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape[:3]), indexing="ij"), axis=-1)[:, :, :, None]
    sigma_voxel = 1.2 * CUBIC.wavelength_m / 0.1e-3 / 2.3548
    place = path_of(np.arange(shape[3]))
    if shape[1] == 1:
        place[:, 1] = 0.0
    frames = np.exp(-0.5 * ((index - place) ** 2).sum(axis=-1) / sigma_voxel**2).astype(np.complex64)
    frames[..., list(missed)] = 0.0
    rng = np.random.default_rng(0)
    frames = (frames + noise * (rng.normal(size=shape) + 1j * rng.normal(size=shape))).astype(np.complex64)
    return Acquisition("bubble", Path("bubble.npz"), shape, CUBIC, content, lambda a, b: frames[..., a:b])


@pytest.mark.parametrize("preset", ["gaussian_kalman", "open3dulm"])
def test_a_bubble_is_one_track_along_its_path(preset):
    result = process(recording(), find_preset(preset, n_brightest=1), RECORDED)
    assert set(result.tracks.track_id) == {0}
    assert len(result.tracks) >= 28
    assert result.map.shape_refined == (104, 96, 112)
    error = result.tracks.position_voxel - path_of(result.tracks.frame)
    assert np.abs(error).max() < 0.15
    assert np.abs(error.mean(axis=0)).max() < 0.02


@pytest.mark.parametrize("block_frames", [1, 7, 11])
def test_blocks_of_any_length_give_the_same_tracks(block_frames):
    preset = find_preset("gaussian_kalman", n_brightest=1)
    whole, cut = (process(recording(), preset, replace(RECORDED, block_frames=n)) for n in (30, block_frames))
    # The noise is measured in each block, so that deviations differ a little.
    np.testing.assert_array_equal(cut.tracks.frame, whole.tracks.frame)
    np.testing.assert_allclose(cut.tracks.position_voxel, whole.tracks.position_voxel, atol=0.03)
    np.testing.assert_array_equal(cut.localisations.frame, whole.localisations.frame)


def test_a_missing_frame_at_the_edge_of_a_block_is_bridged():
    preset = find_preset("gaussian_kalman", n_brightest=1, noise_factor=8.0, max_gap_frames=1)
    result = process(recording(missed=[15]), preset, replace(RECORDED, block_frames=15))
    assert 15 not in result.localisations.frame
    assert set(result.tracks.track_id) == {0}
    [row] = np.flatnonzero(result.tracks.frame == 15)
    np.testing.assert_allclose(result.tracks.position_voxel[row], path_of(np.array(15)), atol=0.15)


def test_2d_recordings_are_refined_in_their_plane():
    result = process(recording((13, 1, 14, 30)), find_preset("gaussian_kalman", n_brightest=1), RECORDED)
    assert result.map.shape_refined == (104, 1, 112)
    np.testing.assert_allclose(result.tracks.position_voxel[:, 1], 0.0, atol=1e-9)
    assert result.map.density().dense().sum() > 20


def test_a_stored_correlation_map_is_past_the_filters():
    preset = find_preset("gaussian_kalman", n_brightest=1)
    clutter = ClutterFilter(n_tissue_components=29, band_pass_hz=(100.0, 200.0))
    stored, iq = (filtered(recording(content=content), clutter) for content in ("correlation", "iq"))
    assert len(process(stored, preset, RECORDED).tracks) >= 28
    assert len(process(iq, preset, RECORDED).tracks) < 28


@pytest.mark.parametrize(
    "clutter",
    [
        {"n_tissue_components": 1},
        {"n_tissue_components": "adaptive"},
        {"tissue_energy_share": 0.9},
        {"tissue_below_hz": 2.0},
        {"band_pass_hz": (4.0, 240.0)},
    ],
    ids=str,
)
def test_a_bright_object_at_rest_is_the_map_unless_it_is_filtered_out(clutter):
    moving = recording((13, 12, 14, 60))
    away = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE[:3]), indexing="ij"), axis=-1) - [10, 3, 3]
    rest = 20.0 * np.exp(-0.5 * (away**2).sum(axis=-1)).astype(np.complex64)
    still = replace(moving, read=lambda a, b: moving.read(a, b) + rest[..., None])
    preset, recorded = find_preset("gaussian_kalman", n_brightest=1), replace(RECORDED, block_frames=60)
    seen, kept = (process(filtered(still, ClutterFilter(**c)), preset, recorded).tracks for c in ({}, clutter))
    assert np.ptp(seen.position_voxel, axis=0).max() < 0.1
    error = kept.position_voxel - path_of(kept.frame)
    assert len(kept) > 40
    assert np.median(np.abs(error)) < 0.2


def test_settings_that_leave_no_way_to_smooth_are_refused():
    preset = replace(find_preset("open3dulm", n_brightest=1), smooth_span=None)
    with pytest.raises(UserError, match="smooth_span and bend_radius_m are both null"):
        process(recording(), preset, RECORDED)
