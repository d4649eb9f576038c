"""What every engine under comparison offers, and the order of taps they exchange weights in.

Weights go in and gradients come out as (taps, in, out), x fastest: the native order, so that results can be compared.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar

from torch import Tensor, nn
from workload import KINDS, Case, Quad


class Rival:
    """One engine on one case. Subclasses make `layers` with the case's weights.

    Attributes:
        kinds: What it can convolve.
        maps_timed: Whether its kernel map is its own work.
        one_thread_only: Why it cannot be run with more; None if it can.
        n_layers: How many of the case's layers it computes; None for all.
        how_to_get: What to install where it is missing.
        scale: By what its time and memory are multiplied.
    """

    kinds: ClassVar[tuple[str, ...]] = tuple(KINDS)
    maps_timed: ClassVar[bool] = True
    one_thread_only: ClassVar[str | None] = None
    n_layers: ClassVar[int | None] = None
    how_to_get: ClassVar[str] = ""
    scale: float = 1.0
    layers: nn.ModuleList

    def __init__(self, case: Case) -> None:
        """Make the layers; build no map."""
        self.case = case

    @classmethod
    def load(cls) -> None:
        """Import the library; any exception means that it is missing."""

    @classmethod
    def active(cls) -> AbstractContextManager[None]:
        """Make the engine's settings hold."""
        return nullcontext()

    def build_maps(self) -> None:
        """Build the kernel maps of all layers from nothing but the case's sites, and keep them."""

    def __call__(self, feats: Tensor) -> Tensor:
        """Convolve, using the maps."""
        raise NotImplementedError

    def arrange(self, rows: Tensor) -> Tensor:
        """Turn (sites, channels) into what the engine convolves."""
        return rows.clone()

    def rows(self, arranged: Tensor) -> Tensor:
        """Undo `arrange`."""
        return arranged

    def held_bytes(self) -> int:
        """Tell the memory of maps that were made outside the engine."""
        return 0

    def kernel_gradients(self) -> list[Tensor]:
        """Give the gradients of all kernels, (taps, in, out), x fastest."""
        return [layer.kernel.grad for layer in self.layers]


def t_fastest(kernel: Tensor, size: Quad) -> Tensor:
    """Turn (taps, in, out), x fastest, into (X, Y, Z, T, in, out)."""
    return kernel.view(*size[::-1], *kernel.shape[1:]).permute(3, 2, 1, 0, 4, 5)


def x_fastest(kernel: Tensor) -> Tensor:
    """Undo `t_fastest`."""
    return kernel.permute(3, 2, 1, 0, 4, 5).flatten(0, 3)
