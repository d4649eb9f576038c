"""File names of a recording: its stem, its sidecar, and the group that `FILE.h5::3` asks for."""

from pathlib import Path

SUFFIXES = (".nii.gz", ".nii", ".npy", ".npz", ".mat", ".h5", ".hdf5", ".uff", ".zarr", ".hraw", ".dcm")
"""Endings of files, and folders, that are read as recordings."""

FOLDERS = (".zarr",)
"""Endings of recordings that are a folder."""

GROUP_MARK = "::"
GROUPED = (".h5", ".hdf5", ".uff")
"""Endings of files that may hold several recordings."""


def recording_suffix(path: Path) -> str:
    """Give the recording suffix of a path in lower case, or "" if it has none of `SUFFIXES`.

    >>> recording_suffix(Path("rat.run-1.NII.GZ"))
    '.nii.gz'
    """
    return next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), "")


def recording_stem(path: Path) -> str:
    """Give the name without the recording suffix.

    >>> recording_stem(Path("rat.run-1.nii.gz"))
    'rat.run-1'
    """
    suffix = recording_suffix(path)
    return path.name[: -len(suffix)] if suffix else path.stem


def sidecar_path(path: Path) -> Path:
    """Give the path of the JSON file that describes a recording: same folder, same stem.

    >>> sidecar_path(Path("rat.run-1.nii.gz")).name
    'rat.run-1.json'
    """
    return path.with_name(f"{recording_stem(path)}.json")


def split_group(path: str | Path) -> tuple[Path, str | None]:
    """Split "train.h5::3" into the file and the group; the group is None where none is named.

    >>> split_group("train.h5::3")[1]
    '3'
    """
    name, mark, group = str(path).rpartition(GROUP_MARK)
    return (Path(name), group) if mark and recording_suffix(Path(name)) in GROUPED else (Path(path), None)
