"""What made a result: settings, software, machine, inputs and cost, in one `provenance.json` beside it.

User name, host name and environment are left out on purpose: the file travels with the data. Paths appear as the user
gave them.
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from sparse_ulm import __version__, ranks
from sparse_ulm.io.atomic import atomic_path
from sparse_ulm.io.stored import stored_files

PACKAGES = ("torch", "monai", "pytorch-ignite", "numpy", "scipy", "numba", "nibabel", "h5py", "torchsparse")
HASH_CHUNK_BYTES = 1 << 20
BYTES_PER_KIB = 1024
GIT_PATIENCE_S = 5.0


def write_provenance(
    path: str | Path,
    *,
    config: Mapping[str, Any],
    inputs: Iterable[str | Path],
    weights: str | Path | None,
    started: float,
    seeds: Mapping[str, int] | int | None = None,
    engine: str | None = None,
) -> None:
    """Write `provenance.json`: everything needed to tell how a result came about, and to make it again.

    Args:
        path: File to write; it appears whole or not at all.
        config: Settings of the run, resolved. Values that JSON cannot hold become text, objects the name of their
            class.
        inputs: Files that were read; each is hashed.
        weights: File of the network's weights, hashed; None where there is no network.
        started: `time.monotonic()` at the start of the work, for the wall time.
        seeds: Seeds of random generators; None where nothing was random.
        engine: Sparse engine that ran, as "native" or "torchsparse"; None where none did.

    Raises:
        OSError: If an input or the weights cannot be read.
    """
    wall_time_s = time.monotonic() - started
    now = datetime.now(UTC)
    record = {
        "software": {
            "sparse_ulm": __version__,
            "git": _git_state(Path(__file__).resolve().parent),
            "python": platform.python_version(),
            "packages": package_versions(),
        },
        "config": to_json(config),
        "seeds": to_json(seeds),
        "engine": engine,
        "inputs": [_describe_file(file) for file in inputs],
        "weights": None if weights is None else _describe_file(weights),
        "machine": describe_machine(),
        "threads": torch.get_num_threads(),
        "processes": ranks.n_ranks(),
        "started_utc": (now - timedelta(seconds=wall_time_s)).isoformat(timespec="seconds"),
        "finished_utc": now.isoformat(timespec="seconds"),
        "wall_time_s": round(wall_time_s, 3),
        "peak_memory_bytes": peak_memory_bytes(),
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def sha256_file(path: str | Path) -> str:
    """Hash a file of any size in pieces of 1 MiB; the result is 64 hexadecimal digits, as of `sha256sum`."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_recording(path: str | Path) -> str:
    """Hash a file, or a recording of several files.

    That of several is the hash of the lines that `sha256sum` prints for them, names sorted by bytes. For a folder:
    `cd rec.zarr && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum`.
    """
    path = Path(path)
    files = stored_files(path)
    if files == [path]:
        return sha256_file(path)
    folder = path if path.is_dir() else path.parent
    lines = [f"{sha256_file(file)}  ./{file.relative_to(folder).as_posix()}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def peak_memory_bytes() -> int:
    """Give the largest resident memory of this process so far."""
    try:
        import resource
    except ImportError:  # Windows counts it elsewhere
        return int(psutil.Process().memory_info().peak_wset)
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * BYTES_PER_KIB


def to_json(value: Any) -> Any:
    """Turn settings into what JSON holds: containers are walked, numbers unwrapped, objects named by their class.

    Objects are never written as `repr`: that would put memory addresses into the file, another one every run.

    >>> to_json({"range": (1, np.float32(0.5)), "folder": Path("data"), "limit": float("inf")})
    {'range': [1, 0.5], 'folder': 'data', 'limit': 'inf'}
    """
    if isinstance(value, float):
        return value if np.isfinite(value) else str(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): to_json(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(entry) for entry in value]
    if isinstance(value, set | frozenset):
        return sorted((to_json(entry) for entry in value), key=str)
    if isinstance(value, np.ndarray | np.generic):
        return to_json(value.tolist())
    if isinstance(value, os.PathLike | torch.dtype | torch.device):
        return str(value)
    named = value if isinstance(value, type) or hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def _describe_file(path: str | Path) -> dict[str, Any]:
    """Give path as passed, size and hash."""
    n_bytes = sum(file.stat().st_size for file in stored_files(Path(path)))
    return {"path": str(path), "bytes": n_bytes, "sha256": sha256_recording(path)}


def package_versions() -> dict[str, str]:
    """Look up the installed packages that a result depends on; absent ones are left out."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _git_state(folder: Path) -> dict[str, Any] | None:
    """Give commit and whether files were changed; None outside a checkout of ours.

    A package installed into an environment that lies inside some other repository is not tracked there, and that
    repository's commit would say nothing.
    """
    if _git(folder, "ls-files", "--error-unmatch", "provenance.py") is None:
        return None
    commit = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return None if commit is None else {"commit": commit.strip(), "dirty": bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    """Ask git; None when it is absent, too slow or refuses."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=GIT_PATIENCE_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout


def describe_machine() -> dict[str, Any]:
    """Describe processor, memory and graphics card, without names of machine or user."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": psutil.cpu_count(logical=False),
        "logical_cores": psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpu": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def _processor() -> str:
    """Give the processor's model; Linux tells it in /proc/cpuinfo only."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
