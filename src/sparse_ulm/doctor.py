"""Say on one screen what this installation does and what is wrong with it: `python -m sparse_ulm.doctor`.

Versions, machine, sparse engine, arithmetic on the CPU, a convolution compared with PyTorch's dense one, a speed and the
shipped weights. Exit status 0 if all is fine, 1 if something is broken; each problem comes with its cure.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from packaging.requirements import Requirement
from torch import Tensor, nn
from torch.nn import functional

from sparse_ulm import __version__
from sparse_ulm.checkpoint import load_weights
from sparse_ulm.errors import UserError
from sparse_ulm.networks.trajectory_map import TrajectoryMapNet
from sparse_ulm.provenance import describe_machine, package_versions
from sparse_ulm.sparse import SparseTensor, SubmanifoldConv, get_engine, resolve_engine, to_dense
from sparse_ulm.sparse.engines import ENGINES, torchsparse_failure
from sparse_ulm.sparse.engines.kernels import KERNELS, VARIABLE, chosen_kernel, use_kernel

TOLERANCE = 1e-5
"""Of float32 sums over 27 taps, relative to the largest value; right answers lie near 1e-7."""

SPEED_SITES, SPEED_CHANNELS, SPEED_LIMIT_S = 20_000, 16, 0.6
WEIGHTS = {"model.pt": 3, "model_2d.pt": 2}
"""Shipped files and the `spatial_dims` of their networks; widths are `TrajectoryMapNet`'s defaults."""

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
        f"{need.name} is {versions[need.name]}; wanted {need.specifier}. Install with pip install -c constraints.txt -e ."
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
                f"most. Do not use its maps: set {VARIABLE}=torch, or engine: native on a GPU, and run this again. {REPORT}."
            )
    line = ", ".join(f"{name} {'WRONG' if error > TOLERANCE else 'ok'} ({error:.0e})" for name, error in errors.items())
    return Finding(f"{line}: output and gradients against dense conv3d", {"errors": errors}, problems)


def convolution_error(engine: str, device: str) -> float:
    """Give the largest difference of output and gradients from dense conv3d, relative to the largest value of each."""
    generator = torch.Generator().manual_seed(5)
    coords = (torch.rand(2, 5, 6, 7, 3, generator=generator) < 0.4).nonzero().int()
    feats = torch.randn(len(coords), 3, generator=generator)
    layer = SubmanifoldConv(3, 4, (3, 3, 3, 1), bias=True).to(device)
    x = SparseTensor(coords, feats, spatial_range=(2, 5, 6, 7, 3))
    ours = _results(layer, lambda x: layer(x).feats, x.to(device).with_engine(engine))
    # The reference has float64 and nothing of the engine: features are written into a dense array.
    reference = SubmanifoldConv(3, 4, (3, 3, 3, 1), bias=True).double()
    reference.load_state_dict({name: value.cpu().double() for name, value in layer.state_dict().items()})
    expected = _results(reference, lambda x: _dense_convolution(x, reference), x.with_feats(feats.double()))
    return max(float((a.cpu() - b).abs().max() / b.abs().max()) for a, b in zip(ours, expected, strict=True))


def _results(layer: nn.Module, run: Callable[[SparseTensor], Tensor], x: SparseTensor) -> list[Tensor]:
    """Give output, gradient of the features and gradients of the parameters."""
    feats = x.feats.clone().requires_grad_()
    output = run(x.with_feats(feats))
    output.square().sum().backward()
    gradients = [tensor.grad for tensor in (feats, *layer.parameters())]
    return [output.detach(), *(gradient for gradient in gradients if gradient is not None)]


def _dense_convolution(x: SparseTensor, layer: SubmanifoldConv) -> Tensor:
    """Convolve every frame with conv3d and read the result at the sites; taps of odd kernels have x fastest."""
    batch, *_, frames = x.spatial_range
    weight = layer.kernel.view(3, 3, 3, *layer.kernel.shape[1:]).permute(4, 3, 2, 1, 0)
    images = to_dense(x).movedim(-1, 1).flatten(0, 1)  # (b, c, x, y, z, t) -> (b * t, c, x, y, z)
    result = functional.conv3d(images, weight, layer.bias, padding=1).unflatten(0, (batch, frames)).movedim(2, -1)
    b, i, j, k, t = x.coords.long().unbind(1)
    return result[b, t, i, j, k]


def check_speed() -> Finding:
    """Time a factorised layer with every arithmetic that runs here."""
    times = {}
    for name in KERNELS[1:]:
        try:
            with use_kernel(name):
                times[name] = layer_ms("cpu", "native")
        except UserError:
            continue
    if torch.cuda.is_available():
        times["GPU"] = layer_ms("cuda", resolve_engine("auto"))
    facts: dict[str, Any] = {"sites": SPEED_SITES, "channels": SPEED_CHANNELS, "ms": times}
    line = ", ".join(f"{name} {ms:.0f} ms" for name, ms in times.items())
    if {"compiled", "torch"} <= times.keys():
        facts["ratio"] = times["torch"] / times["compiled"]
        line += f": compiled is {facts['ratio']:.1f} times as fast as torch"
    return Finding(f"{line} (3x3x3 + 3 taps, {SPEED_SITES} sites, {SPEED_CHANNELS} channels, both ways)", facts)


def layer_ms(device: str, engine: str) -> float:
    """Give the median of a few forward and backward passes in ms, maps known."""
    generator = torch.Generator().manual_seed(6)
    seeds = (torch.rand(1, 24, 25, 26, 64, generator=generator) < 5e-4).float()
    blobs = functional.max_pool3d(seeds.movedim(-1, 1).flatten(0, 1)[:, None], 5, stride=1, padding=2)
    coords = (
        functional.max_pool3d(blobs[:, 0].movedim(0, -1)[None], (1, 1, 9), stride=1, padding=(0, 0, 4)) > 0
    ).nonzero()
    coords = coords[torch.randperm(len(coords), generator=generator)[:SPEED_SITES]]
    feats = torch.randn(len(coords), SPEED_CHANNELS, generator=generator)
    x = SparseTensor(coords, feats, spatial_range=(1, 24, 25, 26, 64)).to(device).with_engine(engine)
    layers = nn.Sequential(
        *(SubmanifoldConv(SPEED_CHANNELS, SPEED_CHANNELS, size) for size in ((3, 3, 3, 1), (1, 1, 1, 3)))
    )
    layers.to(device)
    x = x.with_feats(x.feats.requires_grad_())
    times: list[float] = []
    while len(times) < 3 or (sum(times) < SPEED_LIMIT_S and len(times) < 20):
        start = time.perf_counter()
        layers(x).feats.sum().backward()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times[1:])


def check_weights(root: Path | None) -> Finding:
    """Load the shipped weights into their networks."""
    if root is None:
        note = "no bundle found here, so no weights were tried; run from the bundle root, or pass --bundle_root."
        return Finding("no bundle root", {"weights": {}}, notes=[note])
    states, problems = {}, []
    for name, dims in WEIGHTS.items():
        try:
            load_weights(TrajectoryMapNet(spatial_dims=dims, engine="native"), root / "models" / name)
            states[name] = "ok"
        except UserError as error:
            states[name] = "BROKEN"
            problems.append(f"{error} Or take the shipped file again: git checkout models, or unpack the bundle anew.")
    line = ", ".join(f"{name} {state} ({WEIGHTS[name]}D)" for name, state in states.items())
    return Finding(f"{line} in {root / 'models'}", {"weights": states, "bundle_root": str(root)}, problems)


def find_bundle_root() -> Path | None:
    """Look for the bundle around the package (src/sparse_ulm in a checkout, sparse_ulm/ when packed) and here."""
    package = Path(__file__).resolve().parent
    folders = (package.parent, package.parent.parent, Path.cwd())
    return next((folder for folder in folders if (folder / "configs" / "inference.yaml").is_file()), None)


def examine(engine: str, root: Path | None) -> dict[str, Finding]:
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
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    options = parser.parse_args(arguments)
    findings = examine(options.engine, options.bundle_root)
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
