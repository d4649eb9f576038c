"""bundle/pack.py: the same bytes every time, nothing that is not meant to ship, and it runs uninstalled."""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile

import pytest
from bundle_runs import GEOMETRY, ROOT, SIZES, blob_frames, load_tool

from sparse_ulm.io import save_recording

pack = load_tool("pack")

RUN_UNINSTALLED = """
import runpy, sys
sys.path = [p for p in sys.path if not p.rstrip("/").endswith("src")]
sys.meta_path = [f for f in sys.meta_path if "editable" not in repr(f).lower()]
sys.argv = ["", "run", *sys.argv[1:]]
runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
import sparse_ulm
print("CODE FROM", sparse_ulm.__file__)
"""


@pytest.fixture
def root(tmp_path, weights):
    """A checkout: this one's code and configs, weights that fit the small sizes, and things that must stay at home."""
    folder = tmp_path / "checkout"
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copytree(ROOT / "configs", folder / "configs")
    shutil.copy(ROOT / "LICENSE", folder / "LICENSE")
    for name in ("docs", "models", "data", "src/sparse_ulm/__pycache__"):
        (folder / name).mkdir()
    (folder / "docs/README.md").write_text("# Model card\n")
    shutil.copy(weights, folder / "models/model.pt")
    for stray in ("data/patient.nii.gz", "models/notes.txt", "models/.half.pt", "configs/mine.json", ".env",
                  "src/sparse_ulm/__pycache__/x.pyc"):  # fmt: skip
        (folder / stray).write_text("private")
    return folder


def test_the_same_files_give_the_same_bytes(root, tmp_path):
    first = pack.pack(root, tmp_path / "one")
    for file in root.rglob("*"):
        os.utime(file, (1.7e9, 1.7e9))
    second = pack.pack(root, tmp_path / "two")
    assert first.name == "microvessel_ultrasound_superresolution_v0.1.0.zip"
    assert first.read_bytes() == second.read_bytes()
    digest, name = first.with_name(first.name + ".sha256").read_text().split()
    assert digest == hashlib.sha256(first.read_bytes()).hexdigest()
    assert name == first.name
    assert sorted(path.name for path in first.parent.iterdir()) == [first.name, first.name + ".sha256"]


def test_what_is_packed(root, tmp_path):
    names = zipfile.ZipFile(pack.pack(root, tmp_path / "out")).namelist()
    assert {name.split("/")[0] for name in names} == {"microvessel_ultrasound_superresolution"}
    inside = {name.partition("/")[2] for name in names}
    assert {"LICENSE", "configs/metadata.json", "configs/logging.conf", "models/model.pt", "docs/README.md"} <= inside
    assert {"sparse_ulm/transforms.py", "sparse_ulm/sparse/engines/native.py", "sparse_ulm/py.typed"} <= inside
    assert {f"sparse_ulm/report/{name}" for name in ("page.html", "page.css", "viewer.js", "niivue/niivue.umd.js",
            "niivue/LICENSE", "niivue/THIRD_PARTY_LICENSES")} <= inside  # fmt: skip
    assert not [name for name in inside if name.startswith(("src", "data", "tests", "bundle", "."))]
    assert not [
        name for name in inside if "private" in name or "__pycache__" in name or name.endswith((".txt", "mine.json"))
    ]
    assert "models/.half.pt" not in inside


def test_a_half_bundle_is_not_packed(root, tmp_path, capsys):
    (root / "models/model.pt").unlink()
    assert pack.main(["--root", str(root), "--output", str(tmp_path / "out")]) == 1
    assert "lacks models/model.pt" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_unpacked_bundle_runs_without_installing(root, tmp_path):
    zipfile.ZipFile(pack.pack(root, tmp_path / "out")).extractall(tmp_path)
    save_recording(tmp_path / "in/rec.npz", blob_frames(), GEOMETRY)
    sizes = [text for key, value in SIZES.items() for text in (f"--{key}", str(value).replace(" ", ""))]
    done = subprocess.run(
        [sys.executable, "-c", RUN_UNINSTALLED, "--config_file", f"{pack.NAME}/configs/inference.yaml",
         "--bundle_root", pack.NAME, "--dataset_dir", "in", "--output_dir", "maps", "--n_threads", "1", *sizes],
        cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"{pack.NAME}/sparse_ulm/__init__.py" in done.stdout.split("CODE FROM")[1]
    assert (tmp_path / "maps/rec/rec_density.nii.gz").is_file()
