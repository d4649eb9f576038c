"""zea HDF5: files that zea itself wrote (tests/io/data), and its layout by hand for what those do not have."""

import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from sparse_ulm.errors import RecordingError
from sparse_ulm.io import open_recording, open_recordings, zea

DATA = Path(__file__).parent / "data"
N_FRAMES, NZ, NX, NY = 6, 7, 5, 4


def values() -> np.ndarray:
    """What make_zea_files.py wrote, (t, z, x, y, I and Q)."""
    return np.random.default_rng(3).normal(size=(N_FRAMES, NZ, NX, NY, 2)).astype(np.float32)


def test_a_volume_that_zea_wrote() -> None:
    acquisition = open_recording(DATA / "zea_0_1_8_3d.hdf5")
    assert acquisition.shape == (NX, NY, NZ, N_FRAMES)
    assert acquisition.name == "zea_0_1_8_3d"
    wanted = (values()[..., 0] + 1j * values()[..., 1]).transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(acquisition.frames(0, N_FRAMES), wanted)
    np.testing.assert_array_equal(acquisition.frames(2, 5), wanted[..., 2:5])
    geometry = acquisition.geometry
    np.testing.assert_allclose(geometry.voxel_size_m, (0.2e-3, 0.3e-3, 0.1e-3), rtol=1e-5)
    np.testing.assert_allclose(geometry.matrix_m[:3, 3], (-1e-3, 0.5e-3, 5e-3), rtol=1e-6)
    np.testing.assert_allclose(geometry.matrix_m[:3, :3], np.diag([0.2e-3, 0.3e-3, 0.1e-3]), atol=1e-9)
    assert (geometry.frame_rate_hz, geometry.transmit_frequency_hz, geometry.sound_speed_m_s) == (
        1000.0,
        15.625e6,
        1540,
    )
    assert acquisition.details["format"] == "zea HDF5 0.1.8"


def test_a_plane_packed_by_blosc() -> None:
    """Read where hdf5plugin is installed; one line that says so where it is not."""
    if not zea.HAS_BLOSC:
        with pytest.raises(RecordingError, match=r"an HDF5 filter that is not installed.*pip install hdf5plugin"):
            open_recording(DATA / "zea_0_1_8_2d_blosc.hdf5")
        return
    acquisition = open_recording(DATA / "zea_0_1_8_2d_blosc.hdf5")
    assert acquisition.shape == (NX, 1, NZ, N_FRAMES)
    wanted = (values()[:, :, :, 0, 0] + 1j * values()[:, :, :, 0, 1]).transpose(2, 1, 0)[:, None]
    np.testing.assert_array_equal(acquisition.frames(0, N_FRAMES), wanted)


def write(path: Path, points: np.ndarray, *, at: str = "tracks/track_0/", **scan: Any) -> Path:
    """Write values over (z, x, [y,] 3) points in zea's layout."""
    with h5py.File(path, "a") as file:
        file.attrs["zea_version"] = "0.1.8"
        rng = np.random.default_rng(len(at))
        group = f"{at}data/beamformed_data"
        file[f"{group}/values"] = rng.normal(size=(9, *points.shape[-4 if points.ndim > 4 else 0 : -1], 2)).astype("f4")
        file[f"{group}/coordinates"] = points.astype(np.float32)
        settings = {"center_frequency": 8e6, "sound_speed": 1540.0, "time_to_next_transmit": np.full((9, 2), 1e-3)}
        for name, value in (settings | scan).items():
            if value is not None:
                file[f"{at}scan/{name}"] = np.asarray(value, dtype=np.float32)
    return path


def grid(matrix: np.ndarray, n: tuple[int, int, int] = (5, 4, 7)) -> np.ndarray:
    """Points (z, x, y, 3) of a grid with these steps as columns."""
    index = np.stack(np.meshgrid(*map(np.arange, n), indexing="ij"), axis=-1)
    return (index @ matrix.T + [1e-3, -2e-3, 9e-3]).transpose(2, 0, 1, 3)


def turned() -> np.ndarray:
    c, s = np.cos(0.4), np.sin(0.4)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]) @ np.diag([0.1e-3, 0.2e-3, 0.15e-3])


def test_a_turned_grid_keeps_its_directions(tmp_path: Path) -> None:
    geometry = open_recording(write(tmp_path / "a.hdf5", grid(turned()))).geometry
    np.testing.assert_allclose(geometry.matrix_m[:3, :3], turned(), atol=1e-9)
    assert geometry.frame_rate_hz == pytest.approx(500.0)


def test_a_plane_is_as_thick_as_its_step_along_x_and_right_handed(tmp_path: Path) -> None:
    geometry = open_recording(write(tmp_path / "a.hdf5", grid(turned(), (5, 1, 7))[:, :, 0])).geometry
    np.testing.assert_allclose(geometry.voxel_size_m, (0.1e-3, 0.1e-3, 0.15e-3), rtol=1e-5)
    assert np.linalg.det(geometry.matrix_m[:3, :3]) > 0
    np.testing.assert_allclose(geometry.matrix_m[:3, 2], turned()[:, 2], atol=1e-9)


def test_tracks_are_recordings_of_their_own(tmp_path: Path) -> None:
    path = write(tmp_path / "two.hdf5", grid(turned()))
    write(path, grid(turned(), (3, 4, 6)), at="tracks/track_1/", sound_speed=1500.0)
    first, second = open_recordings(path)
    assert (first.name, second.name) == ("two_track_0", "two_track_1")
    assert second.shape == (3, 4, 6, 9)
    assert (first.geometry.sound_speed_m_s, second.geometry.sound_speed_m_s) == (1540.0, 1500.0)
    [alone] = open_recordings(f"{path}::track_1")
    np.testing.assert_array_equal(alone.frames(3, 5), second.frames(3, 5))
    with pytest.raises(RecordingError, match=r"holds no track 'track_7'; wanted one of \['track_0', 'track_1'\]"):
        open_recordings(f"{path}::track_7")


def test_the_layout_before_0_1_1(tmp_path: Path) -> None:
    path = write(tmp_path / "old.hdf5", grid(turned()), at="")
    assert open_recording(path).name == "old"


def test_time_stamps_go_before_transmits(tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf5", grid(turned()))
    with h5py.File(path, "a") as file:
        file["tracks/track_0/data/beamformed_data/timestamps"] = np.arange(9, dtype=np.float32) / 250
    assert open_recording(path).geometry.frame_rate_hz == pytest.approx(250.0)


@pytest.mark.parametrize(
    ("scan", "missing"),
    [
        ({"time_to_next_transmit": None}, "frame rate missing"),
        ({"time_to_next_transmit": np.linspace(1e-3, 2e-3, 18).reshape(9, 2)}, "frame rate missing"),
        ({"time_to_next_transmit": np.full(17, 1e-3)}, "frame rate missing"),
        ({"center_frequency": [8e6, 5e6]}, "transmit frequency missing"),
        ({"sound_speed": None}, "sound speed missing"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_what_the_file_does_not_say_is_asked_for(tmp_path: Path, scan: dict[str, Any], missing: str) -> None:
    path = write(tmp_path / "a.hdf5", grid(turned()), **scan)
    with pytest.raises(RecordingError, match=missing):
        open_recording(path)
    open_recording(path, frame_rate_hz=500.0, transmit_frequency_hz=8e6, sound_speed_m_s=1540.0)


def test_equal_frequencies_of_all_transmits_are_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf5", grid(turned()), center_frequency=[8e6, 8e6])
    assert open_recording(path).geometry.transmit_frequency_hz == 8e6


def test_a_polar_grid_is_refused(tmp_path: Path) -> None:
    r, angle = np.meshgrid(np.linspace(5e-3, 9e-3, 7), np.linspace(-0.5, 0.5, 5), indexing="ij")
    points = np.stack([r * np.sin(angle), 0 * r, r * np.cos(angle)], axis=-1)
    with pytest.raises(RecordingError, match="off a regular grid; wanted equal steps"):
        open_recording(write(tmp_path / "a.hdf5", points))


def test_a_grid_that_moves_is_refused(tmp_path: Path) -> None:
    still = np.repeat(grid(turned())[None], 9, axis=0)
    assert open_recording(write(tmp_path / "still.hdf5", still)).shape == (5, 4, 7, 9)
    still[-1] += 1e-5
    with pytest.raises(RecordingError, match="the grid moves from frame to frame"):
        open_recording(write(tmp_path / "moving.hdf5", still))


def test_other_data_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "raw.hdf5"
    with h5py.File(path, "w") as file:
        file.attrs["zea_version"] = "0.1.8"
        file["tracks/track_0/data/raw_data"] = np.zeros((2, 3, 4, 5, 1), np.float32)
    with pytest.raises(RecordingError, match=r"a zea file without beamformed_data.*Beamform its raw_data"):
        open_recording(path)
    shutil.copy(DATA / "zea_0_1_8_3d.hdf5", path)
    with h5py.File(path, "a") as file:
        group = file["tracks/track_0/data/beamformed_data"]
        samples = group["values"][..., :1]
        del group["values"]
        group["values"] = samples
    with pytest.raises(RecordingError, match=r"values is float32 of shape \(6, 7, 5, 4, 1\); wanted IQ"):
        open_recording(path)
