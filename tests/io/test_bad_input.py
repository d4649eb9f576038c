"""Every bad file gives one line that says what was found, what was wanted and the cure."""

import pickle
import re
from pathlib import Path

import h5py
import hdf5storage
import nibabel
import numpy as np
import pytest
import scipy.io

from sparse_ulm.errors import RecordingError
from sparse_ulm.io import open_recording, open_recordings

OPTIONS = {
    "voxel_size_mm": (0.1, 0.2, 0.05),
    "frame_rate_hz": 800.0,
    "transmit_frequency_hz": 7.7e6,
    "sound_speed_m_s": 1540.0,
}


def refuses(path: Path | str, *patterns: str, **options: object) -> str:
    """Check that opening is refused in one line that matches all patterns; give the line."""
    with pytest.raises(RecordingError) as error:
        open_recordings(path, **options)
    line = str(error.value)
    assert "\n" not in line
    for pattern in patterns:
        assert re.search(pattern, line), f"{pattern!r} not in {line!r}"
    return line


def save_nifti(path: Path, samples: np.ndarray, *, seconds: float = 1 / 800, unit: str = "sec") -> None:
    image = nibabel.Nifti1Image(samples, np.diag([0.1, 0.2, 0.05, 1.0]))
    image.header.set_xyzt_units("mm", unit)
    if samples.ndim > 3:
        image.header["pixdim"][4] = seconds
    nibabel.save(image, path)


def test_everything_that_is_missing_is_in_one_line(tmp_path, frames):
    np.save(tmp_path / "rec.npy", frames)
    line = refuses(
        tmp_path / "rec.npy",
        r"voxel size missing, give VoxelSize \[mm, x y z\] in rec\.json beside it or the option voxel_size_mm",
        r"frame rate missing, give CompoundSamplingFrequency \[Hz\] in rec\.json",
        r"transmit frequency missing, give UltrasoundTransmitFrequency \[Hz\]",
        r"sound speed missing, give BeamformingSoundVelocity \[m/s\]",
    )
    assert line.count("missing") == 4


@pytest.mark.parametrize("absent", OPTIONS)
def test_each_missing_quantity_is_named(tmp_path, frames, absent):
    np.save(tmp_path / "rec.npy", frames)
    line = refuses(tmp_path / "rec.npy", f"option {absent}", **{k: v for k, v in OPTIONS.items() if k != absent})
    assert line.count("missing") == 1
    assert open_recording(tmp_path / "rec.npy", **OPTIONS).n_frames == 8


def test_missing_and_contradictory_are_told_together(tmp_path, frames, write_sidecar_of):
    save_nifti(tmp_path / "rec.nii", frames)
    write_sidecar_of(tmp_path / "rec.nii", CompoundSamplingFrequency=500.0, BeamformingSoundVelocity=None)
    refuses(
        tmp_path / "rec.nii",
        r"contradictory frame rate, 500 Hz in rec\.json but 800 Hz in pixdim of rec\.nii",
        r"contradictory origin, \(1, -2, 3\.5\) mm in rec\.json but \(0, 0, 0\) mm in sform of rec\.nii",
        "sound speed missing",
    )


def test_agreement_within_a_thousandth_is_no_contradiction(tmp_path, frames, write_sidecar_of):
    save_nifti(tmp_path / "rec.nii", frames)
    write_sidecar_of(tmp_path / "rec.nii", Origin=None, CompoundSamplingFrequency=800.7)
    assert open_recording(tmp_path / "rec.nii").geometry.frame_rate_hz == 800.7
    write_sidecar_of(tmp_path / "rec.nii", Origin=None, CompoundSamplingFrequency=800.9)
    refuses(tmp_path / "rec.nii", "contradictory frame rate")


@pytest.mark.parametrize(
    ("option", "value", "pattern"),
    [
        ("voxel_size_mm", (0.1, 0.2, 0.06), "contradictory voxel size along z, 0.05 mm in rec.json but 0.06 mm"),
        ("frame_rate_hz", 1000.0, "contradictory frame rate, 800 Hz in rec.json but 1000 Hz in the options"),
        ("transmit_frequency_hz", 7.8e6, "contradictory transmit frequency, 7.7e[+]06 Hz"),
        ("sound_speed_m_s", 1480.0, "contradictory sound speed, 1540 m/s in rec.json but 1480 m/s in the options"),
    ],
)
@pytest.mark.parametrize("name", ["rec.npy", "rec.npz", "rec.nii"])
def test_options_fill_but_never_overrule(tmp_path, frames, write_sidecar_of, name, option, value, pattern):
    writers = {"rec.npy": np.save, "rec.npz": lambda path, iq: np.savez(path, iq=iq), "rec.nii": save_nifti}
    writers[name](tmp_path / name, frames)
    write_sidecar_of(tmp_path / name, Origin=None)
    refuses(tmp_path / name, pattern, **{option: value})
    assert open_recording(tmp_path / name, **{option: OPTIONS[option]}).n_frames == 8


def test_matlab_header_and_sidecar_contradict(tmp_path, frames, write_sidecar_of):
    for version, write in (("5", scipy.io.savemat), ("7.3", hdf5storage.savemat)):
        path = tmp_path / f"rec{version[0]}.mat"
        extra = {} if version == "5" else {"format": "7.3", "store_python_metadata": False}
        content = {
            "IQ": frames.transpose(2, 0, 1, 3),
            "UF": {"TwFreq": 15.4, "FrameRateUF": 801.0, "FrameRate": 400.0},
            "PData": {"PDelta": np.array([[1.0, 2.0, 0.5]])},
        }
        write(str(path), content, **extra)
        write_sidecar_of(path, VoxelSize=[0.1, 0.2, 0.07])
        refuses(
            path,
            r"contradictory voxel size along z, 0\.07 mm in .*json but 0\.05 mm in PData",
            r"contradictory frame rate, 800 Hz in .*json but 801 Hz in UF of",
            r"800 Hz in .*json but 400 Hz in UF of",
            r"contradictory transmit frequency, 7\.7e\+06 Hz in .*json but 1\.54e\+07 Hz in UF of",
        )


def test_matlab_lengths_in_wavelengths_lack_the_frequency_alone(tmp_path, frames):
    grid = {"PDelta": np.array([[1.0, 2.0, 0.5]])}
    scipy.io.savemat(tmp_path / "a.mat", {"IQ": frames, "PData": grid, "UF": {"FrameRateUF": 800.0}})
    line = refuses(tmp_path / "a.mat", "transmit frequency missing")
    assert line.count("missing") == 1
    read = open_recording(tmp_path / "a.mat", transmit_frequency_hz=15.4e6).geometry
    np.testing.assert_allclose(read.voxel_size_m, (1.0e-4, 2.0e-4, 5.0e-5), rtol=1e-9)
    refuses(
        tmp_path / "a.mat", "contradictory voxel size", transmit_frequency_hz=15.4e6, voxel_size_mm=(0.1, 0.2, 0.06)
    )


@pytest.mark.parametrize(
    ("pulse", "grid", "pattern"),
    [
        ({"TwFreq": np.array([15.4, 7.7])}, {}, r"UF of a\.mat: TwFreq is \[15\.4, 7\.7\]; wanted one positive number"),
        ({"FrameRateUF": 0.0}, {}, r"UF of a\.mat: FrameRateUF is 0\.0; wanted one positive number"),
        ({"TwFreq": 15.4}, {"PDelta": np.array([1.0, 2.0])}, r"PDelta is \[1\.0, 2\.0\]; wanted three numbers"),
        ({"TwFreq": 15.4}, {"PDelta": np.array([1.0, 0.0, 1.0])}, "voxel size missing"),  # 3D needs a step along y
        ({"TwFreq": 15.4e6}, {}, r"transmit frequency is 1\.54e\+13 Hz in UF of a\.mat, .* check its unit"),
    ],
)
def test_nonsense_in_matlab_structs_is_named(tmp_path, frames, pulse, grid, pattern):
    scipy.io.savemat(tmp_path / "a.mat", {"IQ": frames, "UF": pulse, "PData": grid})
    refuses(tmp_path / "a.mat", pattern)


def test_pixdim_and_sform_contradict(tmp_path, frames, write_sidecar_of):
    save_nifti(tmp_path / "rec.nii", frames)
    content = bytearray((tmp_path / "rec.nii").read_bytes())
    content[80:84] = np.float32(0.3).tobytes()  # pixdim[1]
    (tmp_path / "rec.nii").write_bytes(content)
    write_sidecar_of(tmp_path / "rec.nii", VoxelSize=None, Origin=None)
    refuses(tmp_path / "rec.nii", "voxel size along x, 0.3 mm in pixdim of rec.nii but 0.1 mm in sform of rec.nii")


def test_nifti_without_voxel_size_is_not_taken_as_one_millimetre(tmp_path, frames, write_sidecar_of):
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.complex64)
    header.set_data_shape(frames.shape)
    header.set_data_offset(352)
    header["magic"] = b"n+1"
    header["pixdim"][1:5] = 0
    (tmp_path / "rec.nii").write_bytes(header.binaryblock + bytes(4) + frames.tobytes(order="F"))
    write_sidecar_of(tmp_path / "rec.nii", VoxelSize=None, Origin=None)
    refuses(tmp_path / "rec.nii", "voxel size missing")


@pytest.mark.parametrize(("interval", "unit"), [(0.00125, "unknown"), (1.0, "unknown"), (1.0, "sec"), (0.0, "sec")])
def test_nifti_frame_interval_that_nobody_set_says_nothing(tmp_path, frames, write_sidecar_of, interval, unit):
    save_nifti(tmp_path / "rec.nii", frames, seconds=interval, unit=unit)
    refuses(tmp_path / "rec.nii", "frame rate missing")
    write_sidecar_of(tmp_path / "rec.nii", Origin=None)
    assert open_recording(tmp_path / "rec.nii").geometry.frame_rate_hz == 800.0


@pytest.mark.parametrize(
    ("changes", "pattern"),
    [
        ({"UltrasoundTransmitFrequency": 7.7}, r"transmit frequency is 7\.7 Hz in rec\.json, wanted .* check its unit"),
        ({"BeamformingSoundVelocity": 1.54}, r"sound speed is 1\.54 m/s in rec\.json, wanted .* check its unit"),
        ({"VoxelSize": [1e-7, 1e-7, 1e-7]}, r"voxel size along x is 1e-07 mm"),
        ({"VoxelSize": [0.1, 0.2]}, r"VoxelSize is \[0\.1, 0\.2\]; wanted three positive numbers"),
        ({"VoxelSize": [0.1, 0.2, -0.1]}, "wanted three positive numbers"),
        ({"VoxelSize": "0.1"}, "wanted three positive numbers"),
        ({"VoxelSize": 0.1}, "wanted three positive numbers"),
        ({"Origin": [0, 0, float("nan")]}, "Origin .* wanted three numbers"),
        ({"CompoundSamplingFrequency": "800"}, "CompoundSamplingFrequency is '800'; wanted one positive number"),
        ({"CompoundSamplingFrequency": 0}, "CompoundSamplingFrequency is 0; wanted one positive number"),
        ({"CompoundSamplingFrequency": True}, "is True; wanted one positive number"),
        ({"CompoundSamplingFrequency": float("inf")}, "is inf; wanted one positive number"),
        ({"CompoundSamplingFrequency": 10**400}, "wanted one positive number"),
        ({"Axes": ["x", "y", "t"]}, "Axes is .*; wanted the array's axes"),
        ({"Axes": "xyzt"}, "Axes is 'xyzt'; wanted the array's axes"),
        ({"Axes": ["x", "z", "t"]}, r"wrong rank, an array of shape \(5, 6, 7, 8\) found and \(x, z, t\) wanted"),
    ],
)
def test_nonsense_in_the_sidecar_is_named(tmp_path, frames, write_sidecar_of, changes, pattern):
    np.save(tmp_path / "rec.npy", frames)
    write_sidecar_of(tmp_path / "rec.npy", **changes)
    refuses(tmp_path / "rec.npy", pattern)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000])
def test_broken_sidecar_is_named(tmp_path, frames, content):
    np.save(tmp_path / "rec.npy", frames)
    (tmp_path / "rec.json").write_bytes(content)
    refuses(tmp_path / "rec.npy", r"rec\.json: (not readable as JSON|holds a JSON list)")


def test_sidecar_with_byte_order_mark_is_read(tmp_path, frames, write_sidecar_of):
    np.save(tmp_path / "rec.npy", frames)
    write_sidecar_of(tmp_path / "rec.npy")
    content = (tmp_path / "rec.json").read_bytes()
    (tmp_path / "rec.json").write_bytes(b"\xef\xbb\xbf" + content)
    assert open_recording(tmp_path / "rec.npy").n_frames == 8


def test_other_axes_are_refused_where_the_format_fixes_them(tmp_path, frames, write_sidecar_of):
    save_nifti(tmp_path / "rec.nii", frames)
    write_sidecar_of(tmp_path / "rec.nii", Origin=None, Axes=["t", "z", "y", "x"])
    refuses(tmp_path / "rec.nii", "contradictory axes")


def test_real_valued_data_is_refused_in_every_format(tmp_path, frames):
    envelope = np.abs(frames)
    save_nifti(tmp_path / "a.nii.gz", envelope)
    np.save(tmp_path / "b.npy", envelope)
    np.savez(tmp_path / "c.npz", iq=envelope)
    scipy.io.savemat(tmp_path / "d.mat", {"IQ": envelope, "other": frames})
    hdf5storage.savemat(str(tmp_path / "e.mat"), {"IQ": envelope}, format="7.3", store_python_metadata=False)
    for name in ("a.nii.gz", "b.npy", "c.npz", "d.mat", "e.mat"):
        refuses(tmp_path / name, "real-valued .*float32|real-valued single", "wanted complex IQ", **OPTIONS)


def test_envelopes_named_bubbles_are_refused(tmp_path, frames):
    scipy.io.savemat(tmp_path / "clinical.mat", {"bubbles": np.abs(frames[:, 0])})
    refuses(tmp_path / "clinical.mat", "no complex array .*bubbles 5x7x8 single", "envelopes", **OPTIONS)


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 7), (5, 6, 7, 8, 2)])
def test_wrong_rank_is_refused(tmp_path, shape):
    samples = np.ones(shape, np.complex64)
    nibabel.save(nibabel.Nifti1Image(samples, np.diag([0.1, 0.2, 0.05, 1.0])), tmp_path / "a.nii")
    np.save(tmp_path / "b.npy", samples)
    np.savez(tmp_path / "c.npz", iq=samples)
    for name in ("a.nii", "b.npy", "c.npz"):
        refuses(tmp_path / name, rf"wrong rank, an array of shape \({', '.join(map(str, shape))}\)", **OPTIONS)
    if len(shape) != 3:
        scipy.io.savemat(tmp_path / "d.mat", {"IQ": samples})
        refuses(tmp_path / "d.mat", "wrong rank", **OPTIONS)


def test_empty_array_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((5, 6, 7, 0), np.complex64))
    refuses(tmp_path / "a.npy", "empty array", **OPTIONS)


def test_pickles_are_refused_and_never_loaded(tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "sprung",)

    np.save(tmp_path / "objects.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "objects.npz", iq=np.array([Trap()], dtype=object))
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps(Trap()))
    refuses(tmp_path / "objects.npy", "pickled object array, never loaded", **OPTIONS)
    refuses(tmp_path / "objects.npz", "pickled object array, never loaded", **OPTIONS)
    refuses(tmp_path / "pickle.npy", "no numpy array .*pickle", **OPTIONS)
    assert not (tmp_path / "sprung").exists()


def test_several_candidates_are_listed_with_the_cure(tmp_path, frames):
    np.savez(tmp_path / "a.npz", before=frames, after=2 * frames)
    scipy.io.savemat(tmp_path / "b.mat", {"before": frames, "after": 2 * frames, "text": "hello"})
    hdf5storage.savemat(
        str(tmp_path / "c.mat"), {"before": frames, "after": 2 * frames}, format="7.3", store_python_metadata=False
    )
    for name in ("a.npz", "b.mat", "c.mat"):
        line = refuses(tmp_path / name, "several recordings", "set variable to one of them", **OPTIONS)
        assert {"before", "after"} < set(re.findall(r"\w+", line))
        chosen = open_recording(tmp_path / name, variable="after", **OPTIONS)
        assert chosen.frames(0, 1).ravel()[-1] == 2 * frames[..., :1].ravel()[-1]
        refuses(tmp_path / name, "holds no 'between'", variable="between", **OPTIONS)


@pytest.mark.parametrize("option", [{"frame_rate_hz": -1.0}, {"voxel_size_mm": (0.1, 0.1)}, {"sound_speed_m_s": 0}])
def test_nonsense_in_the_options_is_named(tmp_path, frames, option):
    np.save(tmp_path / "a.npy", frames)
    refuses(tmp_path / "a.npy", f"the options: {next(iter(option))} is", **(OPTIONS | option))


def test_not_finite_samples_are_refused_on_reading(tmp_path, frames):
    frames[1, 2, 3, 4] = complex(1.0, np.nan)
    frames[4, 5, 6, 7] = np.inf
    np.save(tmp_path / "a.npy", frames)
    acquisition = open_recording(tmp_path / "a.npy", **OPTIONS)
    acquisition.frames(0, 4)
    with pytest.raises(RecordingError, match=r"2 NaN or infinite samples .*first at \(x, y, z, t\) = \(1, 2, 3, 4\)"):
        acquisition.frames(2, 8)


def test_foreign_and_absent_files_are_named(tmp_path, frames):
    np.save(tmp_path / "array.npy", frames)
    content = (tmp_path / "array.npy").read_bytes()
    for suffix, pattern in {
        ".nii": "no single-file NIfTI",
        ".nii.gz": "cannot be read as NIfTI .*gzip",
        ".npz": "cannot be read as .npz",
        ".mat": "no MATLAB v5 or v7.3 file",
        ".h5": "cannot be read as HDF5",
    }.items():
        (tmp_path / f"wrong{suffix}").write_bytes(content)
        refuses(tmp_path / f"wrong{suffix}", pattern, **OPTIONS)
        (tmp_path / f"empty{suffix}").touch()
        refuses(tmp_path / f"empty{suffix}", r"is empty \(0 bytes\)", **OPTIONS)
    refuses(tmp_path / "absent.nii", "no such file")
    refuses(tmp_path / "array.json", "no such file")
    (tmp_path / "notes.txt").write_text("hello")
    refuses(tmp_path / "notes.txt", "not a recording by its suffix")
    (tmp_path / "folder.nii").mkdir()
    refuses(tmp_path / "folder.nii", "is no file")


def test_hdf5_of_another_kind_is_named(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data/values"] = np.ones(3)
        file["1/CorrMap"] = np.ones((8, 7, 6, 5, 3), np.float32)
    refuses(tmp_path / "a.h5", r"1/CorrMap is float32 of shape \(8, 7, 6, 5, 3\); wanted real numbers", **OPTIONS)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["data/values"] = np.ones(3)
    refuses(tmp_path / "b.h5", r"no group with a CorrMap among \['data'\]", **OPTIONS)
    with h5py.File(tmp_path / "c.mat", "w") as file:
        file["data/values"] = np.ones(3)
    refuses(tmp_path / "c.mat", "no complex array of rank 3 or 4", **OPTIONS)
