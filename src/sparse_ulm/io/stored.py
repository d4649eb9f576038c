"""The files that a recording is made of, for hashes and to see that it has changed."""

from pathlib import Path


def stored_files(path: Path) -> list[Path]:
    """List the files of a recording: itself, or everything in a folder such as rec.zarr, sorted by name.

    Args:
        path: The recording, which exists.
    """
    if path.is_dir():
        return sorted((file for file in path.rglob("*") if file.is_file()), key=lambda file: bytes(file))
    return [path]


def size_and_time(path: Path) -> list[int]:
    """Give size and time of the last change [ns] of a recording, and for several files their number.

    Args:
        path: The recording, which exists.
    """
    files = stored_files(path)
    states = [file.stat() for file in files]
    size, changed_ns = sum(state.st_size for state in states), max((state.st_mtime_ns for state in states), default=0)
    return [size, changed_ns] if not path.is_dir() else [size, changed_ns, len(files)]
