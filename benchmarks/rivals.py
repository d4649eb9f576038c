"""The engines compared, by name: ours twice, other libraries (rival_libraries.py), and a dense convolution."""

from contextlib import AbstractContextManager
from textwrap import shorten
from typing import ClassVar

import torch
from rival import Rival, t_fastest, x_fastest
from rival_libraries import Minkowski, Spconv, TorchSparse
from torch import Tensor, nn
from workload import Case

from sparse_ulm.sparse import SparseTensor, SubmanifoldConv, maps
from sparse_ulm.sparse.engines.kernels import use_kernel

DENSE_CELLS = 2**18
"""Cells of the frames on which the dense convolution is measured, instead of on all."""


class Native(Rival):
    """Our engine, compiled loops."""

    kernel: ClassVar[str] = "compiled"
    how_to_get: ClassVar[str] = "part of sparse_ulm; python -m sparse_ulm.doctor says why it does not compile"

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        channels = case.feats.shape[1]
        self.layers = nn.ModuleList(SubmanifoldConv(channels, channels, size) for size in case.sizes)
        for layer, kernel in zip(self.layers, case.kernels, strict=True):
            layer.kernel.data = kernel.clone()

    @classmethod
    def load(cls) -> None:
        with cls.active():
            pass

    @classmethod
    def active(cls) -> AbstractContextManager[None]:
        return use_kernel(cls.kernel)

    def build_maps(self) -> None:
        case = self.case
        self.sites = SparseTensor.trusted(
            case.coords, case.feats, spatial_range=case.extent, stride=(1, 1, 1, 1), engine="native"
        )
        for size in case.sizes:
            maps.neighbours(self.sites, size)

    def __call__(self, feats: Tensor) -> Tensor:
        x = self.sites.with_feats(feats)
        for layer in self.layers:
            x = layer(x)
        return x.feats


class NativeTorch(Native):
    """Our engine, plain PyTorch."""

    kernel: ClassVar[str] = "torch"


class Dense(Rival):
    """torch.nn.Conv3d, 3x3x3, on some of the frames and scaled to all: the spatial layer only, and no sites to find."""

    kinds: ClassVar[tuple[str, ...]] = ("factorised",)
    maps_timed: ClassVar[bool] = False
    n_layers: ClassVar[int | None] = 1

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        channels, (x, y, z, t) = case.feats.shape[1], case.extent[1:]
        self.n_frames = min(t, max(1, DENSE_CELLS // (x * y * z)))
        self.scale = t / self.n_frames
        layer = nn.Conv3d(channels, channels, 3, padding=1, bias=False)
        layer.weight.data = t_fastest(case.kernels[0], case.sizes[0])[:, :, :, 0].permute(4, 3, 0, 1, 2).contiguous()
        self.layers = nn.ModuleList((layer,))
        seen = case.coords[case.coords[:, 4] < self.n_frames].long()
        self.places = (seen[:, 4], slice(None), seen[:, 1], seen[:, 2], seen[:, 3])

    def __call__(self, feats: Tensor) -> Tensor:
        return self.layers[0](feats)

    def arrange(self, rows: Tensor) -> Tensor:
        frames = torch.zeros(self.n_frames, rows.shape[1], *self.case.extent[1:4])
        frames[self.places] = rows[self.case.coords[:, 4] < self.n_frames]
        return frames

    def rows(self, arranged: Tensor) -> Tensor:
        return arranged[self.places]

    def kernel_gradients(self) -> list[Tensor]:
        return [x_fastest(self.layers[0].weight.grad.permute(2, 3, 4, 1, 0)[:, :, :, None])]


RIVALS: dict[str, type[Rival]] = {
    "native": Native,
    "native-torch": NativeTorch,
    "spconv": Spconv,
    "torchsparse": TorchSparse,
    "minkowski": Minkowski,
    "dense": Dense,
}


def why_missing(name: str) -> str | None:
    """Try an engine's import; give in one line why it cannot take part and how to get it, None if it can."""
    try:
        RIVALS[name].load()
    except Exception as error:  # TorchSparse raises AssertionError without CUDA, broken builds OSError
        reason = shorten(f"{type(error).__name__}: {error}", 160, placeholder=" …")
        return f"{name} is missing ({reason}); to get it: {RIVALS[name].how_to_get}"
    return None
