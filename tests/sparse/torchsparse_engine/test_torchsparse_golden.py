"""The TorchSparse engine against the golden vectors, which TorchSparse's own convolution computed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torchsparse_agreement import TOLERANCE, relative

from sparse_ulm.sparse import (
    BatchNorm,
    SparseTensor,
    StridedConv,
    SubmanifoldConv,
    TransposedConv,
    concatenate,
    find_rows,
)

GOLDEN = Path(__file__).parents[2] / "compare" / "golden"


class Golden:
    """One golden file on the library's device, its coordinates widened to (batch, x, y, z, t)."""

    def __init__(self, name: str, device: torch.device) -> None:
        self.arrays, self.device = np.load(GOLDEN / f"{name}.npz"), device
        self.missing = 5 - self.arrays["coords_in"].shape[1]

    def __contains__(self, key: str) -> bool:
        return key in self.arrays

    def __getitem__(self, key: str) -> torch.Tensor:
        return torch.from_numpy(self.arrays[key]).to(self.device)

    def axes(self, key: str) -> tuple[int, ...]:
        return (*self.arrays[key].tolist(), *[1] * self.missing)

    def sites(self, key: str) -> torch.Tensor:
        return torch.nn.functional.pad(self[key], (0, self.missing))

    def tensor(self, coords: str, feats: torch.Tensor, spatial_range: tuple[int, ...]) -> SparseTensor:
        return SparseTensor(self.sites(coords), feats, spatial_range=spatial_range, engine="torchsparse")

    def layer(self, kind: type, size: tuple[int, ...], prefix: str = "") -> torch.nn.Module:
        """Make a layer and load parameters as they are: shapes must be the engine's own."""
        kernel, bias = self[f"{prefix}kernel"], f"{prefix}bias"
        layer = kind(*kernel.shape[-2:], size, bias=bias in self).to(self.device)
        layer.load_state_dict({"kernel": kernel} | ({"bias": self[bias]} if bias in self else {}))
        return layer

    def check(self, y: SparseTensor, feats: torch.Tensor, layers: dict[str, torch.nn.Module]) -> None:
        """Compare output and gradients by coordinate."""
        rows = find_rows(y, self.sites("coords_out"))
        assert len(y) == len(rows)
        assert (rows >= 0).all()
        assert relative(y.feats[rows], self["feats_out"]) < TOLERANCE
        (y.feats[rows] * self["grad_out"]).sum().backward()
        assert relative(feats.grad, self["grad_feats_in"]) < TOLERANCE
        for prefix, layer in layers.items():
            for name, parameter in layer.named_parameters():
                assert relative(parameter.grad, self[f"{prefix}{name}"]) < TOLERANCE, f"{prefix}{name}"


def golden_names(pattern: str) -> list[str]:
    found = sorted(path.stem for path in GOLDEN.glob(pattern))
    if not found:
        raise FileNotFoundError(f"no golden file {pattern} in {GOLDEN.name}")
    return found


@pytest.mark.parametrize("name", [*golden_names("submanifold*"), *golden_names("strided*")])
def test_golden_layer(device, name) -> None:
    golden = Golden(name, device)
    feats = golden["feats_in"].requires_grad_()
    layer = golden.layer(StridedConv if name.startswith("strided") else SubmanifoldConv, golden.axes("kernel_size"))
    y = layer(golden.tensor("coords_in", feats, golden.axes("spatial_range")))
    assert y.spatial_range == golden.axes("spatial_range_out")
    golden.check(y, feats, {"grad_": layer})


@pytest.mark.parametrize("name", golden_names("transposed*"))
def test_golden_transposed(device, name) -> None:
    golden = Golden(name, device)
    feats, stride = golden["feats_in"].requires_grad_(), golden.axes("stride")
    coarse = golden.tensor("coords_in", feats, golden.axes("spatial_range"))
    fine_range = tuple(c * s for c, s in zip(coarse.spatial_range, (1, *stride), strict=True))
    fine = golden.tensor("coords_out", golden["feats_out"], fine_range)
    layer = golden.layer(TransposedConv, stride)
    golden.check(layer(coarse, fine), feats, {"grad_": layer})


@pytest.mark.parametrize("name", golden_names("factorised4d*"))
def test_golden_factorised(device, name) -> None:
    golden = Golden(name, device)
    feats = golden["feats_in"].requires_grad_()
    space, time = (
        golden.layer(SubmanifoldConv, golden.axes(f"{part}_kernel_size"), f"{part}_")
        for part in ("spatial", "temporal")
    )
    y = time(space(golden.tensor("coords_in", feats, golden.axes("spatial_range"))))
    golden.check(y, feats, {"grad_spatial_": space, "grad_temporal_": time})


def test_golden_unet(device) -> None:
    golden = Golden("unet4d", device)
    kinds = {"down": StridedConv, "up": TransposedConv}
    net = torch.nn.ModuleDict()
    for name, size in zip(golden.arrays["layer_names"].tolist(), golden.arrays["kernel_size"].tolist(), strict=True):
        net[name] = golden.layer(kinds.get(name, SubmanifoldConv), tuple(size), f"param.{name}.")
    net["bn"] = BatchNorm(8, eps=float(golden["bn_eps"]), momentum=float(golden["bn_momentum"])).to(device)
    for part in ("weight", "bias"):
        net["bn"].state_dict()[part].copy_(golden[f"param.bn.{part}"])

    def run(x: SparseTensor) -> SparseTensor:
        h = net["bn"](net["t1"](net["s1"](x)))
        h = h.with_feats(h.feats.relu())
        e = net["t2"](net["s2"](net["down"](h)))
        e = e.with_feats(e.feats.relu())
        return net["head"](net["s3"](concatenate([net["up"](e, h), h])))

    feats = golden["feats_in"].requires_grad_()
    x = golden.tensor("coords_in", feats, golden.axes("spatial_range"))
    golden.check(run(x), feats, {f"grad.{name}.": layer for name, layer in net.items()})
    rows = find_rows(x, golden.sites("coords_out"))
    with torch.no_grad():
        evaluated = net.eval() and run(x)
    assert relative(evaluated.feats[rows], golden["feats_out_eval"]) < TOLERANCE
