"""Fixtures of the bundle's tests."""

import os
import sys
from pathlib import Path

import pytest
import torch
from bundle_runs import GEOMETRY, ROOT, blob_frames, save_untrained

from sparse_ulm.io import save_recording


@pytest.fixture(autouse=True)
def _process_state(monkeypatch):
    """Put back what a workflow changes in its process: the import path and the number of threads."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """An untrained network of `SIZES`, always the same one."""
    return save_untrained(tmp_path_factory.mktemp("weights") / "untrained.pt")


@pytest.fixture(scope="session")
def recording(tmp_path_factory):
    """A folder with one recording of 40 frames."""
    folder = tmp_path_factory.mktemp("recordings")
    save_recording(folder / "blob.npz", blob_frames(), GEOMETRY)
    return folder


@pytest.fixture(scope="session")
def schema():
    """MONAI's metadata schema, where it lies on this machine."""
    shared = Path(os.environ.get("SPARSE_ULM_SHARED", ROOT.parent / "shared"))
    path = shared / "data" / "monai" / "meta_schema_20240725.json"
    if not path.is_file():
        pytest.skip("MONAI's metadata schema is not on this machine (SPARSE_ULM_SHARED)")
    return path
