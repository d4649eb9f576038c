"""What a run over recordings has done, one entry each in `OUTPUT_DIR/manifest.json`, and who may write there."""

import csv
import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sparse_ulm import __version__
from sparse_ulm.acquisition import Acquisition
from sparse_ulm.blocks import BlockItem
from sparse_ulm.errors import UserError, find_user_error
from sparse_ulm.io.atomic import atomic_path
from sparse_ulm.io.stored import size_and_time
from sparse_ulm.provenance import sha256_file, to_json

MANIFEST, SUMMARY, UNFINISHED, LOCK = "manifest.json", "summary.csv", ".unfinished", "lock"
DONE, FAILED, STOPPED = "done", "failed", "unfinished"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """What the manifest says of a recording.

    Attributes:
        path: As it was given.
        status: "done", "failed", or "unfinished" where a run was stopped.
        fingerprint: Of settings, weights, version and the recording's size and time.
        n_frames: Of the recording; 0 where it could not be opened.
        n_blocks: Likewise.
        seconds: Of the work, in the run that ended it.
        error: Why it failed.
        outputs: SHA-256 by name of the files in `OUTPUT_DIR/NAME/`.
    """

    path: str
    status: str
    fingerprint: str = ""
    n_frames: int = 0
    n_blocks: int = 0
    seconds: float = 0.0
    error: str = ""
    outputs: dict[str, str] = field(default_factory=dict)


class Run:
    """The manifest of an output folder while one run works on it.

    Args:
        output_dir: The folder, made when something is written.
        settings: All that results follow from; files as `Path`, which count by what they hold.
        resume: See `batch.run_recordings`.
        force: See `batch.run_recordings`.

    Attributes:
        entries: By name of the recording.
    """

    def __init__(self, output_dir: Path, settings: Mapping[str, Any], *, resume: bool, force: bool) -> None:
        """Keep the settings; nothing is read or written."""
        self.output_dir, self.settings, self.resume, self.force = output_dir, settings, resume, force
        self.entries: dict[str, Entry] = {}
        self.failures: dict[str, Exception] = {}
        self.n_recordings = 0

    def __enter__(self) -> "Run":
        """Lock the folder and read its manifest.

        Raises:
            UserError: If another run works there, or the manifest is none of ours.
        """
        self.was_there = self.output_dir.exists()
        try:
            (self.output_dir / UNFINISHED).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{self.output_dir} cannot be written ({error.strerror}); wanted a writable folder with space. "
                "Choose another --output_dir."
            ) from error
        self.lock = FileLock(self.output_dir / UNFINISHED / LOCK, timeout=0)
        try:
            self.lock.acquire()
        except Timeout:
            raise UserError(
                f"another run is writing to {self.output_dir}; wanted a folder of its own for each. Wait for it, or "
                "choose another --output_dir."
            ) from None
        self._remove_litter()
        values = {name: to_json(value) for name, value in self.settings.items() if not isinstance(value, Path)}
        paths = {name: value for name, value in self.settings.items() if isinstance(value, Path)}
        files = {name: sha256_file(path) if path.is_file() else None for name, path in paths.items()}
        self._made_from = [__version__, json.dumps([values, files], sort_keys=True)]
        try:
            self.entries = read_manifest(self.output_dir / MANIFEST)
        except UserError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Release the folder; one that this run made in vain goes."""
        self.lock.release()
        unfinished = self.output_dir / UNFINISHED
        (unfinished / LOCK).unlink(missing_ok=True)
        if not any(unfinished.iterdir()):
            unfinished.rmdir()
            statuses = {entry.status for entry in self.entries.values()}
            # The error of an only recording says all; that of several sends the user to the summary.
            is_told = self.n_recordings > 1 and FAILED in statuses
            if not (self.was_there or is_told or DONE in statuses):
                shutil.rmtree(self.output_dir)

    def _remove_litter(self) -> None:
        """Remove what a killed run was writing."""
        for path in (*self.output_dir.glob(".*.partial*"), *(self.output_dir / UNFINISHED).glob(".*")):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def wanted(self, by_recording: dict[str, list[BlockItem]]) -> list[tuple[Acquisition, list[int]]]:
        """List the recordings that are not done, with the first frames of their blocks.

        Raises:
            UserError: If results of other settings are there, and `force` is not set.
        """
        self.n_recordings = len(by_recording) + len(self.failures)
        wanted = []
        for name, items in by_recording.items():
            acquisition = items[0]["image"]
            if not (self.resume and self._is_done(acquisition, len(items))):
                self._refuse_others(acquisition, len(items))
                wanted.append((acquisition, [item["core"][0] for item in items]))
            else:
                logger.info("%s is done: left alone.", name)
        return wanted

    def entry_of(self, acquisition: Acquisition, n_blocks: int) -> Entry:
        """Describe a recording as this run would make it."""
        made_from = [*self._made_from, acquisition.name, *size_and_time(acquisition.path)]
        digest = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()
        return Entry(str(acquisition.path), STOPPED, digest, acquisition.n_frames, n_blocks)

    def _is_done(self, acquisition: Acquisition, n_blocks: int) -> bool:
        entry = self.entries.get(acquisition.name)
        if entry is None or entry.status != DONE:
            return False
        folder = self.output_dir / acquisition.name
        same = entry.fingerprint == self.entry_of(acquisition, n_blocks).fingerprint
        return same and all(_has(folder / name, digest) for name, digest in entry.outputs.items())

    def _refuse_others(self, acquisition: Acquisition, n_blocks: int) -> None:
        entry, folder = self.entries.get(acquisition.name), self.output_dir / acquisition.name
        same = entry is not None and entry.fingerprint == self.entry_of(acquisition, n_blocks).fingerprint
        if (folder / "provenance.json").is_file() and not same and not self.force:
            raise UserError(
                f"{folder} holds results of other settings, of another recording or of an older version; wanted a "
                "place of its own for these. Choose another --output_dir, or replace them with --force true."
            )

    def note(self, name: str, entry: Entry) -> None:
        """Write an entry into the manifest and the summary."""
        self.entries[name] = entry
        with atomic_path(self.output_dir / MANIFEST) as temporary:
            rows = {key: asdict(one) for key, one in self.entries.items()}
            temporary.write_text(json.dumps({"recordings": rows}, indent=1) + "\n", encoding="utf-8")
        with atomic_path(self.output_dir / SUMMARY) as temporary, temporary.open("w", newline="") as file:
            columns = ("recording", "path", "status", "n_frames", "n_blocks", "seconds", "error")
            lines = csv.DictWriter(file, columns, extrasaction="ignore")
            lines.writeheader()
            lines.writerows({"recording": key} | asdict(one) for key, one in self.entries.items())

    def failed(self, name: str, entry: Entry, error: Exception) -> None:
        """Note why a recording failed."""
        mistake = find_user_error(error)
        told = str(mistake) if mistake is not None else f"{type(error).__name__}: {error}"
        if mistake is None:
            logger.error("%s failed.", name, exc_info=error)
        self.failures[name] = error
        self.note(name, replace(entry, status=FAILED, error=" ".join(told.split())))

    def raise_failures(self) -> None:
        """Raise the error of the only recording, or one that lists all that failed.

        Raises:
            UserError: If recordings failed.
        """
        if not self.failures:
            return
        if self.n_recordings == 1:
            raise next(iter(self.failures.values()))
        told = "; ".join(f"{name}: {self.entries[name].error}" for name in self.failures)
        others = ", the others are done" if len(self.failures) < self.n_recordings else ""
        raise UserError(
            f"{len(self.failures)} of {self.n_recordings} recordings failed{others} ({told}). "
            f"{self.output_dir / SUMMARY} lists all. Mend these and run again: what is done is kept."
        )


def read_manifest(path: Path) -> dict[str, Entry]:
    """Read the entries of a manifest; none where there is no file.

    Raises:
        UserError: If it is not one of ours.
    """
    if not path.is_file():
        return {}
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["recordings"]
        return {name: Entry(**row) for name, row in rows.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is no manifest of ours ({type(error).__name__}: {error}); wanted the file that a run wrote. "
            "Choose another --output_dir, or remove it: all recordings are then made again."
        ) from None


def _has(path: Path, digest: str) -> bool:
    return path.is_file() and sha256_file(path) == digest
