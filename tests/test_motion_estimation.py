"""Motion estimated from speckle that moves along known ways."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from motion_phantom import FRAME_RATE_HZ, SHAPE, STEP_M, Phantom, acquisition, displaced_um, error_um, geometry
from scipy.spatial.transform import Rotation

from sparse_ulm.clutter import ClutterFilter
from sparse_ulm.errors import RecordingError, UserError
from sparse_ulm.filtered import filtered
from sparse_ulm.motion import MotionSettings
from sparse_ulm.motion_estimation import check_motion, estimate_motion, window_bounds

RIGID = MotionSettings("rigid", 6)
N_FRAMES = 36
CENTRE_M = 0.5 * (np.array(SHAPE) - 1) * STEP_M


def course(frame: int) -> float:
    """A swing of 8 Hz, about half of it."""
    return float(np.sin(2 * np.pi * 8.0 * frame / FRAME_RATE_HZ + 0.3))


def turning(place: np.ndarray, frame: int) -> np.ndarray:
    """Up to half a voxel and a degree."""
    turn = Rotation.from_rotvec(course(frame) * np.array([0.012, -0.009, 0.017])).as_matrix()
    return course(frame) * np.array([38e-6, -30e-6, 27e-6]) + (place - CENTRE_M) @ (turn - np.eye(3)).T


def stretched_late(place: np.ndarray, frame: int) -> np.ndarray:
    """From frame 4 on longer by 2 % along z, and thinner: no mean motion at all."""
    return (place - CENTRE_M) * np.array([-0.006, 0.004, 0.02]) * (frame >= 4)


def in_plane(place: np.ndarray, frame: int) -> np.ndarray:
    return course(frame) * np.array([38e-6, 0.0, 27e-6]) * np.ones((len(place), 1))


def still(place: np.ndarray, frame: int) -> np.ndarray:
    return np.zeros_like(place)


def one_voxel_late(place: np.ndarray, frame: int) -> np.ndarray:
    return np.zeros_like(place) + (STEP_M * [1, 0, 0] if frame >= 24 else 0.0)


@pytest.fixture(scope="module")
def turned() -> np.ndarray:
    return Phantom(turning).frames(N_FRAMES)


def worst_um(motion, field, shape=SHAPE) -> tuple[float, float]:
    """Largest error over frames, and the smallest one that no motion would leave in the frames that moved most."""
    middle = sum(motion.reference_frames) // 2
    frames = range(0, N_FRAMES, 5)
    left = [displaced_um(field, frame, middle, shape) for frame in frames]
    return max(error_um(motion, field, frame, shape) for frame in frames), max(left)


def test_turning_tissue_is_found_to_a_few_micrometres(turned) -> None:
    error, left = worst_um(estimate_motion(acquisition(turned)[0], RIGID), turning)
    assert left > 50.0
    assert error < 5.0, error


def test_tissue_that_moves_by_a_voxel_along_x_is_found_there() -> None:
    motion = estimate_motion(acquisition(Phantom(one_voxel_late).frames(N_FRAMES))[0], RIGID)
    assert motion.reference_frames[1] <= 24  # the longer part
    # The spline rings between windows where tissue jumps; their centres it meets.
    steps = motion.field_voxel(motion.centre_frame).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(steps, [[0.0, 0.0, 0.0]] * 4 + [[1.0, 0.0, 0.0]] * 2, atol=0.02)


def test_a_smooth_deformation_is_found_where_a_rigid_motion_is_not() -> None:
    recording = acquisition(Phantom(stretched_late).frames(8))[0]
    error = {}
    for kind in ("rigid", "non_rigid"):
        motion = estimate_motion(recording, MotionSettings(kind, 4))
        assert motion.reference_frames == (0, 4)
        error[kind] = error_um(motion, stretched_late, 6)
    left = displaced_um(stretched_late, 6, 1)
    assert error["non_rigid"] < 0.75 * min(error["rigid"], left), (error, left)


@pytest.mark.parametrize("kind", ["rigid", "non_rigid"])
def test_a_recording_of_one_plane(kind) -> None:
    shape = (26, 1, 32)
    motion = estimate_motion(acquisition(Phantom(in_plane, shape=shape).frames(N_FRAMES))[0], replace(RIGID, kind=kind))
    error, left = worst_um(motion, in_plane, shape)
    assert left > 45.0
    assert error < 8.0, error
    assert not motion.displacement_voxel[..., 1].any()


def test_windows_are_laid_on_the_recording_and_looked_at_before_any_filter(turned) -> None:
    """Each is read once, those that may be the reference once more; a filter in front changes no bit."""
    source, read = acquisition(turned)
    motion = estimate_motion(source, RIGID)
    windows = [(first, first + 6) for first in range(0, 36, 6)]
    assert set(read) == set(windows)
    assert len(read) == 12
    behind = filtered(acquisition(turned)[0], ClutterFilter(n_tissue_components=3, window_frames=18))
    again = estimate_motion(behind, RIGID)
    np.testing.assert_array_equal(again.displacement_voxel, motion.displacement_voxel)
    assert window_bounds(70, 20) == [0, 17, 35, 52, 70]


def test_frames_too_far_or_too_fast_are_rejected(turned) -> None:
    source = acquisition(turned)[0]
    motion = estimate_motion(source, RIGID)
    assert not motion.rejected.any()
    largest = motion.largest_m()
    limit_m = 0.9 * float(largest.max())
    strict = estimate_motion(source, replace(RIGID, limit_m=limit_m))
    assert strict.rejected.tolist() == (largest > limit_m).tolist()
    fast = estimate_motion(source, replace(RIGID, limit_m=1e-6))
    assert fast.rejected.mean() > 0.9


def test_a_window_of_noise_is_rejected_and_bridged(turned) -> None:
    broken = turned.copy()
    rng = np.random.default_rng(5)
    broken[..., 18:24] = rng.normal(size=(*SHAPE, 6)) + 1j * rng.normal(size=(*SHAPE, 6))
    motion = estimate_motion(acquisition(broken)[0], RIGID)
    assert np.flatnonzero(motion.rejected).tolist() == list(range(18, 24))
    assert error_um(motion, turning, 8) < 5.0


def test_a_recording_without_tissue_is_refused() -> None:
    rng = np.random.default_rng(6)
    noise = (rng.normal(size=(*SHAPE, 24)) + 1j * rng.normal(size=(*SHAPE, 24))).astype(np.complex64)
    with pytest.raises(RecordingError, match=r"rec.npz: no window of 6 frames resembles another"):
        estimate_motion(acquisition(noise)[0], RIGID)
    with pytest.raises(RecordingError, match="no window of 6 frames resembles another"):
        estimate_motion(acquisition(np.zeros((*SHAPE, 24), dtype=np.complex64))[0], RIGID)


def test_what_holds_no_motion_is_refused_before_it_is_read(turned, monkeypatch) -> None:
    source, read = acquisition(turned)
    with pytest.raises(RecordingError, match="motion_window_frames is 64 for 36 frames; wanted at least two windows"):
        check_motion(source, MotionSettings("rigid", 64))
    with pytest.raises(RecordingError, match="holds a correlation map, which has no tissue"):
        check_motion(acquisition(turned, geometry(), "correlation")[0], RIGID)
    check_motion(acquisition(turned, geometry(), "correlation")[0], MotionSettings())
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(UserError, match=r'Run pip install "sparse-ulm\[motion\]"'):
        check_motion(source, RIGID)
    assert read == []
