"""UFF: files that pyuff_ustb wrote (tests/io/data), and the layout of USTB's MATLAB writer by hand."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from sparse_ulm.errors import RecordingError
from sparse_ulm.io import open_recording, open_recordings

DATA = Path(__file__).parent / "data"
N_FRAMES, NX, NY, NZ = 6, 5, 4, 7
ASKED = {"frame_rate_hz": 1000.0, "sound_speed_m_s": 1540.0}
"""What UFF does not say."""


def samples() -> np.ndarray:
    """What make_uff_files.py wrote, (x, y, z, t)."""
    rng = np.random.default_rng(3)
    return rng.normal(size=(NX, NY, NZ, N_FRAMES, 2)).astype(np.float32).view(np.complex64)[..., 0]


def axes_m() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Its grid."""
    return -1e-3 + np.arange(NX) * 0.2e-3, 0.5e-3 + np.arange(NY) * 0.3e-3, 5e-3 + np.arange(NZ) * 0.1e-3


def test_a_volume_that_pyuff_wrote() -> None:
    acquisition = open_recording(DATA / "pyuff_3_0_0_3d.uff", **ASKED)
    assert acquisition.shape == (NX, NY, NZ, N_FRAMES)
    assert acquisition.name == "pyuff_3_0_0_3d"
    np.testing.assert_array_equal(acquisition.frames(0, N_FRAMES), samples())
    np.testing.assert_array_equal(acquisition.frames(2, 5), samples()[..., 2:5])
    matrix = acquisition.geometry.matrix_m
    np.testing.assert_allclose(matrix[:3, :3], np.diag([0.2e-3, 0.3e-3, 0.1e-3]), atol=1e-12)
    np.testing.assert_allclose(matrix[:3, 3], (-1e-3, 0.5e-3, 5e-3), rtol=1e-9)
    assert acquisition.geometry.transmit_frequency_hz == 15.625e6


def test_a_plane_that_pyuff_wrote_is_as_thick_as_its_step_along_x() -> None:
    acquisition = open_recording(DATA / "pyuff_3_0_0_2d.uff", **ASKED)
    np.testing.assert_array_equal(acquisition.frames(0, N_FRAMES), samples()[:, :1])
    np.testing.assert_allclose(acquisition.geometry.voxel_size_m, (0.2e-3, 0.2e-3, 0.1e-3), rtol=1e-9)


def test_rate_and_sound_speed_are_asked_for() -> None:
    """`frame_rate` of the file, 30, is of videos; USTB puts a sound speed of 1540 m/s where nobody set one."""
    with pytest.raises(RecordingError, match=r"frame rate missing.*sound speed missing") as error:
        open_recording(DATA / "pyuff_3_0_0_3d.uff")
    assert str(error.value).count("missing") == 2


def write(
    path: Path, data: np.ndarray, *, at: str = "b_data", scan_class: str = "uff.linear_scan", **scan: Any
) -> Path:
    """Write a data set as MATLAB's h5write does: axes reversed, vectors as rows, class names as bytes."""
    with h5py.File(path, "a") as file:
        for part in ("real", "imag"):
            file[f"{at}/data/{part}"] = np.ascontiguousarray(getattr(data, part).T)
        file[at].attrs["class"] = np.bytes_("uff.beamformed_data")
        for name, value in scan.items():
            file[f"{at}/scan/{name}"] = np.asarray(value, np.float32).reshape(1, -1)
        if scan:
            file[f"{at}/scan"].attrs["class"] = np.bytes_(scan_class)
        file[f"{at}/pulse/center_frequency"] = np.float32([[8e6]])
    return path


def plane() -> np.ndarray:
    """The first plane as USTB holds it, [pixel, channel, wave, frame] with z fastest."""
    return samples()[:, 0].reshape(-1, 1, 1, N_FRAMES)


def linear_scan() -> dict[str, np.ndarray]:
    x, _, z = axes_m()
    return {"x_axis": x, "z_axis": z}


def test_matlab_reverses_the_axes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.uff", plane(), **linear_scan())
    acquisition = open_recording(path, **ASKED)
    np.testing.assert_array_equal(acquisition.frames(0, N_FRAMES), samples()[:, :1])
    np.testing.assert_array_equal(acquisition.frames(3, 4), samples()[:, :1, :, 3:4])
    np.testing.assert_allclose(acquisition.geometry.matrix_m[:3, 3], (-1e-3, 0, 5e-3), rtol=1e-6)
    assert acquisition.geometry.transmit_frequency_hz == 8e6


def test_matlab_drops_the_axis_of_a_single_frame(tmp_path: Path) -> None:
    acquisition = open_recording(write(tmp_path / "a.uff", plane()[:, :, 0, 0], **linear_scan()), **ASKED)
    np.testing.assert_array_equal(acquisition.frames(0, 1), samples()[:, :1, :, :1])


@pytest.mark.parametrize("order", ["yxz", "xyz", "zyx", "zxy"])
def test_the_order_of_pixels_is_found_by_their_positions(tmp_path: Path, order: str) -> None:
    """Slowest axis first; the grid is turned by 20 degrees about y, which keeps x and z apart."""
    c, s = np.cos(0.35), np.sin(0.35)
    points = np.stack(np.meshgrid(*axes_m(), indexing="ij"), axis=-1) @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]).T
    rows = ["xyz".index(axis) for axis in order]
    x, y, z = points.transpose(*rows, 3).reshape(-1, 3).T
    data = samples().transpose(*rows, 3).reshape(-1, 1, 1, N_FRAMES)
    path = write(tmp_path / "a.uff", data, scan_class="uff.scan", x=x, y=y, z=z)
    acquisition = open_recording(path, **ASKED)
    np.testing.assert_array_equal(acquisition.frames(1, 3), samples()[..., 1:3])
    index = (3, 2, 6)
    np.testing.assert_allclose(
        acquisition.geometry.to_scanner_m(np.array([index], float))[0], points[index], rtol=1e-4, atol=1e-8
    )


def test_a_plane_rolled_about_z_stays_a_plane_of_x_and_z(tmp_path: Path) -> None:
    """linear_3D_scan: a radial axis turned by `roll` about the depth axis."""
    radial, depth = np.meshgrid(axes_m()[0], axes_m()[2], indexing="ij")
    x, y = radial * np.cos(1.4), radial * np.sin(1.4)
    path = write(tmp_path / "a.uff", plane(), scan_class="uff.linear_3D_scan", x=x, y=y, z=depth, roll=1.4)
    acquisition = open_recording(path, **ASKED)
    assert acquisition.shape == (NX, 1, NZ, N_FRAMES)
    matrix = acquisition.geometry.matrix_m[:3, :3]
    np.testing.assert_allclose(matrix[:, 0], (0.2e-3 * np.cos(1.4), 0.2e-3 * np.sin(1.4), 0), atol=1e-9)
    assert np.linalg.det(matrix) > 0


def test_several_data_sets_are_recordings_of_their_own(tmp_path: Path) -> None:
    path = write(tmp_path / "two.uff", plane(), at="das", **linear_scan())
    write(path, 2 * plane(), at="list/list_0001", **linear_scan())
    first, second = open_recordings(path, **ASKED)
    assert (first.name, second.name) == ("two_das", "two_list_list_0001")
    np.testing.assert_array_equal(second.frames(0, 2), 2 * first.frames(0, 2))
    assert open_recording(f"{path}::list/list_0001", **ASKED).name == "two_list_list_0001"
    with pytest.raises(RecordingError, match=r"no uff.beamformed_data 'x'; wanted one of \['das', 'list/list_0001'\]"):
        open_recording(f"{path}::x", **ASKED)


def sector() -> dict[str, Any]:
    r, angle = np.meshgrid(axes_m()[2], np.linspace(-0.5, 0.5, NX))
    return {"x": r * np.sin(angle), "y": 0 * r, "z": r * np.cos(angle), "scan_class": "uff.sector_scan"}


@pytest.mark.parametrize(
    ("data", "scan", "message"),
    [
        (np.repeat(plane(), 3, axis=1), linear_scan(), "3 channels and 1 waves; wanted one of each"),
        (np.repeat(plane(), 2, axis=2), linear_scan(), "1 channels and 2 waves; wanted one of each"),
        (plane()[:-1], linear_scan(), r"shape \(6, 1, 1, 34\) and its scan 35 pixels"),
        (np.resize(plane(), (35, 1, 1, 35)), linear_scan(), "as many frames as pixels"),
        (plane()[..., None], linear_scan(), r"shape \(1, 6, 1, 1, 35\); wanted \[pixel, channel, wave, frame\]"),
        (plane(), sector(), "no rows of equal length; wanted a plane or volume of equal steps"),
        (plane(), {"x": np.arange(35.0), "z": np.zeros(35)}, "35 pixels are no rows of equal length"),
        (plane()[:34], {k: np.ravel(v)[:34] for k, v in sector().items() if k in "xyz"}, "no rows of equal length"),
        (plane(), {}, "b_data has no scan"),
        (plane(), {"x_axis": axes_m()[0]}, "b_data/scan is a uff.linear_scan with x_axis; wanted x, y and z"),
    ],
)
def test_what_is_no_compounded_grid_is_refused(tmp_path: Path, data: Any, scan: Any, message: str) -> None:
    with pytest.raises(RecordingError, match=message) as error:
        open_recording(write(tmp_path / "a.uff", data, **scan), **ASKED)
    assert "\n" not in str(error.value)


def test_real_samples_and_other_files_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "real.uff", "w") as file:
        file["b_data/data"] = plane().real.T
        file["b_data"].attrs["class"] = "uff.beamformed_data"
    with pytest.raises(RecordingError, match=r"b_data/data is real-valued; wanted complex IQ"):
        open_recording(tmp_path / "real.uff", **ASKED)
    with h5py.File(tmp_path / "raw.uff", "w") as file:
        file.create_group("channel_data").attrs["class"] = "uff.channel_data"
    with pytest.raises(RecordingError, match=r"holds no uff\.beamformed_data but channel_data"):
        open_recording(tmp_path / "raw.uff", **ASKED)
    (tmp_path / "modal.uff").write_text("    -1\n   151\n")
    with pytest.raises(RecordingError, match="is no HDF5 file; wanted UFF as the UltraSound ToolBox writes it"):
        open_recording(tmp_path / "modal.uff", **ASKED)
