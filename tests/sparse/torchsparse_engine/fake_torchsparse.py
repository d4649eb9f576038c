"""A stand-in for TorchSparse 2.1 where it cannot be installed: its rules by loops over sites and taps.

It keeps the habits that an adapter can trip over: maps kept under (stride, kernel, stride) without padding; the table
of a coarse level kept under the fine stride and used by the next new kernel there; a range that shrinks unless the
padding fits; transposed layers that need an earlier strided one; no backward pass with maps built outside training.
"""

import sys
from enum import Enum
from itertools import product
from types import ModuleType

import torch


class TensorCache:
    def __init__(self) -> None:
        self.cmaps: dict = {}
        self.kmaps: dict = {}
        self.hashmaps: dict = {}


class SparseTensor:
    def __init__(self, feats, coords, stride=1, spatial_range=None) -> None:
        self.feats, self.coords, self.spatial_range = feats, coords, spatial_range
        self.stride = (stride,) * 3 if isinstance(stride, int) else stride
        self._caches = TensorCache()


class Dataflow(Enum):
    ImplicitGEMM = 0
    GatherScatter = 1


class Config(dict):
    """A dictionary whose entries are attributes as well."""

    __setattr__ = dict.__setitem__

    def __getattr__(self, name: str):
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error

    def copy(self) -> "Config":
        return Config(self)


built: list[tuple] = []
"""Kernel sizes of the maps built, in order."""
default_config = Config(dataflow=Dataflow.ImplicitGEMM, kmap_mode="hashmap_on_the_fly")


def taps_of(kernel_size: tuple) -> list[tuple]:
    """Odd volume: x fastest; even: z fastest."""
    if kernel_size[0] * kernel_size[1] * kernel_size[2] % 2:
        return [(x, y, z) for z, y, x in product(*map(range, kernel_size[::-1]))]
    return list(product(*map(range, kernel_size)))


def key_of(site: tuple, extent: tuple) -> int:
    key = 0
    for coordinate, cells in zip(site, extent, strict=True):
        key = key * cells + coordinate
    return key


def inside(site: tuple, extent: tuple) -> bool:
    return all(0 <= c < cells for c, cells in zip(site[1:], extent[1:], strict=True))


def submanifold_map(sites: list[tuple], extent: tuple, kernel_size: tuple, table: dict | None) -> dict:
    if table is None:
        table = {key_of(site, extent): row for row, site in enumerate(sites)}
    pairs = []
    for tap in taps_of(kernel_size):
        found = []
        for row, (batch, *position) in enumerate(sites):
            asked = (batch, *(p + j - (k - 1) // 2 for p, j, k in zip(position, tap, kernel_size, strict=True)))
            other = table.get(key_of(asked, extent)) if inside(asked, extent) else None
            if other is not None:
                found.append((other, row))
        pairs.append(found)
    return {"pairs": pairs, "sites": sites, "table": table}


def strided_map(sites: list[tuple], extent: tuple, kernel_size: tuple, stride: tuple, padding: tuple) -> dict:
    reached = []
    for tap in taps_of(kernel_size):
        found = []
        for row, (batch, *position) in enumerate(sites):
            ahead = [p + pad - j for p, pad, j in zip(position, padding, tap, strict=True)]
            target = (batch, *(a // s for a, s in zip(ahead, stride, strict=True)))
            if all(a % s == 0 for a, s in zip(ahead, stride, strict=True)) and inside(target, extent):
                found.append((row, target))
        reached.append(found)
    coarse = sorted({target for found in reached for _, target in found})
    rows = {site: row for row, site in enumerate(coarse)}
    pairs = [[(row, rows[target]) for row, target in found] for found in reached]
    table = {key_of(site, extent): row for row, site in enumerate(coarse)}
    return {"pairs": pairs, "sites": coarse, "table": table}


def kernel_map(x: SparseTensor, kernel_size: tuple, stride: tuple, padding: tuple, training: bool) -> dict:
    name = (x.stride, kernel_size, stride)
    if name not in x._caches.kmaps:
        built.append(kernel_size)
        sites = [tuple(row) for row in x.coords.tolist()]
        sizes = zip(x.spatial_range[1:], padding, kernel_size, stride, strict=True)
        extent = (x.spatial_range[0], *((cells + 2 * pad - taps) // step + 1 for cells, pad, taps, step in sizes))
        if stride == (1, 1, 1):
            new = submanifold_map(sites, extent, kernel_size, x._caches.hashmaps.get(x.stride))
        else:
            new = strided_map(sites, extent, kernel_size, stride, padding)
        x._caches.kmaps[name] = new | {"range": extent, "training": training, "n_in": len(sites)}
        x._caches.hashmaps[x.stride] = new["table"]
    return x._caches.kmaps[name]


def multiply(feats, weight, pairs: list, n_out: int):
    result = feats.new_zeros(n_out, weight.shape[2])
    for tap, found in enumerate(pairs):
        if found:
            sources, targets = torch.tensor(found, device=feats.device).unbind(1)
            result = result.index_add(0, targets, feats[sources] @ weight[tap])
    return result


def conv3d(
    x, weight, kernel_size, bias=None, stride=1, padding=0, config=None, transposed=False, training=False
) -> SparseTensor:
    if x.feats.dtype != torch.float32 or x.coords.dtype != torch.int32 or not x.coords.is_contiguous():
        raise RuntimeError("fake TorchSparse wants float32 features and contiguous int32 coordinates")
    if config.kmap_mode != "hashmap_on_the_fly" or not isinstance(config.dataflow, Dataflow):
        raise RuntimeError("fake TorchSparse knows hashmap_on_the_fly alone")
    if transposed:
        fine = tuple(a // b for a, b in zip(x.stride, stride, strict=True))
        kmap = x._caches.kmaps[fine, kernel_size, stride]
        pairs = [[(out, source) for source, out in found] for found in kmap["pairs"]]
        feats = multiply(x.feats, weight, pairs, kmap["n_in"])
        coords, extent = x._caches.cmaps[fine]
        result = SparseTensor(feats, coords, fine, extent)
    else:
        kmap = kernel_map(x, kernel_size, stride, padding, training)
        feats = multiply(x.feats, weight, kmap["pairs"], len(kmap["sites"]))
        coords = torch.tensor(kmap["sites"], dtype=torch.int32, device=feats.device).view(-1, 4)
        result = SparseTensor(feats, coords, tuple(a * b for a, b in zip(x.stride, stride, strict=True)), kmap["range"])
    if training and not kmap["training"]:
        raise RuntimeError("fake TorchSparse: this map was built without what the backward pass needs")
    result.feats = feats if bias is None else feats + bias
    result._caches = x._caches
    result._caches.cmaps.setdefault(result.stride, (result.coords, result.spatial_range))
    return result


def install(monkeypatch) -> None:
    """Put the stand-in where `import torchsparse` and its parts look, for one test."""
    built.clear()
    parts = {
        "": {"SparseTensor": SparseTensor},
        ".backends": {"allow_tf32": True, "device_capability": 900},
        ".nn": {},
        ".nn.functional": {"conv3d": conv3d, "Dataflow": Dataflow, "conv_config": ModuleType("conv_config")},
        ".tensor": {"get_allow_negative_coordinates": lambda: False},
        ".utils": {},
        ".utils.tensor_cache": {"TensorCache": TensorCache},
    }
    parts[".nn.functional"]["conv_config"].get_default_conv_config = lambda: default_config
    for name, members in parts.items():
        module = ModuleType(f"torchsparse{name}")
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, module.__name__, module)
