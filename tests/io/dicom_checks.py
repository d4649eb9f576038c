"""What tests of DICOM files share: the verifier of dicom3tools."""

import shutil
import subprocess

import pytest


def errors_of(path):
    """Give the lines that start with "Error" of `dciodvfy`, which compares a file with the standard's tables."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not installed (Debian: dicom3tools)")
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).splitlines()
    assert lines, "dciodvfy said nothing"
    return [line for line in lines if line.startswith(("Error", "Abort"))]
