"""What the benchmarks share: the machine they ran on, Markdown tables, JSON, and children whose memory is taken."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparse_ulm.io.atomic import atomic_path
from sparse_ulm.provenance import to_json, write_provenance

ROOT = Path(__file__).resolve().parents[1]
MIB = 1 << 20
GIB = 1 << 30

_LAUNCHER = """
import json, resource, subprocess, sys, time
start = time.monotonic()
code = subprocess.call(sys.argv[2:])
wall_s = time.monotonic() - start
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
unit = 1 if sys.platform == "darwin" else 1024
with open(sys.argv[1], "w") as file:
    json.dump({"code": code, "wall_s": wall_s, "cpu_s": usage.ru_utime + usage.ru_stime,
               "peak_bytes": usage.ru_maxrss * unit}, file)
"""


class BenchmarkError(RuntimeError):
    """A measured command failed."""


@dataclass(frozen=True)
class Run:
    """What a command cost.

    Attributes:
        wall_s: Seconds from start to end, interpreter and imports included.
        cpu_s: Seconds of CPU time, user and system.
        peak_bytes: Largest resident memory.
        output: Its standard output.
    """

    wall_s: float
    cpu_s: float
    peak_bytes: int
    output: str


def run_measured(command: Sequence[str], *, cwd: Path = ROOT) -> Run:
    """Run a command in a fresh process and take its time and peak memory.

    A small launcher stands in between: Linux hands the resident memory of a process on to the children it starts as
    the least peak they can report, and the benchmarks themselves have PyTorch loaded.

    Raises:
        BenchmarkError: If the command fails, with the end of what it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "usage.json"
        launch = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(report), *command]
        done = subprocess.run(launch, cwd=cwd, capture_output=True, text=True, check=False)
        usage = json.loads(report.read_text()) if report.exists() else {"code": done.returncode}
    if usage["code"] != 0:
        raise BenchmarkError(f"{' '.join(command[:4])} … failed with {usage['code']}:\n{done.stderr[-2000:]}")
    return Run(usage["wall_s"], usage["cpu_s"], usage["peak_bytes"], done.stdout)


def describe_machine() -> dict[str, Any]:
    """Give software and machine as `provenance.json` tells them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "provenance.json"
        write_provenance(path, config={}, inputs=[], weights=None, started=time.monotonic())
        record = json.loads(path.read_text(encoding="utf-8"))
    return {key: record[key] for key in ("software", "machine", "finished_utc")}


def machine_line(record: dict[str, Any]) -> str:
    """Say in one line where and with what the numbers were taken."""
    machine, software = record["machine"], record["software"]
    packages, git = software["packages"], software["git"] or {"commit": "no checkout", "dirty": False}
    return (
        f"Machine: {machine['processor']}, {machine['logical_cores']} logical cores, "
        f"{machine['memory_bytes'] / GIB:.0f} GiB; {machine['system']}; Python {software['python']}, "
        f"PyTorch {packages['torch']}, MONAI {packages['monai']}, numba {packages['numba']}; "
        f"commit {git['commit'][:10]}{' with changes' if git['dirty'] else ''}; {record['finished_utc'][:10]}."
    )


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Write rows as a Markdown table; the first column is text, the others are numbers set to the right."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def write_json(path: str | Path | None, record: dict[str, Any], **results: Any) -> None:
    """Write machine and results to `path`, whole or not at all; None writes nothing."""
    if path is not None:
        with atomic_path(Path(path)) as temporary:
            temporary.write_text(json.dumps(record | to_json(results), indent=2) + "\n", encoding="utf-8")
