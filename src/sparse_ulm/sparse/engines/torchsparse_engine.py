"""The TorchSparse engine: the layers and parameters of `native`, convolved by TorchSparse 2.1 on CUDA.

TorchSparse has three axes beside the batch, so an axis with a single tap is folded into the batch
(`torchsparse_layout`); a kernel with more than one tap along all four axes needs the native engine.

What the library does was read in its source (mit-han-lab/torchsparse, 385f5ce) and run. Three of its habits shape
this module: its kernel maps are kept under names without the padding, the table of a coarse level is handed to later
layers of the fine one, and a transposed layer leads back only to sites that some layer stored before. So every map
has a `_caches` of its own, with the fine sites in it from the start, kept in `SparseTensor.maps`.
"""

import importlib
import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sparse_ulm.conventions import Coordinates, Features
from sparse_ulm.errors import UserError
from sparse_ulm.sparse import maps
from sparse_ulm.sparse.engines import torchsparse_failure
from sparse_ulm.sparse.engines.torchsparse_layout import (
    fold,
    fold_range,
    folded_column,
    from_torchsparse,
    kept,
    to_torchsparse,
)
from sparse_ulm.sparse.keys import find_keys, site_keys
from sparse_ulm.sparse.taps import Quad
from sparse_ulm.sparse.tensor import SparseTensor

__all__ = ["from_torchsparse", "strided", "submanifold", "to_torchsparse", "torchsparse_available", "transposed"]

_DATAFLOW = {"cuda": "ImplicitGEMM"}
"""How TorchSparse convolves on each kind of device. Not by GatherScatter: that takes a strided odd kernel for a
submanifold one where as many sites come out as went in. No CPU: the library builds no kernel maps there."""

_ONES = (1, 1, 1)
_GRID_LIMIT = 2**31
_TF32_CAPABILITY = 800


@dataclass(frozen=True)
class _Map:
    """One kernel map of TorchSparse: the fine sites folded for this kernel, and the cache that holds nothing else.

    In the cache the fine sites always count as stride 1 and the coarse ones as `stride`.
    """

    coords: Tensor
    spatial_range: tuple[int, ...]
    size: tuple[int, ...]
    stride: tuple[int, ...]
    caches: Any

    @property
    def padding(self) -> tuple[int, ...]:
        """The padding that keeps the range: conv3d shrinks it, and with it the keys, unless told."""
        return tuple((taps - 1) // 2 if self.stride == _ONES else 0 for taps in self.size)

    def convolve(self, feats: Tensor, kernel: Tensor, bias: Tensor | None, *, transposed: bool = False) -> Any:
        """Run conv3d on features at the fine sites; at TorchSparse's coarse ones, towards the fine, if `transposed`."""
        functional = _library(".nn.functional")
        tensor = _library().SparseTensor(
            feats=feats,
            coords=self.caches.cmaps[self.stride][0] if transposed else self.coords,
            stride=self.stride if transposed else _ONES,
            spatial_range=self.spatial_range,
        )
        tensor._caches = self.caches
        return functional.conv3d(
            tensor,
            kernel,
            self.size,
            bias=bias,
            stride=self.stride,
            padding=self.padding,
            config=_configuration(functional, feats.device.type),
            transposed=transposed,
            training=torch.is_grad_enabled(),
        )

    def coarse_coords(self) -> Coordinates:
        """Give the coarse sites in TorchSparse's rows, striding a channel of zeros if no layer has stored them yet."""
        if self.stride not in self.caches.cmaps:
            n_sites, n_taps = self.coords.shape[0], math.prod(self.size)
            zeros = torch.zeros(n_sites + n_taps, 1, device=self.coords.device)
            self.convolve(zeros[:n_sites], zeros[n_sites:, :, None], None)
        return self.caches.cmaps[self.stride][0]


def torchsparse_available() -> bool:
    """Tell whether TorchSparse can be imported; never raises, although the import itself may raise anything."""
    return torchsparse_failure() is None


def submanifold(x: SparseTensor, kernel: Tensor, bias: Tensor | None, kernel_size: Quad) -> Float[Tensor, "sites out"]:
    """Convolve at the sites of `x`; see `Engine.submanifold`.

    Raises:
        UserError: If the kernel spans all four axes, tensors are float64, or the device is not CUDA.
    """
    _check_tensors(x.feats, kernel)
    if kernel.ndim == 2 or len(x) == 0:
        return _by_matrix(x.feats, kernel, bias)
    return _map_of(x, kernel_size, strided=False).convolve(x.feats, kernel, bias).feats


def strided(x: SparseTensor, kernel: Tensor, bias: Tensor | None, stride: Quad) -> SparseTensor:
    """Convolve with kernel = stride, padding 0; see `Engine.strided`.

    Raises:
        UserError: As `submanifold`, or if TorchSparse would lose sites of so large a coarse grid.
    """
    _check_tensors(x.feats, kernel)
    level = maps.level(x, stride)
    if len(x) == 0:
        feats = _by_matrix(x.feats, kernel, bias)
    else:
        coarse = _map_of(x, stride, strided=True).convolve(x.feats, kernel, bias)
        feats = coarse.feats.index_select(0, _library_rows(x, stride, coarse.coords))
    return SparseTensor.trusted(
        level.coords,
        feats,
        spatial_range=level.spatial_range,
        stride=level.stride,
        engine=x.engine,
        maps=level.maps,
    )


def transposed(
    coarse: SparseTensor, fine: SparseTensor, kernel: Tensor, bias: Tensor | None, stride: Quad
) -> Float[Tensor, "sites out"]:
    """Bring `coarse` to the sites of `fine`; see `Engine.transposed`. A fine site without parent gets the bias alone.

    Raises:
        UserError: As `strided`, or if the ranges do not fit the stride.
    """
    _check_tensors(coarse.feats, kernel)
    if len(fine) == 0:
        return _by_matrix(coarse.feats[:0], kernel, bias)
    fine_map = _map_of(fine, stride, strided=True)
    parents = _features_at_parents(coarse, fine, stride)
    rows = _library_rows(fine, stride, fine_map.coarse_coords())
    parents = torch.empty_like(parents).index_copy(0, rows, parents)
    return fine_map.convolve(parents, kernel, bias, transposed=True).feats


def _library(module: str = "") -> Any:
    """Import TorchSparse or a part of it, at the time of use: most machines have none."""
    return importlib.import_module(f"torchsparse{module}")


def _map_of(x: SparseTensor, size: Quad, *, strided: bool) -> _Map:
    """Give the map of `x` for a kernel; kept in `x.maps`.

    Maps built without gradients lack what TorchSparse's backward pass needs, so the two kinds are kept apart.
    """
    name = ("torchsparse", "map", size, strided, torch.is_grad_enabled())
    if name not in x.maps:
        column = folded_column(size)
        if strided:
            _check_coarse_grid(maps.level(x, size).spatial_range)
        folded = ("torchsparse", "coords", column)
        if folded not in x.maps:
            x.maps[folded] = fold(x.coords, x.spatial_range, column)
        coords, extent, taps = x.maps[folded], fold_range(x.spatial_range, column), kept(size, column)
        caches = _library(".utils.tensor_cache").TensorCache()
        caches.cmaps[_ONES] = (coords, extent)
        x.maps[name] = _Map(coords, extent, taps, taps if strided else _ONES, caches)
    return x.maps[name]


def _library_rows(x: SparseTensor, stride: Quad, coords: Coordinates) -> Int64[Tensor, " sites"]:
    """Give, for every coarse site in our order, its row in TorchSparse's coarse `coords`; kept in `x.maps`.

    Raises:
        UserError: If TorchSparse found other sites than we did.
    """
    name = ("torchsparse", "rows", stride)
    if name not in x.maps:
        level, column = maps.level(x, stride), folded_column(stride)
        extent = fold_range(level.spatial_range, column)
        ours = site_keys(fold(level.coords, level.spatial_range, column), extent)
        theirs, order = torch.sort(site_keys(coords, extent))
        if not torch.equal(torch.sort(ours).values, theirs):
            raise UserError(
                f"TorchSparse strided {len(x)} sites by {stride} to {len(theirs)}, not to the {len(ours)} expected; "
                "wanted the sites of TorchSparse 2.1. Set engine: native."
            )
        x.maps[name] = order[torch.searchsorted(theirs, ours)]
    return x.maps[name]


def _features_at_parents(coarse: SparseTensor, fine: SparseTensor, stride: Quad) -> Features:
    """Give the features of `coarse` at all parents of `fine`, in our order; zero where `coarse` has no such site."""
    level = maps.level(fine, stride)
    if level.spatial_range != coarse.spatial_range:
        raise UserError(
            f"coarse range is {coarse.spatial_range}, but the fine range {fine.spatial_range} over stride {stride} is "
            f"{level.spatial_range}; wanted equal ones. Give the fine sites of the level below."
        )
    if level.maps is coarse.maps:
        return coarse.feats
    own, wanted = (site_keys(coords, level.spatial_range) for coords in (coarse.coords, level.coords))
    rows, found = find_keys(wanted, own)
    feats = coarse.feats.new_zeros((level.coords.shape[0], coarse.feats.shape[1]))
    return feats.index_copy(0, rows[found], coarse.feats[found])


def _configuration(functional: Any, device_type: str) -> Any:
    """Give a configuration of our own, whatever the library's global ones say, and match torch's precision.

    TorchSparse multiplies float32 as TF32 (10 bits) wherever the GPU can; here only where torch is told to as well.
    """
    backends = _library(".backends")
    asked = torch.get_float32_matmul_precision() != "highest"
    backends.allow_tf32 = asked and backends.device_capability >= _TF32_CAPABILITY
    config = functional.conv_config.get_default_conv_config().copy()
    config.dataflow = functional.Dataflow[_DATAFLOW[device_type]]
    config.kmap_mode = "hashmap_on_the_fly"
    return config


def _by_matrix(feats: Features, kernel: Tensor, bias: Tensor | None) -> Float[Tensor, "sites out"]:
    """Convolve by one tap, or at no site (which CUDA cannot launch on) so that gradients stay defined."""
    result = feats @ (kernel if kernel.ndim == 2 else kernel[0])
    return result if bias is None else result + bias


def _check_coarse_grid(spatial_range: tuple[int, ...]) -> None:
    """Refuse what makes strided layers lose sites: keys beyond 32 bits, and a lowest corner taken from the sites."""
    cells = math.prod(spatial_range)
    if cells >= _GRID_LIMIT:
        raise UserError(
            f"coarse grid {spatial_range} (batch, x, y, z, t) has {cells} cells, but TorchSparse loses sites from "
            "2**31 on; use fewer frames or samples at a time, or set engine: native."
        )
    if _library(".tensor").get_allow_negative_coordinates():
        raise UserError(
            "TorchSparse is set to allow negative coordinates, with which its strided layers lose sites; "
            "call torchsparse.tensor.set_allow_negative_coordinates(False), or set engine: native."
        )


def _check_tensors(feats: Tensor, kernel: Tensor) -> None:
    """Refuse devices and types on which TorchSparse fails or crashes."""
    if feats.device.type not in _DATAFLOW:
        raise UserError(
            f"features are on {feats.device}, but TorchSparse convolves on CUDA only; "
            "move tensors and network to cuda, or set engine: native."
        )
    if torch.float64 in (feats.dtype, kernel.dtype):
        raise UserError(
            f"features are {feats.dtype} and the kernel {kernel.dtype}, but TorchSparse has no float64; "
            "use float32, or set engine: native."
        )
