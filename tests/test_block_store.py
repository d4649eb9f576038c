"""Results of blocks on disk: whole or not there, of one origin only, read in order."""

from pathlib import Path

import numpy as np
import pytest

from sparse_ulm.block_store import BlockStore
from sparse_ulm.errors import RecordingError


def result(value: float, n: int = 3) -> dict[str, np.ndarray]:
    return {"frame": np.arange(n), "position": np.full((n, 3), value)}


def test_what_is_kept_comes_back_to_the_bit(tmp_path: Path) -> None:
    store = BlockStore(tmp_path / "rec", "a")
    assert store.is_empty
    kept = {0: result(0.1), 128: result(1 / 3, n=0), 64: result(np.pi)}
    for start, one in kept.items():
        store.save(start, one)
    again = BlockStore(tmp_path / "rec", "a")
    assert not again.is_empty
    for start, found in zip((0, 64, 128), again.results([0, 64, 128]), strict=True):
        assert found.keys() == kept[start].keys()
        for name, column in found.items():
            np.testing.assert_array_equal(column, kept[start][name])
            assert column.dtype == kept[start][name].dtype


def test_another_origin_starts_anew(tmp_path: Path) -> None:
    BlockStore(tmp_path / "rec", "a").save(0, result(1.0))
    assert BlockStore(tmp_path / "rec", "b").missing([0]) == [0]
    assert not (tmp_path / "rec").exists()


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "text"])
def test_a_damaged_file_is_missing(tmp_path: Path, damage: str) -> None:
    store = BlockStore(tmp_path / "rec", "a")
    for start in (0, 10, 20):
        store.save(start, result(float(start), n=50))
    path = tmp_path / "rec" / "000000010.npz"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x40
    path.write_bytes({"cut": bytes(data[:300]), "empty": b"", "flipped": bytes(data), "text": b"no numbers"}[damage])
    assert store.missing([0, 10, 20, 30]) == [10, 30]
    assert not path.exists()
    with pytest.raises(RecordingError, match=r"000000010\.npz is missing or damaged"):
        list(store.results([0, 10]))


def test_what_a_killed_run_left_half_written_goes(tmp_path: Path) -> None:
    store = BlockStore(tmp_path / "rec", "a")
    store.save(0, result(1.0))
    (tmp_path / "rec" / ".x.partial.npz").write_bytes(b"half")
    BlockStore(tmp_path / "rec", "a")
    assert {p.name for p in (tmp_path / "rec").iterdir()} == {"fingerprint.txt", "000000000.npz"}
    store.remove()
    assert not (tmp_path / "rec").exists()
