"""A cut file is refused in one line or, where nothing that is needed was lost, read right: never a crash."""

import struct
import time
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st
from tell_tale import tell_tale

from sparse_ulm.acquisition import Geometry
from sparse_ulm.errors import RecordingError
from sparse_ulm.io import open_recording, save_recording
from sparse_ulm.io.sidecar import write_sidecar

TARGETS = ["a.nii", "a.nii.gz", "a.npy", "a.npz", "small.npz", "v5.mat", "v7.mat", "v73.mat", "a.h5"]
FOREIGN = ["a.uff", "ultratrace.h5", "zea.hdf5"]
"""Of formats that we do not write. .zarr and .hraw, of several files each, have tests of their own."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A folder with one whole recording in each format."""
    folder = tmp_path_factory.mktemp("whole")
    samples = tell_tale(5, 6, 7, 8)
    geometry = Geometry.from_voxel_size(
        (1e-4, 2e-4, 5e-5), (0.0, 0.0, 0.0), frame_rate_hz=800.0, transmit_frequency_hz=7.7e6, sound_speed_m_s=1540.0
    )
    for name in TARGETS:
        save_recording(folder / name, samples, geometry, matlab_version="7.3" if name == "v73.mat" else "5")
    np.savez_compressed(folder / "small.npz", iq=samples)
    compress_matlab(folder / "v7.mat")
    for name in FOREIGN:
        write_foreign(folder / name, samples, geometry)
    return folder


def write_foreign(path: Path, samples: np.ndarray, geometry: Geometry) -> None:
    points = np.stack(np.meshgrid(*map(np.arange, samples.shape[:3]), indexing="ij"), axis=-1) * geometry.voxel_size_m
    with h5py.File(path, "w") as file:
        if path.suffix == ".uff":
            file.create_group("b_data").attrs["class"] = "uff.beamformed_data"
            for part in ("real", "imag"):
                file[f"b_data/data/{part}"] = getattr(samples, part).reshape(-1, 1, 1, samples.shape[3])
            for axis, name in enumerate("xyz"):
                file[f"b_data/scan/{name}"] = points[..., axis].ravel()
        elif path.suffix == ".h5":
            file["acquisitions/0/meta/compound_image"] = samples.transpose(3, 1, 2, 0)
            for axis, name in enumerate("xyz"):
                file[f"acquisitions/0/meta/grid/{name}"] = points[..., axis].transpose(2, 1, 0)
        else:
            group = "tracks/track_0/data/beamformed_data"
            parts = np.stack([samples.real, samples.imag], axis=-1)
            file[f"{group}/values"] = parts.transpose(3, 2, 0, 1, 4)
            file[f"{group}/coordinates"] = points.transpose(2, 0, 1, 3)
    write_sidecar(path, geometry)


def compress_matlab(path: Path) -> None:
    content = {name: value for name, value in scipy.io.loadmat(path).items() if not name.startswith("__")}
    scipy.io.savemat(path, content, do_compression=True)


@pytest.mark.parametrize("name", TARGETS + FOREIGN)
@settings(max_examples=40, deadline=None)
@given(share=st.floats(0.0, 1.0, exclude_max=True))
def test_cut_file_is_refused_in_one_line_or_read_right(whole, tmp_path_factory, name, share):
    content = (whole / name).read_bytes()
    folder = tmp_path_factory.mktemp("cut")
    (folder / name).write_bytes(content[: int(share * len(content))])
    sidecar = whole / f"{name.split('.')[0]}.json"
    if sidecar.exists():
        (folder / sidecar.name).write_bytes(sidecar.read_bytes())
    try:
        read = open_recording(folder / name).frames(0, 8)
    except RecordingError as error:
        line = str(error)
    else:
        np.testing.assert_array_equal(read, tell_tale(5, 6, 7, 8))
        return
    assert "\n" not in line


@pytest.mark.parametrize("name", TARGETS + FOREIGN)
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_file_cut_inside_its_samples_is_refused(whole, tmp_path, name, share):
    content = (whole / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(share * len(content))])
    sidecar = whole / f"{name.split('.')[0]}.json"
    if sidecar.exists():
        (tmp_path / sidecar.name).write_bytes(sidecar.read_bytes())
    with pytest.raises(RecordingError, match=r"truncated|cannot be read as|no MATLAB"):
        open_recording(tmp_path / name).frames(0, 8)


HUGE = (64, 65, 66, 60_000)
"""About 130 GB as complex64: files with holes, of which only the frames written take space."""

OPTIONS = {
    "voxel_size_mm": (0.1, 0.2, 0.05),
    "frame_rate_hz": 800.0,
    "transmit_frequency_hz": 7.7e6,
    "sound_speed_m_s": 1540.0,
}


def write_huge_nifti(path: Path, start: int, samples: np.ndarray) -> None:
    header = bytearray(540)
    struct.pack_into("<i8s", header, 0, 540, b"n+2\0\r\n\x1a\n")
    struct.pack_into("<hh8q", header, 12, 32, 64, 4, *HUGE, 1, 1, 1)  # datatype 32 is complex64
    struct.pack_into("<8d", header, 104, 1, 0.1, 0.2, 0.05, 0, 0, 0, 0)
    struct.pack_into("<q", header, 168, 544)
    write_hole(path, bytes(header) + bytes(4), start, samples)


def write_huge_npy(path: Path, start: int, samples: np.ndarray) -> None:
    text = f"{{'descr': '<c8', 'fortran_order': True, 'shape': {HUGE}, }}"
    text = text.ljust(128 - 10 - 1) + "\n"
    write_hole(path, b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode(), start, samples)


def write_hole(path: Path, header: bytes, start: int, samples: np.ndarray) -> None:
    frame_bytes = 8 * int(np.prod(HUGE[:3]))
    with path.open("wb") as file:
        file.write(header)
        file.seek(len(header) + start * frame_bytes)
        file.write(samples.tobytes(order="F"))
        file.truncate(len(header) + HUGE[3] * frame_bytes)


def write_huge_matlab(path: Path, start: int, samples: np.ndarray) -> None:
    pairs = np.dtype([("real", "<f4"), ("imag", "<f4")])
    with h5py.File(path, "w") as file:
        x, y, z, t = HUGE
        dataset = file.create_dataset("IQ", (t, y, x, z), pairs, chunks=(1, y, x, z))
        dataset[start : start + samples.shape[3]] = np.ascontiguousarray(samples.transpose(3, 1, 0, 2)).view(pairs)


def write_huge_correlation(path: Path, start: int, samples: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        x, y, z, t = HUGE
        dataset = file.create_dataset("1/CorrMap", (t, z, y, x, 2), "<f4", chunks=(1, z, y, x, 2))
        dataset[start : start + samples.shape[3]] = np.stack([samples.real, samples.imag]).T


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("huge.nii", write_huge_nifti),
        ("huge.npy", write_huge_npy),
        ("huge.mat", write_huge_matlab),
        ("huge.h5", write_huge_correlation),
    ],
)
def test_recording_larger_than_memory_is_read_frame_by_frame(tmp_path, name, write):
    start = 49_000
    samples = tell_tale(*HUGE[:3], 2)
    write(tmp_path / name, start, samples)
    tracemalloc.start()
    began = time.monotonic()
    acquisition = open_recording(tmp_path / name, **OPTIONS)
    read = acquisition.frames(start, start + 2)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert acquisition.shape == HUGE
    np.testing.assert_array_equal(read, samples)
    assert peak_bytes < 8 * samples.nbytes  # a few copies of the two frames asked for
    assert time.monotonic() - began < 20.0
