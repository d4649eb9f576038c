"""Saved recordings: equal in every format, readable by others, refused where a format cannot hold them."""

import json
from pathlib import Path

import h5py
import hdf5storage
import nibabel
import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_ulm.acquisition import Geometry, as_rows
from sparse_ulm.errors import RecordingError
from sparse_ulm.io import open_recording, save_map, save_recording

TARGETS = [
    ("a.nii", "5"),
    ("b.nii.gz", "5"),
    ("c.npy", "5"),
    ("d.npz", "5"),
    ("e.mat", "5"),
    ("f.mat", "7.3"),
    ("g.h5", "5"),
]


@pytest.mark.parametrize(("name", "version"), TARGETS)
def test_saved_recording_reads_back_exactly(tmp_path, frames, geometry, name, version):
    save_recording(tmp_path / "new" / name, frames, geometry, matlab_version=version)
    read = open_recording(tmp_path / "new" / name)
    np.testing.assert_array_equal(read.frames(0, 8), frames)
    assert read.geometry == geometry


@pytest.mark.parametrize(("name", "version"), TARGETS)
def test_saved_2d_recording_reads_back_exactly(tmp_path, flat_frames, flat_geometry, name, version):
    save_recording(tmp_path / name, flat_frames, flat_geometry, matlab_version=version)
    read = open_recording(tmp_path / name)
    np.testing.assert_array_equal(read.frames(0, 8), flat_frames)
    assert read.geometry == flat_geometry


def test_2d_matlab_keeps_a_thickness_that_is_stated(tmp_path, flat_frames, geometry):
    save_recording(tmp_path / "thick.mat", flat_frames, geometry)
    assert open_recording(tmp_path / "thick.mat").geometry == geometry


@settings(max_examples=25, deadline=None)
@given(
    step_um=st.tuples(*[st.floats(5.0, 500.0)] * 3),
    origin_mm=st.tuples(*[st.floats(-50.0, 50.0)] * 3),
    frame_rate_hz=st.floats(50.0, 5000.0),
    frequency_mhz=st.floats(1.0, 40.0),
)
def test_any_geometry_is_equal_in_all_formats(tmp_path_factory, step_um, origin_mm, frame_rate_hz, frequency_mhz):
    folder = tmp_path_factory.mktemp("any")
    samples = np.ones((2, 3, 1, 4), np.complex64)
    geometry = Geometry.from_voxel_size(
        tuple(step * 1.0e-6 for step in step_um),
        tuple(position * 1.0e-3 for position in origin_mm),
        frame_rate_hz=frame_rate_hz,
        transmit_frequency_hz=frequency_mhz * 1.0e6,
        sound_speed_m_s=1540.0,
    )
    for name, version in TARGETS:
        save_recording(folder / name, samples, geometry, matlab_version=version)
        read = open_recording(folder / name).geometry
        np.testing.assert_allclose(read.matrix_m, geometry.matrix_m, rtol=1.0e-9, atol=1.0e-14)
        for quantity in ("frame_rate_hz", "transmit_frequency_hz", "sound_speed_m_s"):
            np.testing.assert_allclose(getattr(read, quantity), getattr(geometry, quantity), rtol=1.0e-9)


def test_nifti_without_its_sidecar_still_holds_grid_and_frame_rate(tmp_path, frames, geometry):
    save_recording(tmp_path / "a.nii.gz", frames, geometry)
    (tmp_path / "a.json").unlink()
    read = open_recording(tmp_path / "a.nii.gz", transmit_frequency_hz=7.7e6, sound_speed_m_s=1540.0)
    np.testing.assert_allclose(read.geometry.matrix_m, geometry.matrix_m, rtol=1.0e-6)
    assert read.geometry.frame_rate_hz == 800.0


def test_long_recording_becomes_nifti2(tmp_path, geometry):
    samples = (np.arange(33000) * (1 + 2j)).astype(np.complex64).reshape(1, 1, 1, 33000)
    save_recording(tmp_path / "long.nii", samples, geometry)
    assert isinstance(nibabel.load(tmp_path / "long.nii"), nibabel.Nifti2Image)
    np.testing.assert_array_equal(open_recording(tmp_path / "long.nii").frames(32990, 33000), samples[..., 32990:])


def test_matlab_v73_is_read_by_hdf5storage_and_v5_by_scipy(tmp_path, frames, geometry):
    save_recording(tmp_path / "new.mat", frames, geometry, matlab_version="7.3")
    save_recording(tmp_path / "old.mat", frames, geometry, matlab_version="5")
    stored = frames.transpose(2, 0, 1, 3)
    new, old = hdf5storage.loadmat(str(tmp_path / "new.mat")), scipy.io.loadmat(tmp_path / "old.mat")
    wavelength_mm = 1540 / 7.7e3
    for content in (new, old):
        np.testing.assert_array_equal(content["IQ"], stored)
        assert content["IQ"].dtype == np.complex64
        pulse, grid = content["UF"].ravel()[0], content["PData"].ravel()[0]
        assert pulse["TwFreq"].item() == 7.7
        assert pulse["FrameRateUF"].item() == 800.0
        assert grid["Size"].tolist() == [[7.0, 5.0, 6.0]]
        np.testing.assert_allclose(grid["PDelta"], np.array([[0.1, 0.2, 0.05]]) / wavelength_mm, rtol=1.0e-12)
        np.testing.assert_allclose(grid["Origin"], np.array([[1.0, -2.0, 3.5]]) / wavelength_mm, rtol=1.0e-12)


def test_matlab_v73_is_read_by_pymatreader(tmp_path, frames, geometry):
    pymatreader = pytest.importorskip("pymatreader")
    save_recording(tmp_path / "new.mat", frames, geometry, matlab_version="7.3")
    content = pymatreader.read_mat(tmp_path / "new.mat")
    np.testing.assert_array_equal(content["IQ"], frames.transpose(2, 0, 1, 3))
    assert content["UF"]["TwFreq"] == 7.7


def test_matlab_v73_carries_what_matlab_looks_for(tmp_path, frames, geometry):
    save_recording(tmp_path / "new.mat", frames, geometry, matlab_version="7.3")
    header = (tmp_path / "new.mat").read_bytes()[:512]
    assert header.startswith(b"MATLAB 7.3 MAT-file")
    assert header[116:128] == bytes(8) + b"\x00\x02IM"
    with h5py.File(tmp_path / "new.mat", "r") as file:
        assert file.userblock_size == 512
        assert file["IQ"].shape == (8, 6, 5, 7)
        assert file["IQ"].dtype.names == ("real", "imag")
        assert file["IQ"].attrs["MATLAB_class"] == b"single"
        assert file["UF"].attrs["MATLAB_class"] == b"struct"
        assert [b"".join(name) for name in file["PData"].attrs["MATLAB_fields"]] == [b"Size", b"PDelta", b"Origin"]


def test_sidecar_uses_fusi_bids_names_and_millimetres(tmp_path, frames, geometry):
    save_recording(tmp_path / "rec.nii.gz", frames, geometry)
    assert json.loads((tmp_path / "rec.json").read_text()) == {
        "CompoundSamplingFrequency": 800.0,
        "UltrasoundTransmitFrequency": 7.7e6,
        "BeamformingSoundVelocity": 1540.0,
        "VoxelSize": [0.1, 0.2, 0.05],
        "Origin": [1.0, -2.0, 3.5],
    }


def turned(geometry: Geometry) -> Geometry:
    """The same grid with x and y swapped in scanner space."""
    matrix = geometry.matrix_m[[1, 0, 2, 3]]
    return Geometry(as_rows(matrix), 800.0, 7.7e6, 1540.0)


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.mat", "a.h5"])
def test_rotated_grid_is_refused_where_it_would_be_lost(tmp_path, frames, geometry, name):
    with pytest.raises(RecordingError, match=r"rotated, sheared or mirrored.*Save it as \.nii\.gz"):
        save_recording(tmp_path / name, frames, turned(geometry))
    assert not any(tmp_path.iterdir())


def test_rotated_grid_is_kept_by_nifti(tmp_path, frames, geometry):
    save_recording(tmp_path / "a.nii", frames, turned(geometry))
    np.testing.assert_allclose(
        open_recording(tmp_path / "a.nii").geometry.matrix_m, turned(geometry).matrix_m, rtol=1.0e-12
    )


def test_matlab_refuses_another_sound_speed(tmp_path, frames):
    geometry = Geometry.from_voxel_size(
        (1e-4, 1e-4, 1e-4), (0.0, 0.0, 0.0), frame_rate_hz=1.0, transmit_frequency_hz=1e6, sound_speed_m_s=1500.0
    )
    with pytest.raises(RecordingError, match="sound speed is 1500 m/s"):
        save_recording(tmp_path / "a.mat", frames, geometry)


def test_matlab_v5_refuses_more_than_2_gb(tmp_path, geometry):
    huge = np.broadcast_to(np.complex64(0), (1024, 1024, 16, 16))
    with pytest.raises(RecordingError, match=r"2147483648 bytes.*version 7\.3"):
        save_recording(tmp_path / "a.mat", huge, geometry)


def test_unknown_suffix_is_refused(tmp_path, frames, geometry):
    with pytest.raises(RecordingError, match="no format has this suffix"):
        save_recording(tmp_path / "a.tiff", frames, geometry)


@pytest.mark.parametrize("name", ["map.nii", "map.nii.gz"])
def test_map_carries_affine_codes_and_units(tmp_path, geometry, name):
    density = np.arange(5 * 6 * 7, dtype=np.float32).reshape(5, 6, 7)
    save_map(tmp_path / name, density, geometry.refined((8, 1, 8)), description="density " + "x" * 90)
    image = nibabel.load(tmp_path / name)
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), density)
    assert image.get_data_dtype() == np.float32
    # the refined grid starts at -7/16 of a voxel along x and z, and where it did along y
    wanted = [[0.0125, 0, 0, 1 - 0.1 * 7 / 16], [0, 0.2, 0, -2], [0, 0, 0.00625, 3.5 - 0.05 * 7 / 16], [0, 0, 0, 1]]
    for affine, code in (image.get_sform(coded=True), image.get_qform(coded=True)):
        np.testing.assert_allclose(affine, wanted, rtol=1.0e-6, atol=1.0e-7)
        assert code == 1
    assert image.header.get_xyzt_units() == ("mm", "sec")
    assert len(image.header["descrip"].item()) == 79


def test_map_lies_where_simpleitk_sees_it(tmp_path, geometry):
    itk = pytest.importorskip("SimpleITK")
    density = np.zeros((5, 6, 7), np.float32)
    density[1, 2, 3] = 4.0
    save_map(tmp_path / "map.nii.gz", density, geometry)
    image = itk.ReadImage(str(tmp_path / "map.nii.gz"))
    assert image.GetPixel(1, 2, 3) == 4.0
    # ITK turns NIfTI's (right, anterior, superior) into (left, posterior, superior): x and y change sign
    seen = image.TransformIndexToPhysicalPoint((1, 2, 3))
    np.testing.assert_allclose(np.array(seen) * [-1, -1, 1], [1.0 + 0.1, -2.0 + 0.4, 3.5 + 0.15], rtol=1.0e-6)


def test_sheared_map_has_the_sform_alone(tmp_path, geometry):
    matrix = geometry.matrix_m.copy()
    matrix[0, 1] = 3.0e-5
    sheared = Geometry(as_rows(matrix), 800.0, 7.7e6, 1540.0)
    save_map(tmp_path / "map.nii", np.ones((5, 6, 7), np.float32), sheared)
    header = nibabel.load(tmp_path / "map.nii").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 0)
    np.testing.assert_allclose(header.get_sform(), sheared.affine_mm, rtol=1.0e-6)


def test_failed_save_leaves_the_old_recording_and_no_rubbish(tmp_path, frames, geometry, monkeypatch):
    save_recording(tmp_path / "a.npz", frames, geometry)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def fill_disk(path: Path, **arrays: np.ndarray) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fill_disk)
    with pytest.raises(OSError, match="disk full"):
        save_recording(tmp_path / "a.npz", 2 * frames, geometry)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
