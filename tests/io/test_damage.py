"""A cut file is refused in one line or, where nothing that is needed was lost, read right: never a crash."""

import struct
import time
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tell_tale import tell_tale
from whole_files import FOREIGN, TARGETS, write_all

from sparse_ulm.errors import RecordingError
from sparse_ulm.io import open_recording


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A folder with one whole recording in each format."""
    folder = tmp_path_factory.mktemp("whole")
    write_all(folder)
    return folder


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
