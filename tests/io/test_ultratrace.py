"""Ultratrace HDF5: no library of its own writes it apart from a GPU beamformer, so the layout is written by hand."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from tell_tale import tell_tale

from sparse_ulm.errors import RecordingError
from sparse_ulm.io import open_recording, open_recordings

NX, NY, NZ, N_FRAMES = 5, 4, 7, 6
ASKED = {"frame_rate_hz": 500.0, "transmit_frequency_hz": 8e6, "sound_speed_m_s": 1540.0}
VOXEL_SIZE_MM = (0.2, 0.3, 0.1)


def grid_m(tilt: float = 0.0) -> dict[str, np.ndarray]:
    """Its build_grid: meshgrid(z, y, x), y tilted along z."""
    x, y, z = -1e-3 + np.arange(NX) * 0.2e-3, 0.5e-3 + np.arange(NY) * 0.3e-3, 5e-3 + np.arange(NZ) * 0.1e-3
    depth, elevation, lateral = np.meshgrid(z, y, x, indexing="ij")
    return {"x": lateral, "y": elevation + depth * tilt, "z": depth}


def write(path: Path, image: np.ndarray, grid: dict[str, np.ndarray], *, number: int = 0) -> Path:
    with h5py.File(path, "a") as file:
        file[f"acquisitions/{number}/meta/compound_image"] = image
        for axis, values in grid.items():
            file[f"acquisitions/{number}/meta/grid/{axis}"] = values
    return path


def volume() -> np.ndarray:
    """(frames, elevation, z, x)."""
    return tell_tale(NX, NY, NZ, N_FRAMES).transpose(3, 1, 2, 0)


@pytest.mark.parametrize("unit_m", [1.0, 1.0e-3])
def test_the_stated_voxel_size_tells_metres_from_millimetres(tmp_path: Path, unit_m: float) -> None:
    stored = {axis: values / unit_m for axis, values in grid_m().items()}
    acquisition = open_recording(write(tmp_path / "a.h5", volume(), stored), voxel_size_mm=VOXEL_SIZE_MM, **ASKED)
    np.testing.assert_array_equal(acquisition.frames(0, N_FRAMES), tell_tale(NX, NY, NZ, N_FRAMES))
    np.testing.assert_array_equal(acquisition.frames(2, 5), tell_tale(NX, NY, NZ, N_FRAMES)[..., 2:5])
    wanted = np.array([[0.2, 0, 0, -1], [0, 0.3, 0, 0.5], [0, 0, 0.1, 5]]) * 1e-3
    np.testing.assert_allclose(acquisition.geometry.matrix_m[:3], wanted, atol=1e-12)


def test_without_a_voxel_size_the_unit_is_not_guessed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", volume(), grid_m())
    with pytest.raises(RecordingError, match="voxel size missing"):
        open_recording(path, **ASKED)
    with pytest.raises(RecordingError, match=r"contradictory voxel size along x, 0\.25 mm .* but 0\.2 mm in grid of"):
        open_recording(path, voxel_size_mm=(0.25, 0.3, 0.1), **ASKED)


def test_a_tilted_grid_keeps_its_tilt(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", volume(), grid_m(tilt=0.05))
    size_mm = (0.2, 0.3, 0.1 * np.hypot(1, 0.05))
    geometry = open_recording(path, voxel_size_mm=size_mm, **ASKED).geometry
    np.testing.assert_allclose(geometry.matrix_m[:3, 2], (0, 0.05e-3 * 0.1, 0.1e-3), atol=1e-12)


@pytest.mark.parametrize("shape", [(NZ, NX), (NZ, 1, NX)])
def test_a_plane_has_three_axes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    stored = {axis: values[:, 0].reshape(shape) for axis, values in grid_m().items()}
    path = write(tmp_path / "a.h5", volume()[:, 0], stored)
    acquisition = open_recording(path, voxel_size_mm=VOXEL_SIZE_MM, **ASKED)
    assert acquisition.shape == (NX, 1, NZ, N_FRAMES)
    np.testing.assert_array_equal(acquisition.frames(0, 2), tell_tale(NX, NY, NZ, N_FRAMES)[:, :1, :, :2])
    assert acquisition.geometry.voxel_size_m == pytest.approx((0.2e-3, 0.3e-3, 0.1e-3))


def test_acquisitions_are_recordings_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (10, 2):
        write(tmp_path / "a.h5", number * volume(), grid_m(), number=number)
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["acquisitions/3/iq_frames"] = np.zeros(3)  # not beamformed yet
    opened = open_recordings(tmp_path / "a.h5", voxel_size_mm=VOXEL_SIZE_MM, **ASKED)
    assert [acquisition.name for acquisition in opened] == ["a_2", "a_10"]
    alone = open_recording(f"{tmp_path / 'a.h5'}::10", voxel_size_mm=VOXEL_SIZE_MM, **ASKED)
    np.testing.assert_array_equal(alone.frames(0, 1), 10 * tell_tale(NX, NY, NZ, N_FRAMES)[..., :1])
    with pytest.raises(RecordingError, match=r"holds no acquisition '3'; wanted one of \['2', '10'\]"):
        open_recording(f"{tmp_path / 'a.h5'}::3", **ASKED)


@pytest.mark.parametrize(
    ("image", "grid", "message"),
    [
        (volume().real, grid_m(), "compound_image holds real-valued float"),
        (volume()[0, 0], grid_m(), "wrong rank"),
        (volume(), grid_m() | {"x": np.zeros((NZ, NX, NY))}, r"wanted \(7, 4, 5\), which is \(z, elevation, x\)"),
        (volume(), grid_m() | {"z": grid_m()["z"] ** 2}, "off a regular grid"),
    ],
)
def test_what_is_no_recording_is_refused(tmp_path: Path, image: Any, grid: Any, message: str) -> None:
    with pytest.raises(RecordingError, match=message):
        open_recording(write(tmp_path / "a.h5", image, grid), voxel_size_mm=VOXEL_SIZE_MM, **ASKED)


def test_without_a_grid_the_sidecar_must_do(tmp_path: Path) -> None:
    acquisition = open_recording(write(tmp_path / "a.h5", volume(), {}), voxel_size_mm=VOXEL_SIZE_MM, **ASKED)
    np.testing.assert_allclose(acquisition.geometry.voxel_size_m, (0.2e-3, 0.3e-3, 0.1e-3))
