"""Other libraries under comparison: spconv, TorchSparse and MinkowskiEngine; each imported when it is used."""

import importlib
import os
from typing import ClassVar

import torch
from rival import Rival, t_fastest, x_fastest
from torch import Tensor, nn
from workload import Case, neighbour_pairs, tap_offsets


class Spconv(Rival):
    """spconv 2.3 on the CPU: SubMConv4d, the Native algorithm."""

    one_thread_only: ClassVar[str | None] = "its threads race: outputs are wrong and change from run to run"
    how_to_get: ClassVar[str] = "pip install --no-deps spconv==2.3.8 cumm pccm ccimport pybind11 lark portalocker ninja"

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        import spconv.pytorch as spconv
        from spconv.core import ConvAlgo

        self.algo = ConvAlgo.Native
        channels = case.feats.shape[1]
        self.layers = nn.ModuleList(
            spconv.SubMConv4d(channels, channels, list(size), bias=False, algo=self.algo, indice_key=str(size))
            for size in case.sizes
        )
        for layer, kernel, size in zip(self.layers, case.kernels, case.sizes, strict=True):
            layer.weight.data = t_fastest(kernel, size).permute(5, 0, 1, 2, 3, 4).contiguous()

    @classmethod
    def load(cls) -> None:
        ops = importlib.import_module("spconv.pytorch.ops")
        ops.get_current_stream = lambda: 0  # its backward pass asks CUDA for a stream, on the CPU too

    def build_maps(self) -> None:
        from spconv.pytorch import ops
        from spconv.pytorch.core import IndiceData

        coords, shape = self.case.coords, list(self.case.extent[1:])
        if coords.dtype != torch.int32 or not coords.is_contiguous():
            raise ValueError("spconv reads raw pointers: coordinates must be contiguous int32")
        self.maps = {}
        for size in self.case.sizes:
            ones, zeros, ksize = [1] * 4, [0] * 4, list(size)
            outputs, pairs, counts = ops.get_indice_pairs(
                coords, 1, shape, self.algo, ksize, ones, zeros, ones, zeros, subm=True
            )
            self.maps[str(size)] = IndiceData(
                outputs, coords, pairs, counts, shape, shape, is_subm=True, algo=self.algo,
                ksize=ksize, stride=ones, padding=zeros, dilation=ones,
            )  # fmt: skip

    def __call__(self, feats: Tensor) -> Tensor:
        from spconv.pytorch import SparseConvTensor

        x = SparseConvTensor(feats, self.case.coords, list(self.case.extent[1:]), 1, indice_dict=dict(self.maps))
        for layer in self.layers:
            x = layer(x)
        return x.features

    def kernel_gradients(self) -> list[Tensor]:
        return [
            x_fastest(layer.weight.grad.permute(1, 2, 3, 4, 5, 0))
            for layer, size in zip(self.layers, self.case.sizes, strict=True)
        ]


class TorchSparse(Rival):
    """TorchSparse 2.1's own CPU convolution. It builds maps on CUDA only: it is given ours, and they are not timed."""

    kinds: ClassVar[tuple[str, ...]] = ("factorised",)
    maps_timed: ClassVar[bool] = False
    one_thread_only: ClassVar[str | None] = "it opens a parallel region for every row, which takes minutes"
    how_to_get: ClassVar[str] = "build github.com/mit-han-lab/torchsparse (385f5ce) without CUDA"

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.layers = nn.ModuleList(_Kernel(kernel) for kernel in case.kernels)

    @classmethod
    def load(cls) -> None:
        probe = torch.cuda.get_device_capability
        torch.cuda.get_device_capability = lambda *_, **__: (0, 0)  # asked for at the import, even without CUDA
        try:
            importlib.import_module("torchsparse.nn.functional")
        finally:
            torch.cuda.get_device_capability = probe

    def build_maps(self) -> None:
        case, n_sites = self.case, len(self.case.coords)
        self.maps = []
        for size in case.sizes:
            pairs = [
                torch.stack(pair, 1).int() for pair in neighbour_pairs(case.coords, case.extent, tap_offsets(size))
            ]
            sizes = torch.tensor([len(pair) for pair in pairs], dtype=torch.int32)
            masks = {"input_mask": torch.empty(0), "output_mask": torch.empty(0)}
            self.maps.append({"nbmaps": torch.cat(pairs), "nbsizes": sizes, "sizes": (n_sites, n_sites), **masks})

    def __call__(self, feats: Tensor) -> Tensor:
        from torchsparse.nn.functional.conv.func.gather_scatter import GatherScatterConvolutionFuntion

        for layer, kernel_map in zip(self.layers, self.maps, strict=True):
            settings = {"epsilon": 0.0, "mm_thresh": 0}
            feats = GatherScatterConvolutionFuntion.apply(feats, layer.kernel, kernel_map, settings, False)
        return feats

    def held_bytes(self) -> int:
        return sum(kernel_map["nbmaps"].nbytes for kernel_map in self.maps)


class Minkowski(Rival):
    """MinkowskiEngine 0.5.4 on the CPU, in four dimensions."""

    how_to_get: ClassVar[str] = (
        "MinkowskiEngine 0.5.4 from source: Sequence from collections.abc, --cpu_only --blas=openblas"
    )

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        engine = importlib.import_module("MinkowskiEngine")
        channels = case.feats.shape[1]
        self.layers = nn.ModuleList(
            engine.MinkowskiConvolution(channels, channels, kernel_size=list(size), dimension=4) for size in case.sizes
        )
        for layer, kernel in zip(self.layers, case.kernels, strict=True):
            layer.kernel.data = kernel.clone()

    @classmethod
    def load(cls) -> None:
        os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))  # else it warns at its import
        importlib.import_module("MinkowskiEngine")

    def build_maps(self) -> None:
        engine = importlib.import_module("MinkowskiEngine")
        self.manager = engine.CoordinateManager(D=4, num_threads=torch.get_num_threads())
        self.key, _ = self.manager.insert_and_map(self.case.coords, 1)
        for size in self.case.sizes:
            self.manager.kernel_map(self.key, self.key, kernel_size=list(size))

    def __call__(self, feats: Tensor) -> Tensor:
        engine = importlib.import_module("MinkowskiEngine")
        x = engine.SparseTensor(feats, coordinate_map_key=self.key, coordinate_manager=self.manager)
        for layer in self.layers:
            x = layer(x)
        return x.F


class _Kernel(nn.Module):
    """Holds a kernel as its only parameter."""

    def __init__(self, kernel: Tensor) -> None:
        super().__init__()
        self.kernel = nn.Parameter(kernel.clone())
