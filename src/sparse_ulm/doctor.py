"""Say on one screen what this installation does and what is wrong with it: `python -m sparse_ulm.doctor`.

Versions, machine, sparse engine, arithmetic on the CPU, a convolution compared with PyTorch's dense one, its speed, and
the shipped weights; with `--recording`, whether inference on it will fit memory and disk. Exit status 0 if all is fine,
1 if something is broken; each problem comes with its cure.
"""

import argparse
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml
from packaging.requirements import Requirement

from sparse_ulm import __version__
from sparse_ulm.checkpoint import load_weights
from sparse_ulm.errors import UserError
from sparse_ulm.fit import estimate_fit
from sparse_ulm.io import open_recording
from sparse_ulm.networks.localisation import LocalisationNet
from sparse_ulm.networks.trajectory_map import TrajectoryMapNet
from sparse_ulm.provenance import describe_machine, package_versions
from sparse_ulm.self_test import TOLERANCE, convolution_error, layer_ms
from sparse_ulm.sparse import get_engine, resolve_engine
from sparse_ulm.sparse.engines import ENGINES, torchsparse_failure
from sparse_ulm.sparse.engines.kernels import KERNELS, VARIABLE, chosen_kernel, use_kernel

SPEED_SITES, SPEED_CHANNELS = 20_000, 16
WEIGHTS: dict[str, tuple[type[TrajectoryMapNet | LocalisationNet], int]] = {
    "model.pt": (TrajectoryMapNet, 3),
    "model_2d.pt": (TrajectoryMapNet, 2),
    "localisation.pt": (LocalisationNet, 3),
}
"""Shipped files, and the kind and `spatial_dims` of their networks; widths are the classes' defaults."""

REPORT = "Send this output to the maintainers"


@dataclass
class Finding:
    """What one check found.

    Attributes:
        line: For people.
        facts: The same for programs.
        problems: What is broken, each with its cure.
        notes: What works but not as well as it could, each with its cure.
    """

    line: str
    facts: dict[str, Any]
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check_packages() -> Finding:
    """Give versions, and note those other than the package asks for."""
    versions = package_versions()
    try:
        wanted = [Requirement(text) for text in metadata.requires("sparse-ulm") or []]
    except metadata.PackageNotFoundError:  # a packed bundle runs uninstalled
        wanted = []
    notes = [
        f"{need.name} is {versions[need.name]}; wanted {need.specifier}. pip install -c constraints.txt -e ."
        for need in wanted
        if need.name in versions and not need.specifier.contains(versions[need.name], prereleases=True)
    ]
    python = platform.python_version()
    line = f"python {python}, " + ", ".join(f"{name} {version}" for name, version in versions.items())
    return Finding(line, {"sparse_ulm": __version__, "python": python, "packages": versions}, notes=notes)


def check_machine() -> Finding:
    """Give processor, memory and threads."""
    machine, threads = describe_machine(), torch.get_num_threads()
    line = (
        f"{machine['processor']}, {machine['cores']} cores ({machine['logical_cores']} logical), "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB, {machine['system']}; PyTorch uses {threads} "
        f"thread{'s' if threads > 1 else ''} (`n_threads` in the configs sets it)"
    )
    return Finding(line, {"machine": machine, "threads": threads})


def check_gpu() -> Finding:
    """Give the graphics cards that PyTorch can use, and note a card that it cannot."""
    built_for = torch.version.cuda
    cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    facts = {"cuda": built_for, "gpu": [{"name": card.name, "memory_bytes": card.total_memory} for card in cards]}
    if cards:
        return Finding(
            ", ".join(f"{card.name}, {card.total_memory / 2**30:.0f} GiB" for card in cards) + f"; CUDA {built_for}",
            facts,
        )
    notes = []
    if shutil.which("nvidia-smi"):
        reason = (
            "is built without CUDA" if built_for is None else f"is built for CUDA {built_for}, which does not start"
        )
        notes = [
            f"there is an NVIDIA driver, but PyTorch {reason}; install a build for the CUDA that nvidia-smi names."
        ]
    return Finding(f"none ({'PyTorch without CUDA' if built_for is None else 'CUDA ' + built_for})", facts, notes=notes)


def check_engine(wanted: str) -> Finding:
    """Resolve the engine that the configs name."""
    failure = torchsparse_failure()
    facts = {"asked": wanted, "torchsparse_failure": failure}
    why = "TorchSparse can be imported" if failure is None else f"TorchSparse cannot be imported ({failure})"
    try:
        engine = resolve_engine(wanted)
        get_engine(engine)
    except UserError as error:
        return Finding(f"{wanted} -> none", facts | {"engine": None}, [str(error)])
    return Finding(f"{wanted} -> {engine}; {why}", facts | {"engine": engine})


def check_arithmetic() -> Finding:
    """Ask what the native engine computes with on the CPU."""
    try:
        choice = chosen_kernel()
    except UserError as error:
        return Finding("none", {"arithmetic": None}, [str(error)])
    asked = VARIABLE in os.environ
    notes = []
    if choice.name == "torch" and not asked:
        notes = [
            f"convolutions on the CPU run several times slower than they could: {choice.reason}. "
            "Reinstall numba, unset NUMBA_DISABLE_JIT, or set NUMBA_CACHE_DIR to a folder that you can write."
        ]
    facts = {"arithmetic": choice.name, "reason": choice.reason, "variable": os.environ.get(VARIABLE)}
    return Finding(f"{choice.name} on the CPU: {choice.reason}", facts, notes=notes)


def check_convolution() -> Finding:
    """Compare a small convolution with `torch.nn.functional.conv3d`, on the CPU and on the GPU if there is one."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    errors, problems = {}, []
    for device in devices:
        engine = "native" if device == "cpu" else resolve_engine("auto")
        name = f"{engine} on {device}"
        errors[name] = convolution_error(engine, device)
        if not errors[name] <= TOLERANCE:  # NaN is wrong too
            problems.append(
                f"{name} differs from dense conv3d by {errors[name]:.1e} of the largest value; wanted {TOLERANCE:g} at "
                f"most. Do not use its maps. Set {VARIABLE}=torch (on a GPU, engine: native) and try again. {REPORT}."
            )
    line = ", ".join(
        f"{name} {'ok' if error <= TOLERANCE else 'WRONG'} ({error:.0e})" for name, error in errors.items()
    )
    return Finding(f"{line}: output and gradients against dense conv3d", {"errors": errors}, problems)


def check_speed() -> Finding:
    """Time a factorised layer with every arithmetic that runs here."""
    times = {}
    for name in KERNELS[1:]:
        try:
            with use_kernel(name):
                times[name] = layer_ms("native", "cpu", n_sites=SPEED_SITES, channels=SPEED_CHANNELS)
        except UserError:
            continue
    if torch.cuda.is_available():
        times["GPU"] = layer_ms(resolve_engine("auto"), "cuda", n_sites=SPEED_SITES, channels=SPEED_CHANNELS)
    facts: dict[str, Any] = {"sites": SPEED_SITES, "channels": SPEED_CHANNELS, "ms": times}
    line = ", ".join(f"{name} {ms:.0f} ms" for name, ms in times.items())
    if {"compiled", "torch"} <= times.keys():
        facts["ratio"] = times["torch"] / times["compiled"]
        line += f": compiled is {facts['ratio']:.1f} times as fast as torch"
    return Finding(f"{line} (3x3x3 + 3 taps, {SPEED_SITES} sites, {SPEED_CHANNELS} channels, both ways)", facts)


def check_weights(root: Path | None) -> Finding:
    """Load the shipped weights into their networks."""
    if root is None:
        note = "no bundle found here, so no weights were tried; run from the bundle root, or pass --bundle_root."
        return Finding("no bundle root", {"weights": {}}, notes=[note])
    states, problems = {}, []
    for name, (network, dims) in WEIGHTS.items():
        try:
            load_weights(network(spatial_dims=dims, engine="native"), root / "models" / name)
            states[name] = "ok"
        except UserError as error:
            states[name] = "BROKEN"
            problems.append(f"{error} Or take the shipped file again: git checkout models, or unpack the bundle anew.")
    line = ", ".join(f"{name} {state} ({WEIGHTS[name][1]}D)" for name, state in states.items())
    return Finding(f"{line} in {root / 'models'}", {"weights": states, "bundle_root": str(root)}, problems)


def check_fit(path: Path, geometry: dict[str, Any], root: Path | None) -> Finding:
    """Estimate whether a recording fits this machine with the settings of configs/inference.yaml."""
    if root is None:
        return Finding("not looked at: no bundle root", {})
    settings = yaml.safe_load((root / "configs" / "inference.yaml").read_text(encoding="utf-8"))
    try:
        acquisition = open_recording(path, **geometry)
        fit = estimate_fit(acquisition, settings, output_dir=Path.cwd())
    except UserError as error:
        return Finding(f"{path.name} cannot be looked at", {"recording": str(path)}, [str(error)])
    line = (
        f"{path.name}: {' x '.join(map(str, acquisition.shape))} samples, about {fit.sites_per_frame:.0f} sites per "
        f"frame; inference takes about {fit.memory / 1e9:.1f} GB of {fit.memory_available / 1e9:.1f} GB, its outputs "
        f"{fit.disk / 1e9:.1f} GB of {fit.disk_free / 1e9:.1f} GB"
    )
    return Finding(line, {"recording": str(path), **asdict(fit)}, fit.problems)


def find_bundle_root() -> Path | None:
    """Look for the bundle around the package (src/sparse_ulm in a checkout, sparse_ulm/ when packed) and here."""
    package = Path(__file__).resolve().parent
    folders = (package.parent, package.parent.parent, Path.cwd())
    return next((folder for folder in folders if (folder / "configs" / "inference.yaml").is_file()), None)


def examine(
    engine: str, root: Path | None, recording: Path | None = None, geometry: dict[str, Any] | None = None
) -> dict[str, Finding]:
    """Run all checks; one that breaks becomes a problem and stops no other."""
    checks: dict[str, Callable[[], Finding]] = {
        "packages": check_packages,
        "machine": check_machine,
        "gpu": check_gpu,
        "engine": lambda: check_engine(engine),
        "arithmetic": check_arithmetic,
        "self test": check_convolution,
        "speed": check_speed,
        "weights": lambda: check_weights(root),
    }
    if recording is not None:
        checks["recording"] = lambda: check_fit(recording, geometry or {}, root)
    findings: dict[str, Finding] = {}
    for name, check in checks.items():
        if name in ("self test", "speed") and findings["arithmetic"].problems:
            findings[name] = Finding("not run: no arithmetic", {})
            continue
        try:
            findings[name] = check()
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            findings[name] = Finding(
                "BROKEN", {}, [f"{name} failed ({reason}). Install anew: pip install -e . {REPORT}."]
            )
    return findings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and give its exit status."""
    parser = argparse.ArgumentParser(prog="python -m sparse_ulm.doctor", description=__doc__)
    parser.add_argument("--engine", default="auto", choices=ENGINES, help="as in the configs")
    parser.add_argument("--bundle_root", type=Path, default=find_bundle_root(), help="folder of configs/ and models/")
    parser.add_argument("--recording", type=Path, help="also say whether this one will fit")
    parser.add_argument(
        "--voxel_size_mm", type=float, nargs=3, metavar=("X", "Y", "Z"), help="what its file does not say"
    )
    for name in ("frame_rate_hz", "transmit_frequency_hz", "sound_speed_m_s"):
        parser.add_argument(f"--{name}", type=float, help="likewise")
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    options = parser.parse_args(arguments)
    stated = ("voxel_size_mm", "frame_rate_hz", "transmit_frequency_hz", "sound_speed_m_s")
    geometry = {name: getattr(options, name) for name in stated}
    findings = examine(options.engine, options.bundle_root, options.recording, geometry)
    problems = [f"{name}: {text}" for name, finding in findings.items() for text in finding.problems]
    notes = [f"{name}: {text}" for name, finding in findings.items() for text in finding.notes]
    if options.json:
        facts = {name.replace(" ", "_"): finding.facts for name, finding in findings.items()}
        print(json.dumps({"fine": not problems, "problems": problems, "notes": notes, **facts}, indent=2))
    else:
        print(f"sparse_ulm {__version__}")
        print("\n".join(f"  {name:11} {finding.line}" for name, finding in findings.items()))
        print(
            "\n".join(
                [*(f"note: {text}" for text in notes), *(f"PROBLEM: {text}" for text in problems)] or ["All fine."]
            )
        )
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
