"""The axis order, geometry and partial reading of every layout, on files written by other libraries than our own."""

import gzip
import itertools
import multiprocessing
import os
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import h5py
import hdf5storage
import nibabel
import numpy as np
import pytest
import scipy.io

from sparse_ulm.acquisition import Acquisition, Geometry
from sparse_ulm.errors import RecordingError
from sparse_ulm.io import open_recording, save_recording

WAVELENGTH_MM = 1540.0 / 7.7e3
STRUCTS = {
    "UF": {"TwFreq": 7.7, "FrameRateUF": 800.0, "NbFrames": 8.0},
    "PData": {
        "Size": np.array([[7.0, 5.0, 6.0]]),
        "PDelta": np.array([[0.1, 0.2, 0.05]]) / WAVELENGTH_MM,
        "Origin": np.array([[1.0, -2.0, 3.5]]) / WAVELENGTH_MM,
    },
}
FLAT_STRUCTS = {**STRUCTS, "PData": {**STRUCTS["PData"], "PDelta": np.array([[0.1, 0.0, 0.05]]) / WAVELENGTH_MM}}


def write_nifti(path: Path, frames: np.ndarray) -> None:
    image = nibabel.Nifti1Image(frames, np.diag([0.1, 0.2, 0.05, 1.0]))
    image.affine[:3, 3] = 1.0, -2.0, 3.5
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_zooms((0.1, 0.2, 0.05, 1 / 800))
    nibabel.save(image, path)


def write_hdf5storage(path: Path, frames: np.ndarray) -> None:
    content = {"IQ": frames.transpose(2, 0, 1, 3), **STRUCTS}
    hdf5storage.savemat(str(path), content, format="7.3", store_python_metadata=False)


def write_correlation(path: Path, frames: np.ndarray) -> None:
    parts = np.stack([frames.real, frames.imag])  # (2, x, y, z, t), which `.T` of the stored array must be
    with h5py.File(path, "w") as file:
        file["1/CorrMap"] = parts.T


WRITERS: dict[str, Callable[[Path, np.ndarray], None]] = {
    "a.nii": write_nifti,
    "a.nii.gz": write_nifti,
    "c_order.npy": lambda path, frames: np.save(path, frames),
    "f_order.npy": lambda path, frames: np.save(path, np.asfortranarray(frames.astype(np.complex128))),
    "plain.npz": lambda path, frames: np.savez(path, weights=np.ones(3), samples=frames),
    "f_order.npz": lambda path, frames: np.savez(path, iq=np.asfortranarray(frames), other=frames[:2]),
    "small.npz": lambda path, frames: np.savez_compressed(path, iq=frames),
    "v6.mat": lambda path, frames: scipy.io.savemat(path, {"IQ": frames.transpose(2, 0, 1, 3), **STRUCTS}),
    "v7.mat": lambda path, frames: scipy.io.savemat(
        path, {"IQ": frames.astype(np.complex128).transpose(2, 0, 1, 3), **STRUCTS}, do_compression=True
    ),
    "v73.mat": write_hdf5storage,
    "train.h5": write_correlation,
}


@pytest.fixture(params=WRITERS)
def written(request, tmp_path, frames, write_sidecar_of) -> Path:
    """A recording in each layout, with the sidecar that this layout needs."""
    path = tmp_path / request.param
    WRITERS[request.param](path, frames)
    if path.suffix != ".mat":
        write_sidecar_of(path)
    return path


def test_axes_are_x_y_z_t_and_geometry_in_metres(written, frames, geometry):
    acquisition = open_recording(written)
    assert acquisition.shape == (5, 6, 7, 8)
    np.testing.assert_array_equal(acquisition.frames(0, 8), frames)
    assert acquisition.geometry == geometry
    assert acquisition.content == ("correlation" if written.suffix == ".h5" else "iq")


def test_every_partial_reading_is_that_part_of_the_whole(written, frames):
    acquisition = open_recording(written)
    for start, stop in reversed([*itertools.combinations(range(9), 2)]):  # backwards: a stream must rewind
        part = acquisition.frames(start, stop)
        assert part.dtype == np.complex64
        np.testing.assert_array_equal(part, frames[..., start:stop])


def test_reading_gives_its_own_memory(written, frames):
    acquisition = open_recording(written)
    acquisition.frames(2, 4)[:] = 0
    np.testing.assert_array_equal(acquisition.frames(2, 4), frames[..., 2:4])


def test_forked_workers_do_not_disturb_what_is_open(tmp_path, geometry):
    rng = np.random.default_rng(5)
    noise = (rng.normal(size=(32, 32, 16, 12)) + 1j).astype(np.complex64)  # longer than what gzip buffers
    save_recording(tmp_path / "a.nii.gz", noise, geometry)
    acquisition = open_recording(tmp_path / "a.nii.gz")
    acquisition.frames(0, 1)  # opens the stream that a forked worker inherits
    worker = multiprocessing.get_context("fork").Process(target=lambda: acquisition.frames(5, 12))
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    np.testing.assert_array_equal(acquisition.frames(6, 12), noise[..., 6:])


def test_readers_can_be_sent_to_spawned_workers(written, frames):
    acquisition: Acquisition = open_recording(written)
    acquisition.frames(0, 1)
    copy = pickle.loads(pickle.dumps(acquisition))
    np.testing.assert_array_equal(copy.frames(3, 5), frames[..., 3:5])


@pytest.mark.parametrize(("name", "mat_format"), [("flat5.mat", "5"), ("flat73.mat", "7.3")])
def test_2d_matlab_has_one_voxel_along_y_as_thick_as_along_x(tmp_path, flat_frames, flat_geometry, name, mat_format):
    content = {"IQ": flat_frames[:, 0].transpose(1, 0, 2), **FLAT_STRUCTS}
    hdf5storage.savemat(str(tmp_path / name), content, format=mat_format, store_python_metadata=False)
    acquisition = open_recording(tmp_path / name)
    assert acquisition.shape == (5, 1, 7, 8)
    assert acquisition.spatial_dims == 2
    np.testing.assert_array_equal(acquisition.frames(0, 8), flat_frames)
    assert acquisition.geometry == flat_geometry
    assert "display" in acquisition.details["notes"][0]


def test_2d_correlation_map_has_one_voxel_along_y(tmp_path, flat_frames, write_sidecar_of):
    path = tmp_path / "flat.h5"
    parts = np.stack([flat_frames.real, flat_frames.imag])[:, :, 0]  # (2, x, z, t)
    with h5py.File(path, "w") as file:
        file["1/CorrMap"] = parts.T
    write_sidecar_of(path)
    np.testing.assert_array_equal(open_recording(path).frames(0, 8), flat_frames)


@pytest.mark.parametrize("axes", [["x", "z", "t"], ["t", "z", "x"], ["z", "t", "x"]])
def test_numpy_axes_are_as_the_sidecar_names_them(tmp_path, flat_frames, write_sidecar_of, axes):
    path = tmp_path / "named.npy"
    np.save(path, flat_frames[:, 0].transpose(["xzt".index(axis) for axis in axes]))
    write_sidecar_of(path, Axes=axes)
    acquisition = open_recording(path)
    np.testing.assert_array_equal(acquisition.frames(0, 8), flat_frames)
    np.testing.assert_array_equal(acquisition.frames(3, 5), flat_frames[..., 3:5])


def test_sidecar_axes_overrule_the_matlab_order(tmp_path, frames, write_sidecar_of):
    path = tmp_path / "own.mat"
    scipy.io.savemat(path, {"IQ": frames})
    write_sidecar_of(path, Axes=["x", "y", "z", "t"])
    np.testing.assert_array_equal(open_recording(path).frames(0, 8), frames)


def test_big_endian_and_scaled_nifti_is_read_as_numbers(tmp_path, frames, write_sidecar_of):
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(np.complex64)
    header.set_data_shape(frames.shape)
    header.set_data_offset(352)
    header["magic"] = b"n+1"
    header["scl_slope"], header["scl_inter"] = 2.0, 0.0
    header["pixdim"][1:4] = 0.1, 0.2, 0.05
    samples = frames.astype(">c8").tobytes(order="F")
    (tmp_path / "swapped.nii").write_bytes(header.binaryblock + bytes(4) + samples)
    write_sidecar_of(tmp_path / "swapped.nii")
    np.testing.assert_array_equal(open_recording(tmp_path / "swapped.nii").frames(0, 8), 2 * frames)


def test_rotated_nifti_keeps_its_affine(tmp_path, frames, write_sidecar_of):
    turned = np.array([[0, -0.2, 0, 7.0], [0.1, 0, 0, 8.0], [0, 0, -0.05, 9.0], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(frames, turned), tmp_path / "turned.nii.gz")
    write_sidecar_of(tmp_path / "turned.nii.gz", Origin=None)
    matrix_m = open_recording(tmp_path / "turned.nii.gz").geometry.matrix_m
    np.testing.assert_allclose(matrix_m[:3], turned[:3] * 1.0e-3, rtol=1.0e-12, atol=1.0e-15)


@pytest.mark.parametrize(("unit", "per_mm"), [("mm", 1.0), ("meter", 1.0e-3), ("micron", 1.0e3), ("unknown", 1.0)])
def test_nifti_length_units_are_honoured(tmp_path, frames, geometry, write_sidecar_of, unit, per_mm):
    affine = np.diag([0.1, 0.2, 0.05, 1.0])
    affine[:3, 3] = 1.0, -2.0, 3.5
    affine[:3] *= per_mm
    image = nibabel.Nifti1Image(frames, affine)
    image.header.set_xyzt_units(unit, "msec")
    image.header["pixdim"][4] = 1.25
    nibabel.save(image, tmp_path / "unit.nii")
    write_sidecar_of(tmp_path / "unit.nii", VoxelSize=None, Origin=None, CompoundSamplingFrequency=None)
    assert open_recording(tmp_path / "unit.nii").geometry == geometry


def test_verasonics_cell_and_frame_rate_alias(tmp_path, frames, geometry):
    cell = np.empty((1, 1), dtype=object)
    cell[0, 0] = frames.transpose(2, 0, 1, 3)
    content = {"IQData": cell, "PData": STRUCTS["PData"], "UF": {"TwFreq": 7.7, "FrameRate": 800.0}}
    scipy.io.savemat(tmp_path / "v5.mat", content)
    hdf5storage.savemat(str(tmp_path / "v73.mat"), content, format="7.3", store_python_metadata=False)
    for name in ("v5.mat", "v73.mat"):
        acquisition = open_recording(tmp_path / name)
        np.testing.assert_array_equal(acquisition.frames(0, 8), frames)
        assert acquisition.geometry == geometry
        assert acquisition.details["variable"] == "IQData{1}"
        assert open_recording(tmp_path / name, variable="IQData").details["variable"] == "IQData{1}"


@pytest.mark.parametrize("name", ["v5.mat", "v73.mat"])
def test_a_verasonics_workspace_says_what_a_wavelength_is(tmp_path, frames, name):
    """1480 m/s over the probe's 8 MHz is 0.185 mm; PALA's would be 1540 m/s over the transmitted 7.7 MHz, 0.2 mm."""
    content = {
        "IQData": _cells(frames.transpose(2, 0, 1, 3), frames[:2].transpose(2, 0, 1, 3)),
        "PData": {"PDelta": np.array([[1.0, 2.0, 0.5]]), "Origin": np.array([[-10.0, 0.0, 4.0]])},
        "Resource": {"Parameters": {"speedOfSound": 1480.0, "numTransmit": 128.0}, "VDAS": {}},
        "Trans": {"name": "L11-5v", "frequency": 8.0},
        "UF": {"TwFreq": 7.7, "FrameRateUF": 800.0},
    }
    (scipy.io.savemat if name == "v5.mat" else _save_v73)(str(tmp_path / name), content)
    geometry = open_recording(tmp_path / name).geometry
    np.testing.assert_allclose(geometry.voxel_size_m, np.array([1, 2, 0.5]) * 0.185e-3, rtol=1e-9)
    np.testing.assert_allclose(geometry.matrix_m[:3, 3], np.array([-10, 0, 4]) * 0.185e-3, rtol=1e-9)
    assert (geometry.sound_speed_m_s, geometry.transmit_frequency_hz) == (1480.0, 7.7e6)
    with pytest.raises(RecordingError, match=r"contradictory sound speed, 1480 m/s in Resource .* but 1540 m/s in the"):
        open_recording(tmp_path / name, sound_speed_m_s=1540.0)
    second = open_recording(tmp_path / name, variable="IQData{2}")
    np.testing.assert_array_equal(second.frames(0, 8), frames[:2])


@pytest.mark.parametrize("name", ["v5.mat", "v73.mat"])
def test_a_workspace_may_lack_any_field(tmp_path, frames, geometry, name):
    content = {"IQ": frames.transpose(2, 0, 1, 3), **STRUCTS, "Resource": {"VDAS": 1.0}, "Trans": {"name": "x"}}
    write = scipy.io.savemat if name == "v5.mat" else _save_v73
    write(str(tmp_path / name), content)
    assert open_recording(tmp_path / name).geometry == geometry


@pytest.mark.parametrize("name", ["v5.mat", "v73.mat"])
def test_nonsense_in_a_workspace_is_named(tmp_path, frames, name):
    resource = {"Parameters": {"speedOfSound": np.array([1480.0, 1540.0])}}
    write = scipy.io.savemat if name == "v5.mat" else _save_v73
    write(str(tmp_path / name), {"IQ": frames.transpose(2, 0, 1, 3), **STRUCTS, "Resource": resource})
    with pytest.raises(RecordingError, match=r"Resource\.Parameters\.speedOfSound is \[1480\.0, 1540\.0\]; wanted one"):
        open_recording(tmp_path / name)


def _cells(*arrays):
    cells = np.empty((1, len(arrays)), dtype=object)
    for number, array in enumerate(arrays):
        cells[0, number] = array
    return cells


def _save_v73(path, content):
    hdf5storage.savemat(path, content, format="7.3", store_python_metadata=False)


def test_gzip_blocks_in_order_cost_one_pass(tmp_path, frames, write_sidecar_of, monkeypatch):
    write_nifti(tmp_path / "a.nii.gz", frames)
    write_sidecar_of(tmp_path / "a.nii.gz")
    acquisition = open_recording(tmp_path / "a.nii.gz")
    opened = []
    open_stream = gzip.GzipFile.__init__
    monkeypatch.setattr(
        gzip.GzipFile, "__init__", lambda self, *args, **kwargs: opened.append(1) or open_stream(self, *args, **kwargs)
    )
    for start in range(8):
        acquisition.frames(start, start + 1)
    assert len(opened) == 1


@pytest.mark.parametrize("name", ["v6.mat", "v7.mat", "small.npz"])
def test_whole_file_formats_hold_one_recording_in_memory_and_notice_a_new_one(tmp_path, geometry, name):
    paths = [tmp_path / f"{number}" / name for number in range(5)]
    samples = np.ones((32, 32, 32, 4), np.complex64)
    for path in paths:
        path.parent.mkdir()
        WRITERS[name](path, samples)
    options = {"voxel_size_mm": (0.1, 0.2, 0.05), "frame_rate_hz": 800.0, "transmit_frequency_hz": 7.7e6}
    tracemalloc.start()
    opened = [open_recording(path, **options, sound_speed_m_s=1540.0) for path in paths]
    for acquisition in opened:
        acquisition.frames(0, 1)
    held_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held_bytes < 3 * samples.nbytes
    WRITERS[name](paths[-1], 2 * samples)
    os.utime(paths[-1], ns=(1, 1))
    np.testing.assert_array_equal(opened[-1].frames(0, 4), 2 * samples)


def test_geometry_of_metadata_free_matlab_comes_from_sidecar_or_options(tmp_path, frames, geometry, write_sidecar_of):
    scipy.io.savemat(tmp_path / "bare.mat", {"whatever": frames.transpose(2, 0, 1, 3), "real": np.ones((3, 4, 5))})
    options = {"voxel_size_mm": (0.1, 0.2, 0.05), "frame_rate_hz": 800, "transmit_frequency_hz": 7.7e6}
    by_option = open_recording(tmp_path / "bare.mat", **options, sound_speed_m_s=1540.0).geometry
    np.testing.assert_allclose(by_option.matrix_m[:3, :3], geometry.matrix_m[:3, :3], rtol=1.0e-12)
    write_sidecar_of(tmp_path / "bare.mat")
    assert open_recording(tmp_path / "bare.mat").geometry == geometry


def test_sidecar_sound_speed_goes_before_the_1540_of_the_pala_layout(tmp_path, frames, geometry, write_sidecar_of):
    scipy.io.savemat(tmp_path / "warm.mat", {"IQ": frames.transpose(2, 0, 1, 3), **STRUCTS})
    write_sidecar_of(tmp_path / "warm.mat", BeamformingSoundVelocity=1490.0)
    read: Geometry = open_recording(tmp_path / "warm.mat").geometry
    assert read.sound_speed_m_s == 1490.0
    assert read.voxel_size_m == geometry.voxel_size_m  # lengths stay wavelengths of 1540 m/s
