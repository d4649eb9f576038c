"""A library that ends its process, or hangs, on a damaged file is one line to the user, and this process goes on."""

import os
import signal
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from sparse_ulm.errors import RecordingError
from sparse_ulm.io import open_recordings
from sparse_ulm.io.trial import require_survival

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are copied on Linux alone")

REC = Path("rec.h5")


def die() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def test_a_file_that_ends_the_process_is_refused() -> None:
    with pytest.raises(RecordingError, match=r"rec\.h5: damaged \(SIGSEGV inside the library that reads it\); wanted"):
        require_survival(REC, die)


def test_a_file_that_is_never_read_to_its_end_is_refused_and_its_process_ended() -> None:
    started = time.monotonic()
    with pytest.raises(RecordingError, match="reading does not end"):
        require_survival(REC, lambda: time.sleep(600.0), patience_s=0.3)
    assert time.monotonic() - started < 10.0
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_errors_and_results_are_left_to_the_caller(capfd: pytest.CaptureFixture[str]) -> None:
    def complain() -> None:
        os.write(2, b"noise")
        raise ValueError("of no account")

    require_survival(REC, complain)
    seen: list[int] = []
    require_survival(REC, lambda: seen.append(1))
    assert not seen  # what a copy changes is the copy's
    assert capfd.readouterr() == ("", "")


def test_hdf5_is_opened_in_a_copy_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As libhdf5 2.0 does on a damaged attribute: it ends the process in which `attrs` are read."""
    path = tmp_path / "rec.uff"
    with h5py.File(path, "w") as file:
        file["x"] = np.zeros(3)
    monkeypatch.setattr("sparse_ulm.io.registry.open_uff", lambda *_, **__: die())
    with pytest.raises(RecordingError, match=r"rec\.uff: damaged \(SIGSEGV"):
        open_recordings(path)
