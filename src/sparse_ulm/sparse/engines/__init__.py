"""Which code computes the convolutions: the protocol every engine follows, and the choice between engines.

An engine is a module with three functions, `submanifold`, `strided` and `transposed` (see `Engine`). All
else (pooling, pruning, generative upsampling, normalisation) is plain PyTorch and the same for every engine.

* Parameters arrive as TorchSparse stores them: `kernel` (taps, in, out), or (in, out) for a 1x1x1x1 stride-1
  kernel; taps in the order of `sparse_ulm.sparse.taps`. An engine that wants another order permutes inside.
* Tensors arrive with rows in key order and every row inside `spatial_range`; results keep the same promise.
* Whatever an engine wants to keep for the sites of a tensor goes into `x.maps`, a dictionary shared by all
  tensors at the same sites, under a tuple key that begins with the engine's name: `("torchsparse", ...)`.
* The coarse sites, and the maps shared by every tensor on them, come from `sparse_ulm.sparse.maps.level`,
  so that skip connections find equal sites whichever engine ran.

Names: "native" (`native.py`, always there), "torchsparse" (`torchsparse_engine.py`, needs the TorchSparse
library) and "auto": TorchSparse if it can be imported and CUDA is available, else native.
"""

import importlib
from functools import cache
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from sparse_ulm.errors import UserError

if TYPE_CHECKING:
    from sparse_ulm.sparse.tensor import SparseTensor

ENGINES = ("auto", "native", "torchsparse")
_MODULES = {"native": "native", "torchsparse": "torchsparse_engine"}


@runtime_checkable
class Engine(Protocol):
    """What a module must offer to be an engine. Kernel sizes and strides run (x, y, z, t)."""

    def submanifold(
        self, x: "SparseTensor", kernel: Tensor, bias: Tensor | None, kernel_size: tuple[int, int, int, int]
    ) -> Tensor:
        """Convolve at the sites of `x`; `kernel_size` odd, stride 1. Give (sites, out) features in the same rows."""

    def strided(
        self, x: "SparseTensor", kernel: Tensor, bias: Tensor | None, stride: tuple[int, int, int, int]
    ) -> "SparseTensor":
        """Convolve with kernel = `stride`, padding 0. Give a tensor at the sites unique(floor(coords / stride))."""

    def transposed(
        self,
        coarse: "SparseTensor",
        fine: "SparseTensor",
        kernel: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int, int, int],
    ) -> Tensor:
        """Bring `coarse` to the stored sites of `fine`, each from its one parent. Give (fine sites, out) features."""


def resolve_engine(name: str) -> str:
    """Turn the configured engine name into the engine that will run.

    Args:
        name: "auto", "native" or "torchsparse".

    Returns:
        "native" or "torchsparse". "auto" is TorchSparse only where it can be imported and CUDA is available.

    Raises:
        UserError: If the name is unknown, or "torchsparse" is asked for and cannot be imported.
    """
    if name not in ENGINES:
        raise UserError(f"engine is {name!r}; wanted one of {', '.join(ENGINES)}. Set `engine` to one of them.")
    if name == "auto":
        return "torchsparse" if torch.cuda.is_available() and torchsparse_failure() is None else "native"
    if name == "torchsparse" and (failure := torchsparse_failure()) is not None:
        raise UserError(
            f"engine 'torchsparse' was asked for but TorchSparse cannot be imported ({failure}). "
            "Install TorchSparse 2.1 on a machine with CUDA, or set engine: native."
        )
    return name


def get_engine(name: str) -> Engine:
    """Give the engine of that name, as `resolve_engine` understands it.

    Raises:
        UserError: As `resolve_engine`.
    """
    return cast(Engine, importlib.import_module(f"{__name__}.{_MODULES[resolve_engine(name)]}"))


@cache
def torchsparse_failure() -> str | None:
    """Give why TorchSparse cannot be imported, in one line; None if it can.

    Without CUDA TorchSparse 2.1 raises AssertionError, with a mismatched build OSError or RuntimeError:
    any exception means that it is not usable. The answer is kept; `torchsparse_failure.cache_clear()` forgets it.
    """
    try:
        importlib.import_module("torchsparse")
    except Exception as error:
        return " ".join(f"{type(error).__name__}: {error}".split())
    return None
