"""Turn whatever a file library raises on a damaged or foreign file into one line for the user."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sparse_ulm.errors import RecordingError, UserError


@contextmanager
def reading(path: Path, *, as_format: str) -> Iterator[None]:
    """Report any failure while reading `path` as a `RecordingError` of one line.

    Args:
        path: The file being read.
        as_format: What it is read as, for the message ("NIfTI", "MATLAB v5").

    Raises:
        RecordingError: If the body raises anything; a `UserError` passes unchanged.
    """
    try:
        yield
    except UserError:
        raise
    # Parsers meet arbitrary bytes here: nibabel, scipy, h5py, zipfile and zlib raise a dozen unrelated types on them.
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise RecordingError(
            f"{path.name}: cannot be read as {as_format} ({reason[:200]}); wanted a complete, undamaged file. "
            "Copy or export it again."
        ) from error


def require_bytes(path: Path, *, as_format: str, n_bytes: int) -> None:
    """Refuse a file shorter than its header promises, before anything is read from it.

    Raises:
        RecordingError: If the file holds fewer than `n_bytes` bytes.
    """
    found = path.stat().st_size
    if found < n_bytes:
        raise RecordingError(
            f"{path.name}: truncated {as_format}, {found} bytes found and {n_bytes} wanted by its header. "
            "Copy or export it again."
        )
