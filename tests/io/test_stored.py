"""What a recording of several files is: its hash, and whether it has changed."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from sparse_ulm.io.stored import size_and_time, stored_files
from sparse_ulm.provenance import sha256_recording, write_provenance


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder whose names sort differently by bytes, by letter and by depth."""
    path = tmp_path / "rec.zarr"
    for name, content in (("zarr.json", "a"), ("iq/c/10", "bcd"), ("iq/c/2", "ef"), ("iq.txt", ""), (".zattrs", "gh")):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(content)
    return path


def test_the_files_of_a_folder_are_all_of_them_by_name(folder: Path) -> None:
    names = [file.relative_to(folder).as_posix() for file in stored_files(folder)]
    assert names == [".zattrs", "iq.txt", "iq/c/10", "iq/c/2", "zarr.json"]
    assert stored_files(folder / "iq.txt") == [folder / "iq.txt"]


def test_the_hash_of_a_folder_is_that_of_its_sha256sum(folder: Path) -> None:
    lines = "".join(
        f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  ./{name}\n"
        for name in (".zattrs", "iq.txt", "iq/c/10", "iq/c/2", "zarr.json")
    )
    assert sha256_recording(folder) == hashlib.sha256(lines.encode()).hexdigest()
    command = "find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum"
    told = subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True, check=False)
    if told.returncode == 0 and not told.stderr:  # GNU tools: where they are missing, the lines above must do
        assert told.stdout.split()[0] == sha256_recording(folder)


def test_the_hash_tells_content_names_and_places_apart(folder: Path) -> None:
    seen = {sha256_recording(folder)}
    (folder / "iq/c/2").write_text("eg")
    seen.add(sha256_recording(folder))
    (folder / "iq/c/2").rename(folder / "iq/c/3")
    seen.add(sha256_recording(folder))
    (folder / "iq/c/3").rename(folder / "iq/3")
    seen.add(sha256_recording(folder))
    assert len(seen) == 4


def test_a_changed_chunk_is_seen_though_the_folder_is_not(folder: Path) -> None:
    known = size_and_time(folder)
    assert known[0] == 8
    assert known[2] == 5
    state = (folder / "iq/c/2").stat()
    os.utime(folder / "iq/c/2", ns=(state.st_atime_ns, known[1] + 1))
    assert size_and_time(folder) == [8, known[1] + 1, 5]
    (folder / "iq.txt").unlink()
    assert size_and_time(folder)[2] == 4


def test_provenance_hashes_a_folder(folder: Path, tmp_path: Path) -> None:
    write_provenance(tmp_path / "p.json", config={}, inputs=[folder], weights=None, started=0.0)
    text = (tmp_path / "p.json").read_text()
    assert sha256_recording(folder) in text
    assert '"bytes": 8' in text
