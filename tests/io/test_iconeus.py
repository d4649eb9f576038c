"""Iconeus .hraw and .raw: written here to the layout that Iconeus' pyiconeus reads, which reads them for us."""

import re
import sys
from pathlib import Path

import numpy as np
import pyiconeus
import pytest
from iconeus_files import N_BLOCKS, write
from tell_tale import tell_tale

from sparse_ulm.errors import RecordingError
from sparse_ulm.io import find_recordings, open_recording
from sparse_ulm.io.stored import size_and_time, stored_files
from sparse_ulm.provenance import sha256_recording

NX, NY, NZ, N_FRAMES = 5, 4, 7, 3
ASKED = {
    "voxel_size_mm": (0.1, 0.2, 0.05),
    "frame_rate_hz": 500.0,
    "transmit_frequency_hz": 15.6e6,
    "sound_speed_m_s": 1540.0,
}


def volume() -> np.ndarray:
    return tell_tale(NX, NY, NZ, N_FRAMES * N_BLOCKS)


@pytest.mark.parametrize("legacy", [False, True])
def test_frames_of_all_blocks(tmp_path: Path, legacy: bool) -> None:
    acquisition = open_recording(write(tmp_path, volume(), legacy=legacy), **ASKED)
    assert acquisition.shape == (NX, NY, NZ, N_FRAMES * N_BLOCKS)
    assert acquisition.name == "rec"
    np.testing.assert_array_equal(acquisition.frames(0, 12), volume())
    for start, stop in ((0, 1), (2, 4), (3, 6), (5, 11), (11, 12)):
        np.testing.assert_array_equal(acquisition.frames(start, stop), volume()[..., start:stop])


@pytest.mark.parametrize("shape", [(5, 1, 7, 12), (5, 1, 7, 4), (1, 1, 7, 4)])
def test_axes_of_length_one_are_kept(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """pyiconeus drops them, a block of one frame among them."""
    acquisition = open_recording(write(tmp_path, tell_tale(*shape)), **ASKED)
    np.testing.assert_array_equal(acquisition.frames(0, shape[3]), tell_tale(*shape))


def test_the_written_file_is_what_pyiconeus_reads(tmp_path: Path) -> None:
    path = write(tmp_path, volume())
    raw = pyiconeus.open_path(tmp_path / "rec.raw", path, blockStart=2, blockEnd=2)
    np.testing.assert_array_equal(raw.data, volume()[..., 3:6].transpose(2, 1, 0, 3))
    assert raw.metadata.frameRate == 500.0


def test_numbers_without_a_unit_are_shown_and_not_used(tmp_path: Path) -> None:
    with pytest.raises(
        RecordingError, match=r"voxDim 0\.1 0\.2 0\.05, frameRate 500, transmitFrequency 15\.6"
    ) as error:
        open_recording(write(tmp_path, volume()))
    assert str(error.value).count("missing") == 4
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
@pytest.mark.parametrize("name", ["rec.raw", "rec.hraw"])
def test_a_cut_file_is_refused(tmp_path: Path, name: str, share: float) -> None:
    path = write(tmp_path, volume())
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(RecordingError, match=r"truncated Iconeus|cannot be read as Iconeus|is empty") as error:
        open_recording(path, **ASKED).frames(0, 12)
    assert "\n" not in str(error.value)


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, volume(), F9=[NX, NY, NZ, 3, 1])
    with pytest.raises(RecordingError, match="holds 3 images per frame, one for each plane wave; wanted compounded IQ"):
        open_recording(path, **ASKED)
    with pytest.raises(RecordingError, match=r"rec\.raw: not a recording by its suffix.*pass the \.hraw beside it"):
        open_recording(tmp_path / "rec.raw", **ASKED)
    (tmp_path / "rec.raw").unlink()
    with pytest.raises(RecordingError, match=r"rec\.raw is not beside it; wanted the samples of this header"):
        open_recording(path, **ASKED)


def test_pyiconeus_is_asked_for_where_it_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, volume())
    monkeypatch.setitem(sys.modules, "pyiconeus", None)
    with pytest.raises(RecordingError, match=re.escape('pip install "sparse-ulm[iconeus]"')):
        open_recording(path, **ASKED)


def test_header_and_samples_are_one_recording(tmp_path: Path) -> None:
    path = write(tmp_path, volume())
    assert find_recordings(tmp_path) == [path]
    assert stored_files(path) == [path, tmp_path / "rec.raw"]
    known, size = sha256_recording(path), size_and_time(path)
    (tmp_path / "rec.raw").write_bytes((tmp_path / "rec.raw").read_bytes()[::-1])
    assert sha256_recording(path) != known
    assert size_and_time(path) != size
