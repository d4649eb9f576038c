"""Which arithmetic the native engine uses: compiled loops on the CPU where they compile, PyTorch everywhere else.

Decided once, at the first convolution or question; `SPARSE_ULM_KERNEL` = auto, compiled or torch overrides it, and
`use_kernel` does so for a while. `python -m sparse_ulm.doctor` says what was chosen and why.
"""

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from sparse_ulm.errors import UserError

VARIABLE = "SPARSE_ULM_KERNEL"
KERNELS = ("auto", "compiled", "torch")
_COMPILED_TYPES = (torch.float32, torch.float64, torch.int32, torch.int64)


@dataclass(frozen=True)
class KernelChoice:
    """What multiplies features and kernels on the CPU.

    Attributes:
        name: "compiled" or "torch".
        reason: Why, in one line.
    """

    name: str
    reason: str


_choice: KernelChoice | None = None


def chosen_kernel() -> KernelChoice:
    """Give the choice in force, made at the first call.

    Raises:
        UserError: If the variable asks for something unknown, or for compiled loops that do not compile.
    """
    global _choice
    if _choice is None:
        _choice = _choose(os.environ.get(VARIABLE, "auto"))
    return _choice


def runs_compiled(tensor: Tensor) -> bool:
    """Tell whether compiled loops work on this tensor; PyTorch does on other devices and floating-point types."""
    return tensor.device.type == "cpu" and tensor.dtype in _COMPILED_TYPES and chosen_kernel().name == "compiled"


@contextmanager
def use_kernel(name: str) -> Iterator[None]:
    """Compute with "compiled" or "torch" inside the `with` block, for tests and benchmarks."""
    global _choice
    before, _choice = _choice, _choose(name)
    try:
        yield
    finally:
        _choice = before


def _choose(wanted: str) -> KernelChoice:
    """Turn the wish into a choice."""
    if wanted not in KERNELS:
        raise UserError(f"{VARIABLE} is {wanted!r}; wanted one of {', '.join(KERNELS)}. Unset it for the default.")
    if wanted == "torch":
        return KernelChoice("torch", f"asked for ({VARIABLE})")
    failure = compile_failure()
    if failure is None:
        return KernelChoice("compiled", f"asked for ({VARIABLE})" if wanted == "compiled" else "they compile here")
    if wanted == "compiled":
        raise UserError(f"{VARIABLE} is 'compiled' but the loops do not compile ({failure}). Unset it, or set torch.")
    return KernelChoice("torch", f"the compiled loops do not compile ({failure})")


def compile_failure() -> str | None:
    """Compile the loops and try them on one site; give why that failed in one line, None if it did not."""
    try:
        importlib.import_module("sparse_ulm.sparse.engines.native_compiled").self_test()
    except Exception as error:
        return " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return None
