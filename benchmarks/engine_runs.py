"""What benchmarks/engines.py runs in fresh processes: checks, times, peaks, and the machine's own rates.

A job is a dictionary: the file of the sites, extent, kinds, channels, threads, engines, rounds, seed, and "do", which
is "times" (all engines in turns) or "peaks" (one engine alone).
"""

import ctypes
import gc
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import shorten
from typing import Any

import psutil
import torch
from rival import Rival
from rivals import RIVALS, NativeTorch, why_missing
from workload import KINDS, Case, count_pairs, make_case, moving_blobs

from sparse_ulm.provenance import peak_memory_bytes

TOLERANCE = 1e-4
CHECK_SITES, CHECK_EXTENT = 2000, (1, 9, 12, 10, 14)
GEMM_SIZE = 1024
COPY_BYTES = 128 * 2**20
SHORT_S = 0.1
SLOW_RATIO, SLOW_S = 10.0, 3.0
BYTES_PER_KIB = 1024


def run_job(job: dict[str, Any]) -> dict[str, Any]:
    """Do one job in this process."""
    torch.set_num_threads(job["threads"])
    coords, extent = torch.load(job["sites"]), tuple(job["extent"])
    cases = {
        (kind, channels): make_case(coords, extent, KINDS[kind], channels, seed=job["seed"])
        for kind in job["kinds"]
        for channels in job["channels"]
    }
    missing = {name: reason for name in job["engines"] if (reason := why_missing(name)) is not None}
    engines = [name for name in job["engines"] if name not in missing]
    return _peaks(engines, cases) if job["do"] == "peaks" else _times(engines, cases, job) | {"missing": missing}


def _times(engines: list[str], cases: dict[tuple[str, int], Case], job: dict[str, Any]) -> dict[str, Any]:
    """Check all engines, then time those that are right, in turns."""
    refused, times, rates = {}, [], []
    single = {name: why for name in engines if job["threads"] > 1 and (why := RIVALS[name].one_thread_only)}
    for (kind, channels), case in cases.items():
        able = [name for name in engines if kind in RIVALS[name].kinds and name not in single]
        wrong = {name: why_refused(RIVALS[name], kind, channels, job["seed"]) for name in able}
        refused |= {f"{name}, {kind}, {channels} channels": why for name, why in wrong.items() if why is not None}
        able = [name for name in able if wrong[name] is None]
        for name, result in in_turns(able, case, job["rounds"], rates).items():
            times.append({"engine": name, "kind": kind, "channels": channels, **result})
    gemm, copy = (statistics.median(rate[which] for rate in rates) for which in (0, 1)) if rates else (None, None)
    work = {kind: layer_work(next(case for key, case in cases.items() if key[0] == kind)) for kind in job["kinds"]}
    return {
        "times": times,
        "refused": refused,
        "single": single,
        "gemm_flops": gemm,
        "copy_bytes_s": copy,
        "pairs": work,
    }


def in_turns(
    engines: list[str], case: Case, rounds: int, rates: list[tuple[float, float]]
) -> dict[str, dict[str, float | None]]:
    """Run every engine once a round; give the medians. One that is far slower than the fastest runs in one round."""
    found: dict[str, list[dict[str, float | None]]] = {name: [] for name in engines}
    took: dict[str, float] = {}
    for turn in range(rounds):
        rates.append((gemm_flops(), copy_bytes_s()))
        fastest = min(took.values(), default=0.0)
        for name in engines:
            if turn and took[name] > max(SLOW_S, SLOW_RATIO * fastest):
                continue
            start = time.perf_counter()
            found[name].append(time_once(RIVALS[name], case))
            took[name] = time.perf_counter() - start
    return {name: {key: _median([r[key] for r in times]) for key in times[0]} for name, times in found.items() if times}


def time_once(rival: type[Rival], case: Case) -> dict[str, float | None]:
    """Time an engine's map, forward pass, and forward with backward pass, in ms; its maps are gone afterwards."""
    gc.collect()
    with rival.active():
        engine = rival(case)
        x, upstream = engine.arrange(case.feats), engine.arrange(case.upstream)
        map_ms = _time(engine.build_maps) if rival.maps_timed else engine.build_maps()
        with torch.no_grad():
            forward_ms = _time(lambda: engine(x))
        x.requires_grad_()
        both_ms = _time(lambda: step(engine, x, upstream))
    return {
        "map_ms": map_ms,
        "forward_ms": forward_ms * engine.scale,
        "forward_backward_ms": both_ms * engine.scale,
    }


def step(engine: Rival, x: torch.Tensor, upstream: torch.Tensor) -> torch.Tensor:
    """Go forward and backward, with gradients to features and kernels; give the output."""
    x.grad = None
    engine.layers.zero_grad(set_to_none=True)
    output = engine(x)
    output.backward(upstream)
    return output.detach()


def why_refused(rival: type[Rival], kind: str, channels: int, seed: int) -> str | None:
    """Compare an engine with our PyTorch path on a small grid: output, gradients of features and of all kernels.

    Returns:
        What is wrong with it, None if every largest difference is small beside the largest value.
    """
    coords, extent = moving_blobs(CHECK_SITES, seed=seed, extent=CHECK_EXTENT)
    case = make_case(coords, extent, KINDS[kind][: rival.n_layers], channels, seed=seed)
    wanted = _results(NativeTorch, case)
    try:
        found = _results(rival, case)
    except Exception as error:
        return shorten(f"fails with {type(error).__name__}: {error}", 300)
    worst = max(float((w - f).abs().max() / w.abs().max()) for w, f in zip(wanted, found, strict=True))
    return None if worst <= TOLERANCE else f"differs from native-torch by {worst:.1e}"


def _results(rival: type[Rival], case: Case) -> list[torch.Tensor]:
    """Give output and gradients, in the native order of rows and taps."""
    with rival.active():
        engine = rival(case)
        engine.build_maps()
        x = engine.arrange(case.feats).requires_grad_()
        output = step(engine, x, engine.arrange(case.upstream))
        return [engine.rows(output), engine.rows(x.grad), *engine.kernel_gradients()]


def _peaks(engines: list[str], cases: dict[tuple[str, int], Case]) -> dict[str, Any]:
    """Measure the memory of an engine that has just run a small case."""
    peaks = []
    for (kind, channels), case in cases.items():
        for name in engines:
            if kind in RIVALS[name].kinds:
                why_refused(RIVALS[name], kind, channels, seed=0)  # loads and compiles what it needs
                peaks.append({"engine": name, "kind": kind, "channels": channels, "peak_bytes": peak(name, case)})
    return {"peaks": peaks}


def peak(name: str, case: Case) -> float:
    """Give the growth of the resident memory over maps, forward and backward pass, bytes."""
    rival = RIVALS[name]
    with rival.active():
        engine = rival(case)
        x, upstream = engine.arrange(case.feats).requires_grad_(), engine.arrange(case.upstream)
        if not rival.maps_timed:
            engine.build_maps()
        before = _resident_after_trim()
        if rival.maps_timed:
            engine.build_maps()
        step(engine, x, upstream)
        return (_highest_resident() - before + engine.held_bytes()) * engine.scale


def _resident_after_trim() -> int:
    """Hand free memory back, begin the peak anew where Linux lets us, and give the resident memory."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        pass  # not Linux: the peak is then that of the process, of which the first case is the largest part
    return psutil.Process().memory_info().rss


def _highest_resident() -> int:
    """Give the peak since `_resident_after_trim`."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    peaks = [int(line.split()[1]) * BYTES_PER_KIB for line in lines if line.startswith("VmHWM")]
    return peaks[0] if peaks else peak_memory_bytes()


def gemm_flops() -> float:
    """Measure what PyTorch multiplies per second, float32, with this process's threads."""
    a, b = torch.ones(GEMM_SIZE, GEMM_SIZE), torch.ones(GEMM_SIZE, GEMM_SIZE)
    result = torch.empty(GEMM_SIZE, GEMM_SIZE)
    return 2 * GEMM_SIZE**3 / min(_seconds(lambda: torch.mm(a, b, out=result)) for _ in range(4))


def copy_bytes_s() -> float:
    """Measure bytes read and written per second by a copy too large for the caches."""
    a, b = torch.ones(COPY_BYTES // 4), torch.ones(COPY_BYTES // 4)
    return 2 * COPY_BYTES / min(_seconds(lambda: b.copy_(a)) for _ in range(4))


def layer_work(case: Case) -> list[int]:
    """Count the pairs of every layer."""
    return [count_pairs(case.coords, case.extent, size) for size in case.sizes]


def _seconds(action: Callable[[], Any]) -> float:
    """Time one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _time(action: Callable[[], Any]) -> float:
    """Time a call in ms; of short ones the median of three."""
    times = [_seconds(action)]
    while len(times) < 3 and sum(times) < SHORT_S:
        times.append(_seconds(action))
    return 1000 * statistics.median(times)


def _median(values: list[float | None]) -> float | None:
    """Give the median of the rounds, None where nothing was timed."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def main(path: str) -> None:
    """Run the job in a file; the last line printed is its result."""
    print(json.dumps(run_job(json.loads(Path(path).read_text(encoding="utf-8")))))
