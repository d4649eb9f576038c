"""The files that a recording is made of, for hashes and to see that it has changed."""

from pathlib import Path


def stored_files(path: Path) -> list[Path]:
    """List the files of a recording, sorted by name.

    They are itself, and of rec.hraw the rec.raw beside it, or everything in a folder such as rec.zarr.

    Args:
        path: The recording, which exists.
    """
    if path.is_dir():
        return sorted((file for file in path.rglob("*") if file.is_file()), key=lambda file: bytes(file))
    samples = iconeus_samples(path)
    return [path] if samples == path or not samples.is_file() else [path, samples]


def iconeus_samples(path: Path) -> Path:
    """Give the path of the samples beside an Iconeus header: rec.raw of rec.hraw; any other path is its own.

    >>> iconeus_samples(Path("rec.hraw")).name
    'rec.raw'
    """
    suffix = path.suffix
    return path.with_suffix(f".{suffix[2:]}") if suffix.lower() == ".hraw" else path


def size_and_time(path: Path) -> list[int]:
    """Give size and time of the last change [ns] of a recording, and for several files their number.

    Args:
        path: The recording, which exists.
    """
    files = stored_files(path)
    states = [file.stat() for file in files]
    size, changed_ns = sum(state.st_size for state in states), max((state.st_mtime_ns for state in states), default=0)
    return [size, changed_ns] if files == [path] else [size, changed_ns, len(files)]
