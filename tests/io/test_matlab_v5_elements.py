"""Tags of MATLAB v5 variables: what scipy writes passes, what would send its reader astray is refused."""

import struct
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from sparse_ulm.errors import RecordingError
from sparse_ulm.io import open_recording
from sparse_ulm.io.matlab_v5_elements import DamagedElementError, check_variable

CONTENT = {
    "IQ": (np.arange(120).reshape(4, 5, 6) * (1 + 2j)).astype(np.complex64),
    "PData": {
        "PDelta": [0.5, 1.0, 0.25],
        "Size": np.array([7, 5, 6], np.int16),
        "inner": {"text": "two words", "e": []},
    },
    "cells": np.array([np.ones((2, 3), np.uint8), "x", np.zeros((0, 4))], dtype=object),
    "one": np.array([[True, False]]),
    "text": "",
}


@pytest.fixture(params=[False, True])
def path(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Uncompressed and compressed."""
    scipy.io.savemat(tmp_path / "a.mat", CONTENT, do_compression=request.param)
    return tmp_path / "a.mat"


def test_what_scipy_writes_passes(path: Path) -> None:
    assert sorted(name for name, *_ in scipy.io.whosmat(path)) == sorted(CONTENT)
    for name in (*CONTENT, "not there"):
        check_variable(path, name)


def rewritten(path: Path, old: bytes, new: bytes) -> Path:
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))
    return path


@pytest.mark.parametrize("path", [False], indirect=True)
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (struct.pack("<II", 7, 480), struct.pack("<II", 0x1007, 480), "480 bytes of type 4103"),
        (struct.pack("<II", 7, 480), struct.pack("<II", 9, 480), "480 bytes of type 9 for 120 values"),
        (struct.pack("<IIiii", 5, 12, 4, 5, 6), struct.pack("<IIiii", 5, 12, 4, 5, 7), "480 bytes of type 7 for 140"),
        (struct.pack("<IIiii", 5, 12, 4, 5, 6), struct.pack("<IIiii", 5, 12, 4, -5, 6), r"shape \(4, -5, 6\)"),
        (struct.pack("<IIiii", 5, 12, 4, 5, 6), struct.pack("<IIiii", 5, 12 << 8, 4, 5, 6), "3072 bytes of type 5"),
    ],
)
def test_a_tag_that_lies_is_refused(path: Path, old: bytes, new: bytes, message: str) -> None:
    content = path.read_bytes()
    at = content.index(old)
    path.write_bytes(content[:at] + new + content[at + len(old) :])
    with pytest.raises(DamagedElementError, match=message):
        check_variable(path, "IQ")


@pytest.mark.parametrize("path", [False], indirect=True)
def test_what_ended_the_process_is_one_line(path: Path) -> None:
    """A type that does not exist, of a field of a struct: scipy looks it up beyond the end of a table."""
    numbers = np.array([0.5, 1.0, 0.25]).tobytes()
    rewritten(path, struct.pack("<II", 9, 24) + numbers, struct.pack("<II", 0x1009, 24) + numbers)
    with pytest.raises(RecordingError, match=r"^a\.mat: cannot be read as MATLAB v5 \(DamagedElementError: 24 bytes"):
        open_recording(path)


@pytest.mark.parametrize("path", [False], indirect=True)
def test_nests_without_an_end_and_nameless_fields_are_refused(path: Path, tmp_path: Path) -> None:
    deep: object = 1.0
    for _ in range(25):
        deep = {"f": deep}
    scipy.io.savemat(tmp_path / "deep.mat", {"deep": deep})
    with pytest.raises(DamagedElementError, match="21 deep"):
        check_variable(tmp_path / "deep.mat", "deep")
    content = path.read_bytes()
    at = content.index(struct.pack("<HHi", 5, 4, 7))  # length of field names, in the tag itself
    path.write_bytes(content[:at] + struct.pack("<HHi", 5, 4, 0) + content[at + 8 :])
    with pytest.raises(DamagedElementError, match="names of 0 each"):
        check_variable(path, "PData")
