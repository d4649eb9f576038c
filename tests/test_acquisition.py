"""Geometry puts every voxel of every grid where it belongs; an acquisition refuses what cannot be used."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparse_ulm.acquisition import Acquisition, Geometry, as_rows, block_ranges
from sparse_ulm.errors import RecordingError

GEOMETRY = Geometry.from_voxel_size(
    (1.0e-4, 2.0e-4, 5.0e-5),
    (1.0e-3, -2.0e-3, 3.5e-3),
    frame_rate_hz=800.0,
    transmit_frequency_hz=7.7e6,
    sound_speed_m_s=1540.0,
)
TURNED = Geometry(as_rows(GEOMETRY.matrix_m[[1, 2, 0, 3]]), 800.0, 7.7e6, 1540.0)


def make(shape: tuple[int, int, int, int], samples: np.ndarray) -> Acquisition:
    return Acquisition("rec", Path("rec.nii"), shape, GEOMETRY, "iq", lambda start, stop: samples[..., start:stop])


def test_voxel_size_wavelength_and_millimetres():
    assert GEOMETRY.voxel_size_m == (1.0e-4, 2.0e-4, 5.0e-5)
    assert TURNED.voxel_size_m == (1.0e-4, 2.0e-4, 5.0e-5)  # sizes belong to the array's axes, however they point
    assert GEOMETRY.wavelength_m == pytest.approx(2.0e-4, rel=1e-12)
    wanted = [[0.1, 0, 0, 1], [0, 0.2, 0, -2], [0, 0, 0.05, 3.5], [0, 0, 0, 1]]
    np.testing.assert_allclose(GEOMETRY.affine_mm, wanted, rtol=1e-12)


def test_position_zero_is_the_centre_of_the_first_voxel():
    np.testing.assert_allclose(GEOMETRY.to_scanner_m(np.zeros((1, 3))), [[1.0e-3, -2.0e-3, 3.5e-3]], rtol=1e-12)
    np.testing.assert_allclose(GEOMETRY.to_scanner_m(np.array([[2.0, 0.5, -1.0]])), [[1.2e-3, -1.9e-3, 3.45e-3]])


def test_scanner_and_voxel_positions_are_inverse():
    position_voxel = np.random.default_rng(0).normal(size=(7, 3)) * 20
    for geometry in (GEOMETRY, TURNED):
        np.testing.assert_allclose(geometry.to_voxel(geometry.to_scanner_m(position_voxel)), position_voxel, atol=1e-10)


@pytest.mark.parametrize("geometry", [GEOMETRY, TURNED])
@pytest.mark.parametrize("factor", [(8, 8, 8), (8, 1, 8), (2, 4, 8)])
def test_refined_voxels_tile_their_voxel_exactly(geometry, factor):
    refined = geometry.refined(factor)
    # the mean of all sub-voxel centres of voxel (2, 3, 4) is that voxel's centre
    parts = np.stack(np.meshgrid(*map(np.arange, factor), indexing="ij"), axis=-1).reshape(-1, 3)
    centres = refined.to_scanner_m((np.array([2, 3, 4]) * factor + parts).astype(float))
    np.testing.assert_allclose(centres.mean(axis=0), geometry.to_scanner_m(np.array([[2.0, 3, 4]]))[0], rtol=1e-10)
    np.testing.assert_allclose(refined.voxel_size_m, np.divide(geometry.voxel_size_m, factor), rtol=1e-12)
    assert (refined.frame_rate_hz, refined.sound_speed_m_s) == (800.0, 1540.0)


def test_refined_by_eight_starts_seven_sixteenths_of_a_voxel_before():
    first_mm = GEOMETRY.refined((8, 1, 8)).affine_mm[:3, 3]
    np.testing.assert_allclose(first_mm, [1 - 0.1 * 7 / 16, -2, 3.5 - 0.05 * 7 / 16], rtol=1e-12)


@pytest.mark.parametrize(
    ("affine", "pattern"),
    [
        (np.diag([1e-4, 0.0, 1e-4, 1]), "invertible"),
        (np.diag([1e-4, np.nan, 1e-4, 1]), "finite"),
        (np.eye(3), "4x4"),
    ],
)
def test_affine_that_is_none_is_refused(affine, pattern):
    with pytest.raises(RecordingError, match=pattern):
        Geometry(as_rows(affine), 800.0, 7.7e6, 1540.0)


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
@pytest.mark.parametrize("position", [0, 1, 2])
def test_physics_that_is_none_is_refused(value, position):
    numbers = [800.0, 7.7e6, 1540.0]
    numbers[position] = value
    name = ("frame_rate_hz", "transmit_frequency_hz", "sound_speed_m_s")[position]
    with pytest.raises(RecordingError, match=f"{name} is {value}; wanted a positive number"):
        Geometry(GEOMETRY.affine_m, *numbers)


def test_frames_are_those_asked_for():
    samples = np.arange(5 * 6 * 7 * 8).reshape(5, 6, 7, 8).astype(np.complex64)
    acquisition = make((5, 6, 7, 8), samples)
    np.testing.assert_array_equal(acquisition.frames(2, 5), samples[..., 2:5])
    assert (acquisition.n_frames, acquisition.spatial_dims) == (8, 3)
    assert make((5, 1, 7, 8), samples[:, :1]).spatial_dims == 2


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (3, 3), (5, 2), (6, 9)])
def test_frames_outside_are_refused(start, stop):
    with pytest.raises(RecordingError, match=rf"frames {start}:{stop} asked for, but it holds 0:8"):
        make((5, 6, 7, 8), np.ones((5, 6, 7, 8), np.complex64)).frames(start, stop)


def test_not_finite_samples_are_refused_with_their_place_in_the_recording():
    samples = np.ones((5, 6, 7, 8), np.complex64)
    samples[4, 3, 2, 6] = complex(0, np.inf)
    acquisition = make((5, 6, 7, 8), samples)
    acquisition.frames(0, 6)
    with pytest.raises(RecordingError, match=r"1 NaN or infinite .*\(x, y, z, t\) = \(4, 3, 2, 6\)"):
        acquisition.frames(5, 8)


@given(n_frames=st.integers(1, 1000), block_frames=st.integers(1, 300))
def test_blocks_cover_every_frame_once_in_order(n_frames, block_frames):
    blocks = block_ranges(n_frames, block_frames)
    assert [t for start, stop in blocks for t in range(start, stop)] == list(range(n_frames))
    assert all(stop - start == block_frames for start, stop in blocks[:-1])


def test_block_of_no_frames_is_refused():
    with pytest.raises(RecordingError, match="block_frames is 0; wanted at least 1"):
        block_ranges(10, 0)
