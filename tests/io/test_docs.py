"""What the how-to tells a lab to do works, in the order in which it is told."""

import os
import re
from pathlib import Path

import numpy as np
import pytest

from sparse_ulm.errors import RecordingError
from sparse_ulm.io import open_recording

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "recordings.md"


def test_python_of_the_page_runs(tmp_path):
    examples = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(examples) == 3
    before = os.getcwd()
    os.chdir(tmp_path)
    try:
        exec("\n".join(examples), {})
    finally:
        os.chdir(before)
    original = open_recording(tmp_path / "rat_1.npy")
    for name in ("copy.nii.gz", "copy.mat"):
        copy = open_recording(tmp_path / name)
        assert copy.geometry == original.geometry
        np.testing.assert_array_equal(copy.frames(0, 20), original.frames(0, 20))


def test_sidecar_of_the_page_describes_a_recording(tmp_path):
    (sidecar,) = re.findall(r"```json\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    np.save(tmp_path / "a.npy", np.ones((5, 6, 7, 8), np.complex64))
    with pytest.raises(RecordingError, match="missing"):
        open_recording(tmp_path / "a.npy")
    (tmp_path / "a.json").write_text(sidecar)
    np.testing.assert_allclose(open_recording(tmp_path / "a.npy").geometry.voxel_size_m, [1e-4, 1e-4, 5e-5])
