"""Find recordings, open them by what their names and first bytes say, and save them."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import h5py
import numpy as np
from jaxtyping import Complex

from sparse_ulm.acquisition import Acquisition, Geometry
from sparse_ulm.errors import RecordingError
from sparse_ulm.io.confusius import open_confusius
from sparse_ulm.io.correlation import open_correlation, save_correlation
from sparse_ulm.io.dicom import open_dicom
from sparse_ulm.io.iconeus import open_iconeus
from sparse_ulm.io.matlab import open_matlab
from sparse_ulm.io.matlab_write import MatlabVersion, save_matlab
from sparse_ulm.io.names import FOLDERS, SUFFIXES, recording_suffix, split_group
from sparse_ulm.io.nifti import open_nifti, save_nifti
from sparse_ulm.io.npz import open_npy, open_npz, save_npy, save_npz
from sparse_ulm.io.statements import Number, Statement, state_options
from sparse_ulm.io.trial import require_survival
from sparse_ulm.io.uff import open_uff
from sparse_ulm.io.ultratrace import is_ultratrace, open_ultratrace
from sparse_ulm.io.zea import is_zea, open_zea

WRITERS = {
    ".nii": save_nifti,
    ".nii.gz": save_nifti,
    ".npy": save_npy,
    ".npz": save_npz,
    ".h5": save_correlation,
    ".hdf5": save_correlation,
}
"""How each suffix is written; .mat has two versions and is not here."""


def find_recordings(path: str | Path) -> list[Path]:
    """List the recordings of a folder, sorted by name, or the one recording that `path` is.

    Hidden files are left out, so that a recording that is being written is not seen.

    Args:
        path: A folder (what lies in it, not in folders inside), or one recording, which may be a .zarr folder.

    Raises:
        RecordingError: If there is no such path, or the folder holds no recording.
    """
    folder = Path(path)
    if not folder.is_dir() or recording_suffix(folder) in FOLDERS:
        require_file(split_group(path)[0])
        return [folder]
    found = sorted(f for f in folder.iterdir() if _is_recording(f) and not f.name.startswith("."))
    if not found:
        raise RecordingError(
            f"{folder}: no recordings found; wanted files ending in {', '.join(SUFFIXES)}. Check the folder."
        )
    return found


def _is_recording(path: Path) -> bool:
    """Tell by its suffix whether a file, or a folder, is a recording."""
    suffix = recording_suffix(path)
    return bool(suffix) and (path.is_dir() if suffix in FOLDERS else path.is_file())


def require_file(path: Path) -> None:
    """Refuse a path that is no recording with something in it.

    Raises:
        RecordingError: If it does not exist, is a folder where a file is wanted or the reverse, is empty, or its
            suffix is none of ours.
    """
    if not path.exists():
        raise RecordingError(f"{path}: no such file. Check the path.")
    suffix = recording_suffix(path)
    if not suffix:
        cure = " Of Iconeus recordings pass the .hraw beside it." if path.suffix.lower() == ".raw" else ""
        raise RecordingError(f"{path.name}: not a recording by its suffix; wanted one of {', '.join(SUFFIXES)}.{cure}")
    if suffix in FOLDERS:
        if not path.is_dir():
            raise RecordingError(f"{path.name}: is no folder; wanted one, as Zarr recordings are. Unpack or rename it.")
        if not any(path.iterdir()):
            raise RecordingError(f"{path.name}: is an empty folder; wanted a recording. Copy or export it again.")
        return
    if not path.is_file():
        raise RecordingError(f"{path.name}: is no file; wanted one recording.")
    if path.stat().st_size == 0:
        raise RecordingError(f"{path.name}: is empty (0 bytes); wanted a recording. Copy or export it again.")


def open_recordings(
    path: str | Path,
    *,
    voxel_size_mm: Sequence[Number] | None = None,
    frame_rate_hz: Number | None = None,
    transmit_frequency_hz: Number | None = None,
    sound_speed_m_s: Number | None = None,
    variable: str | None = None,
    dynamic_range_db: Number | None = None,
) -> list[Acquisition]:
    """Open everything that a file holds: one recording, or one per group, track or data set of HDF5 files.

    Options fill what the file and its sidecar do not say. Frames are read later, when they are asked for.

    Args:
        path: The file; "train.h5::3" is group 3 alone.
        voxel_size_mm: Grid step along x, y, z.
        frame_rate_hz: Volumes per second, after compounding.
        transmit_frequency_hz: Centre frequency of the transmitted pulse.
        sound_speed_m_s: Sound speed used in beamforming.
        variable: Which array of a .mat, .npz or .zarr, or region of a .dcm, to read, where that is not clear.
        dynamic_range_db: Decibels from black to white, of log-compressed images.

    Raises:
        RecordingError: If the file is damaged, holds no complex 4D recording, or its geometry is missing or
            contradictory; the message is one line and lists everything that is missing.
    """
    file, group = split_group(path)
    require_file(file)
    options = state_options(
        {
            "voxel_size_mm": voxel_size_mm,
            "frame_rate_hz": frame_rate_hz,
            "transmit_frequency_hz": transmit_frequency_hz,
            "sound_speed_m_s": sound_speed_m_s,
        }
    )
    open_all = partial(_open, file, group, options, variable, dynamic_range_db)
    if _is_hdf5(file):
        require_survival(file, open_all)
    return open_all()


def open_recording(
    path: str | Path,
    *,
    voxel_size_mm: Sequence[Number] | None = None,
    frame_rate_hz: Number | None = None,
    transmit_frequency_hz: Number | None = None,
    sound_speed_m_s: Number | None = None,
    variable: str | None = None,
    dynamic_range_db: Number | None = None,
) -> Acquisition:
    """Open the one recording in a file; arguments and errors as for `open_recordings`.

    Raises:
        RecordingError: Also if the file holds several recordings.
    """
    opened = open_recordings(
        path,
        voxel_size_mm=voxel_size_mm,
        frame_rate_hz=frame_rate_hz,
        transmit_frequency_hz=transmit_frequency_hz,
        sound_speed_m_s=sound_speed_m_s,
        variable=variable,
        dynamic_range_db=dynamic_range_db,
    )
    if len(opened) > 1:
        first = opened[0].details["group"]
        raise RecordingError(
            f"{Path(path).name}: holds {len(opened)} recordings; wanted one. Ask for one group, as {path}::{first}."
        )
    return opened[0]


def save_recording(
    path: str | Path,
    frames: Complex[np.ndarray, "x y z t"],
    geometry: Geometry,
    *,
    matlab_version: MatlabVersion = "5",
) -> None:
    """Write a recording in the format of its suffix, with the sidecar JSON where the format cannot say everything.

    Args:
        path: .nii, .nii.gz, .npy, .npz, .mat, .h5 or .hdf5 (a PSF correlation map); its folder is made if absent.
        frames: Complex samples; y is 1 for a 2D recording.
        geometry: Where and when they lie.
        matlab_version: Of a .mat: "5", at most 2 GB a variable, or "7.3".

    Raises:
        RecordingError: If the format cannot hold this geometry or size, or there is no such format.
    """
    target = Path(path)
    suffix = recording_suffix(target)
    if suffix != ".mat" and suffix not in WRITERS:
        found = "this format is only read" if suffix else "no format has this suffix"
        raise RecordingError(f"{target.name}: {found}; wanted one of {', '.join((*WRITERS, '.mat'))}. Choose another.")
    if suffix == ".mat":
        save_matlab(target, frames, geometry, version=matlab_version)
    else:
        WRITERS[suffix](target, frames, geometry)


def _open(
    file: Path, group: str | None, options: Statement, variable: str | None, dynamic_range_db: Number | None
) -> list[Acquisition]:
    """Call the reader for a suffix."""
    suffix = recording_suffix(file)
    if suffix in (".nii", ".nii.gz"):
        return [open_nifti(file, options)]
    if suffix == ".npy":
        return [open_npy(file, options)]
    if suffix == ".npz":
        return [open_npz(file, options, variable=variable)]
    if suffix == ".mat":
        return [open_matlab(file, options, variable=variable)]
    if suffix == ".dcm":
        return [open_dicom(file, options, dynamic_range_db=dynamic_range_db, region=variable)]
    if suffix == ".zarr":
        return [open_confusius(file, options, variable=variable)]
    if suffix == ".hraw":
        return [open_iconeus(file, options)]
    if suffix == ".uff":
        return open_uff(file, options, group=group)
    return _hdf5_reader(file)(file, options, group=group)


def _is_hdf5(path: Path) -> bool:
    """Tell whether a file is HDF5, whatever its suffix, without opening it."""
    return path.is_file() and bool(h5py.is_hdf5(path))


def _hdf5_reader(path: Path) -> Callable[..., list[Acquisition]]:
    """Choose a reader by what an HDF5 file holds; a damaged one is left to the reader's own message."""
    try:
        with h5py.File(path, "r") as file:
            if is_zea(file):
                return open_zea
            return open_ultratrace if is_ultratrace(file) else open_correlation
    except Exception:  # h5py raises what it likes on damaged files; the reader meets the same, and says so
        return open_correlation
