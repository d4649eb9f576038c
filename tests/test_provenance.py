import hashlib
import json
import platform
import subprocess
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch

import sparse_ulm
from sparse_ulm import provenance
from sparse_ulm.provenance import peak_memory_bytes, sha256_file, to_json, write_provenance


@pytest.fixture
def record(tmp_path):
    """A provenance file with one input and weights, read back."""
    (tmp_path / "rec.nii.gz").write_bytes(b"frames")
    (tmp_path / "model.pt").write_bytes(b"weights")
    write_provenance(
        tmp_path / "out" / "provenance.json",
        config={"threshold": np.float32(0.5), "device": torch.device("cpu")},
        inputs=[tmp_path / "rec.nii.gz"],
        weights=tmp_path / "model.pt",
        started=time.monotonic() - 3.0,
        seeds={"torch": 7},
        engine="native",
    )
    return json.loads((tmp_path / "out" / "provenance.json").read_text())


def test_known_hash(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-2's example
    assert sha256_file(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3_000_001])
def test_hash_in_pieces_equals_hash_at_once(tmp_path, size):
    content = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8).tobytes()
    (tmp_path / "file").write_bytes(content)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_inputs_and_weights_are_hashed(record, tmp_path):
    assert record["inputs"] == [
        {"path": str(tmp_path / "rec.nii.gz"), "bytes": 6, "sha256": hashlib.sha256(b"frames").hexdigest()}
    ]
    assert record["weights"]["sha256"] == hashlib.sha256(b"weights").hexdigest()


def test_settings_and_seeds_are_kept(record):
    assert record["config"] == {"threshold": 0.5, "device": "cpu"}
    assert record["seeds"] == {"torch": 7}
    assert record["engine"] == "native"


def test_software_is_named(record):
    software = record["software"]
    assert software["sparse_ulm"] == sparse_ulm.__version__
    assert software["python"] == platform.python_version()
    assert torch.__version__.startswith(software["packages"]["torch"].partition("+")[0])
    assert software["packages"]["numpy"] == np.__version__
    assert {"monai", "nibabel"} <= set(software["packages"])


def test_time_and_memory(record):
    assert 3.0 <= record["wall_time_s"] < 30.0
    started, finished = (datetime.fromisoformat(record[key]) for key in ("started_utc", "finished_utc"))
    assert 2.0 <= (finished - started).total_seconds() <= 30.0
    assert started.utcoffset().total_seconds() == 0
    assert record["threads"] == torch.get_num_threads()
    assert record["processes"] == 1


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the reference is Linux's own high-water mark")
def test_peak_memory_is_the_high_water_mark():
    lines = Path("/proc/self/status").read_text().splitlines()
    expected = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    assert peak_memory_bytes() == pytest.approx(expected, rel=0.02)


def test_machine_is_described_and_its_owner_is_not(record):
    machine = record["machine"]
    assert machine["logical_cores"] >= 1
    assert machine["memory_bytes"] > 1e8
    assert len(machine["processor"]) > 2
    text = json.dumps({key: value for key, value in record.items() if key not in ("inputs", "weights")})
    assert platform.node() not in text
    assert str(Path.home() / "x")[:-1] not in text


def test_git_commit_of_our_checkout_and_of_no_other(tmp_path):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    package = tmp_path / "package"
    package.mkdir()
    (package / "provenance.py").write_text("1")
    (package / "other.py").write_text("1")
    subprocess.run([*git, "add", "package/other.py"], check=True)
    subprocess.run([*git, "commit", "-qm", "x"], check=True)
    assert provenance._git_state(package) is None  # as a package in an environment inside somebody's repository
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "y"], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert provenance._git_state(package) == {"commit": commit, "dirty": False}
    (package / "other.py").write_text("2")
    assert provenance._git_state(package) == {"commit": commit, "dirty": True}


def test_no_git_no_commit(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance._git_state(tmp_path) is None


def test_settings_become_json():
    class Loader:
        pass

    settings = {
        "array": np.arange(3),
        "flag": np.bool_(True),
        "tuple": (1, 2.5, None),
        "set": {"b", "a"},
        "path": Path("a/b"),
        "dtype": torch.float32,
        "object": Loader(),
        "class": torch.nn.ReLU,
        "function": sha256_file,
        "nan": float("nan"),
        3: "key",
    }
    assert to_json(settings) == {
        "array": [0, 1, 2],
        "flag": True,
        "tuple": [1, 2.5, None],
        "set": ["a", "b"],
        "path": "a/b",
        "dtype": "torch.float32",
        "object": f"{__name__}.test_settings_become_json.<locals>.Loader",
        "class": "torch.nn.modules.activation.ReLU",
        "function": "sparse_ulm.provenance.sha256_file",
        "nan": "nan",
        "3": "key",
    }
    json.dumps(to_json(settings), allow_nan=False)


def test_without_network_there_are_no_weights(tmp_path):
    write_provenance(tmp_path / "p.json", config={}, inputs=[], weights=None, started=time.monotonic())
    record = json.loads((tmp_path / "p.json").read_text())
    assert (record["weights"], record["seeds"], record["engine"], record["inputs"]) == (None, None, None, [])


def test_nothing_is_left_when_an_input_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_provenance(
            tmp_path / "p.json", config={}, inputs=[tmp_path / "gone"], weights=None, started=time.monotonic()
        )
    assert list(tmp_path.iterdir()) == []
