"""The native engine against outputs and gradients of TorchSparse, spconv and MinkowskiEngine (golden/README.md)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sparse_ulm.sparse import (
    BatchNorm,
    SparseTensor,
    StridedConv,
    SubmanifoldConv,
    TransposedConv,
    concatenate,
    find_rows,
    tap_offsets,
)

pytestmark = pytest.mark.usefixtures("each_kernel")

GOLDEN = Path(__file__).parent / "golden"
TOLERANCE = 1e-5


def names(pattern: str) -> list[str]:
    """List golden files; an empty list would make a silent pass, so it is refused."""
    found = sorted(path.stem for path in GOLDEN.glob(pattern))
    if not found:
        raise FileNotFoundError(f"no golden file {pattern} in {GOLDEN.name}")
    return found


class Golden:
    """One golden file, its coordinates widened to (batch, x, y, z, t)."""

    def __init__(self, name: str, dtype: torch.dtype) -> None:
        self.arrays = np.load(GOLDEN / f"{name}.npz")
        self.dtype = dtype
        self.missing = 5 - self.arrays["coords_in"].shape[1]

    def __contains__(self, key: str) -> bool:
        return key in self.arrays

    def __getitem__(self, key: str) -> torch.Tensor:
        values = torch.from_numpy(self.arrays[key])
        return values.to(self.dtype) if values.is_floating_point() else values

    def coords(self, key: str) -> torch.Tensor:
        return torch.nn.functional.pad(self[key], (0, self.missing))

    def axes(self, key: str) -> tuple[int, ...]:
        return (*self[key].tolist(), *[1] * self.missing)

    def fill(self, layer: torch.nn.Module, kernel: str = "kernel", bias: str = "bias") -> torch.nn.Module:
        """Load the file's parameters; shapes must be the engine's own."""
        state = {"kernel": self[kernel]} | ({"bias": self[bias]} if bias in self else {})
        layer.to(self.dtype).load_state_dict(state, strict=True)
        return layer


def assert_close(ours: torch.Tensor, stored: torch.Tensor) -> None:
    """Compare as the golden README says: relative to the largest stored value."""
    assert ours.shape == stored.shape
    assert (ours.detach() - stored).abs().max() <= TOLERANCE * stored.abs().max()


def at(y: SparseTensor, coords: torch.Tensor) -> torch.Tensor:
    """Give the features of `y` in the stored row order; site sets must be equal."""
    rows = find_rows(y, coords)
    assert len(y) == len(coords)
    assert (rows >= 0).all()
    return y.feats[rows]


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request) -> torch.dtype:
    return request.param


@pytest.mark.parametrize("name", [*names("submanifold*"), *names("strided*"), *names("true4d*")])
def test_layer(name: str, dtype: torch.dtype) -> None:
    golden = Golden(name, dtype)
    feats = golden["feats_in"].requires_grad_()
    x = SparseTensor(golden.coords("coords_in"), feats, spatial_range=golden.axes("spatial_range"))
    size = golden.axes("kernel_size")
    kind = StridedConv if name.startswith("strided") else SubmanifoldConv
    layer = golden.fill(kind(*golden["kernel"].shape[-2:], size, bias="bias" in golden))
    y = layer(x)
    ours = at(y, golden.coords("coords_out"))
    assert y.spatial_range == golden.axes("spatial_range_out")
    assert_close(ours, golden["feats_out"])
    (ours * golden["grad_out"]).sum().backward()
    assert_close(feats.grad, golden["grad_feats_in"])
    for parameter, values in layer.named_parameters():
        assert_close(values.grad, golden[f"grad_{parameter}"])


@pytest.mark.parametrize("name", names("transposed*"))
def test_transposed(name: str, dtype: torch.dtype) -> None:
    golden = Golden(name, dtype)
    feats = golden["feats_in"].requires_grad_()
    stride, coarse_range = golden.axes("stride"), golden.axes("spatial_range")
    coarse = SparseTensor(golden.coords("coords_in"), feats, spatial_range=coarse_range, stride=stride)
    sites = golden.coords("coords_out")
    fine_range = tuple(c * s for c, s in zip(coarse_range, (1, *stride), strict=True))
    fine = SparseTensor(sites, torch.zeros(len(sites), 1), spatial_range=fine_range)
    layer = golden.fill(TransposedConv(*golden["kernel"].shape[-2:], stride, bias="bias" in golden))
    ours = at(layer(coarse, fine), sites)
    assert_close(ours, golden["feats_out"])
    (ours * golden["grad_out"]).sum().backward()
    assert_close(feats.grad, golden["grad_feats_in"])
    for parameter, values in layer.named_parameters():
        assert_close(values.grad, golden[f"grad_{parameter}"])


@pytest.mark.parametrize("name", [*names("submanifold*"), *names("strided*"), *names("transposed*"), *names("true4d*")])
def test_tap_offsets(name: str) -> None:
    golden = Golden(name, torch.float32)
    assert torch.equal(tap_offsets(golden["kernel_size"].tolist()), golden["tap_offsets"].long())
    assert torch.equal(
        tap_offsets(golden.axes("kernel_size"))[:, : 4 - golden.missing], golden["tap_offsets"].long()
    ), "time as fourth axis"


@pytest.mark.parametrize("name", names("factorised4d*"))
def test_factorised(name: str, dtype: torch.dtype) -> None:
    golden = Golden(name, dtype)
    feats = golden["feats_in"].requires_grad_()
    x = SparseTensor(golden["coords_in"], feats, spatial_range=golden.axes("spatial_range"))
    layers = {}
    for part in ("spatial", "temporal"):
        size = golden.axes(f"{part}_kernel_size")
        assert torch.equal(tap_offsets(size), golden[f"{part}_tap_offsets"].long())
        layer = SubmanifoldConv(*golden[f"{part}_kernel"].shape[-2:], size, bias=f"{part}_bias" in golden)
        layers[part] = golden.fill(layer, f"{part}_kernel", f"{part}_bias")
    middle = layers["spatial"](x)
    middle.feats.retain_grad()
    assert_close(at(middle, golden["coords_in"]), golden["feats_mid"])
    ours = at(layers["temporal"](middle), golden["coords_out"])
    assert_close(ours, golden["feats_out"])
    (ours * golden["grad_out"]).sum().backward()
    assert_close(feats.grad, golden["grad_feats_in"])
    assert_close(at(middle.with_feats(middle.feats.grad), golden["coords_in"]), golden["grad_feats_mid"])
    for part, layer in layers.items():
        for parameter, values in layer.named_parameters():
            assert_close(values.grad, golden[f"grad_{part}_{parameter}"])


class UNet(torch.nn.Module):
    """The network of `unet4d`, with the file's layer names; keeps what each layer gave."""

    def __init__(self, golden: Golden) -> None:
        super().__init__()
        rows = zip(golden.arrays["layer_names"].tolist(), golden["kernel_size"].tolist(), strict=True)
        for name, size in rows:
            shape = golden[f"param.{name}.kernel"].shape[-2:]
            kind = {"down": StridedConv, "up": TransposedConv}.get(name, SubmanifoldConv)
            self.add_module(name, kind(*shape, size, bias=name == "head"))
        self.bn = BatchNorm(8, eps=float(golden["bn_eps"]), momentum=float(golden["bn_momentum"]))
        self.kept: dict[str, SparseTensor] = {}

    def keep(self, name: str, *inputs: SparseTensor) -> SparseTensor:
        self.kept[name] = self.get_submodule(name)(*inputs)
        return self.kept[name]

    def forward(self, x: SparseTensor) -> SparseTensor:
        h = self.keep("bn", self.keep("t1", self.keep("s1", x)))
        h = h.with_feats(h.feats.relu())
        e = self.keep("t2", self.keep("s2", self.keep("down", h)))
        e = e.with_feats(e.feats.relu())
        return self.keep("head", self.keep("s3", concatenate([self.keep("up", e, h), h])))


def test_unet(dtype: torch.dtype) -> None:
    golden = Golden("unet4d", dtype)
    net = UNet(golden).to(dtype)
    state = {key[6:]: golden[key] for key in golden.arrays.files if key.startswith("param.")}
    state |= {f"bn.running_{part}": golden[f"bn_running_{part}_before"] for part in ("mean", "var")}
    net.load_state_dict(state | {"bn.num_batches_tracked": torch.tensor(0)}, strict=True)
    feats = golden["feats_in"].requires_grad_()
    x = SparseTensor(golden["coords_in"], feats, spatial_range=golden.axes("spatial_range"))
    y = net.train()(x)
    assert net.kept["down"].spatial_range == golden.axes("coarse_spatial_range")
    for name in ("s1", "t1", "bn", "down", "s2", "t2", "up", "s3"):
        coords = golden["coords_coarse" if name in ("down", "s2", "t2") else "coords_in"]
        assert_close(at(net.kept[name], coords), golden[f"feats.{name}"])
    ours = at(y, golden["coords_out"])
    assert_close(ours, golden["feats_out"])
    (ours * golden["grad_out"]).sum().backward()
    assert_close(feats.grad, golden["grad_feats_in"])
    for name, parameter in net.named_parameters():
        assert_close(parameter.grad, golden[f"grad.{name}"])
    for part in ("mean", "var"):
        assert_close(net.bn.get_buffer(f"running_{part}"), golden[f"bn_running_{part}_after"])
    assert_close(at(net.eval()(x), golden["coords_out"]), golden["feats_out_eval"])
