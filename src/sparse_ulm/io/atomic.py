"""Write a file, or a folder of files, under a temporary name and rename it, so that nobody ever sees half of it."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sparse_ulm.errors import UserError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path in the folder of `path`, with its suffixes; rename it to `path` on success.

    The folder is made when it is absent. On an error the temporary file goes and an older `path` stays as it was.

    Args:
        path: The file to write.

    Yields:
        Path to write to. Its suffixes are those of `path`, because writers choose their format by them.

    Raises:
        UserError: If the folder cannot be made or written to.

    Source: our choice, because an interrupted run must not leave a map that looks whole.
    """
    target = Path(path)
    temporary = _reserve(target)
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path, *, temporary_in: Path | None = None) -> Iterator[Path]:
    """Give a hidden folder to write to; its files move to `folder` once all of them are there.

    On an error nothing appears in `folder`. Files of the same names are replaced, others there stay.

    Args:
        folder: Where the files go; made if absent.
        temporary_in: Folder of the hidden one, on the same disk; the parent of `folder` if left out. A process that is
            killed leaves it there, under a name with a dot in front.

    Yields:
        The folder to write to.

    Raises:
        UserError: If the folder cannot be made or written to.
    """
    try:
        parent = temporary_in or folder.parent
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parent, prefix=f".{folder.name}.") as temporary:
            yield Path(temporary)
            folder.mkdir(exist_ok=True)
            for file in sorted(Path(temporary).iterdir()):
                os.replace(file, folder / file.name)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror or error}); wanted a writable folder with space. "
            "Choose another --output_dir."
        ) from error


def _reserve(target: Path) -> Path:
    """Make the folder and an empty file with a unique name in it, with the permissions of an ordinary new file."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=f".partial{''.join(target.suffixes)}")
    except OSError as error:
        raise UserError(
            f"{target} cannot be written ({error.strerror}); wanted a writable folder. Choose another."
        ) from error
    os.close(handle)
    mask = os.umask(0)
    os.umask(mask)
    Path(name).chmod(0o666 & ~mask)  # mkstemp makes files that only their owner can read
    return Path(name)
