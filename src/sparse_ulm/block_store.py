"""Results of the blocks of an unfinished recording, one file each: a run that was stopped goes on behind them."""

import shutil
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from sparse_ulm.errors import RecordingError
from sparse_ulm.io.atomic import atomic_path

BlockResult = dict[str, np.ndarray]
"""What a method found in one block."""

FINGERPRINT = "fingerprint.txt"


class BlockStore:
    """Arrays by the first frame of their block, written whole or not at all and checked when they are read.

    Args:
        folder: Where the files lie.
        fingerprint: Of all that results follow from. Files of another one are removed.
        take_over: Whether to tidy up what an earlier run has left. One process does it before others join it in the
            folder, whose files at hand would go.
    """

    def __init__(self, folder: Path, fingerprint: str, *, take_over: bool = True) -> None:
        """Take over what is there, or start anew; the folder is made with its first file."""
        self.folder, self.fingerprint = folder, fingerprint
        kept = folder / FINGERPRINT
        if not take_over:
            return
        if folder.is_dir() and not (kept.is_file() and kept.read_text(encoding="utf-8") == fingerprint):
            shutil.rmtree(folder)
        for partial in folder.glob(".*.partial*"):
            partial.unlink()

    def save(self, start: int, result: BlockResult) -> None:
        """Keep the result of the block that begins with this frame.

        Raises:
            UserError: If the folder cannot be written to.
        """
        if not (self.folder / FINGERPRINT).is_file():
            with atomic_path(self.folder / FINGERPRINT) as temporary:
                temporary.write_text(self.fingerprint, encoding="utf-8")
        with atomic_path(self._path(start)) as temporary, temporary.open("wb") as file:
            np.savez(file, **result)  # type: ignore[arg-type]  # numpy's stubs take every name for an option

    def load(self, start: int) -> BlockResult | None:
        """Give a block's result; None where it is missing or damaged, and then it is removed."""
        path = self._path(start)
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
            path.unlink(missing_ok=True)
            return None

    def missing(self, starts: Iterable[int]) -> list[int]:
        """List the blocks without a sound result; every file is read, as a disk may have lost the end of one."""
        return [start for start in starts if self.load(start) is None]

    def unseen(self, starts: Iterable[int]) -> list[int]:
        """List the blocks without a file; listing the folder makes NFS look again, which opening a file does not."""
        names = {path.name for path in self.folder.glob("*.npz")}
        return [start for start in starts if self._path(start).name not in names]

    def results(self, starts: Iterable[int]) -> Iterator[BlockResult]:
        """Give the results in this order, one at a time.

        Raises:
            RecordingError: If one is missing.
        """
        for start in starts:
            result = self.load(start)
            if result is None:
                raise RecordingError(
                    f"{self._path(start)} is missing or damaged; wanted the result of a block that was computed "
                    "before. Run again: only that block is computed anew."
                )
            yield result

    @property
    def is_empty(self) -> bool:
        """True where no block was kept."""
        return not any(self.folder.glob("*.npz"))

    def remove(self) -> None:
        """Remove all files and the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, start: int) -> Path:
        return self.folder / f"{start:09d}.npz"
