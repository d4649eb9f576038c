"""Recordings in, recordings and maps out: the only place where units and axis order change."""

from sparse_ulm.io.atomic import atomic_path
from sparse_ulm.io.correlation import read_correlation_truth
from sparse_ulm.io.nifti import save_map
from sparse_ulm.io.registry import find_recordings, open_recording, open_recordings, save_recording
from sparse_ulm.io.truth import Truth, read_truth, write_truth

__all__ = [
    "Truth",
    "atomic_path",
    "find_recordings",
    "open_recording",
    "open_recordings",
    "read_correlation_truth",
    "read_truth",
    "save_map",
    "save_recording",
    "write_truth",
]
