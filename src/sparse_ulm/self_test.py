"""A convolution that can be checked and timed anywhere in a second, for `sparse_ulm.doctor`."""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparse_ulm.sparse import SparseTensor, SubmanifoldConv, to_dense

TOLERANCE = 1e-5
"""Of float32 sums over 27 taps, relative to the largest value; right answers lie near 1e-7."""

SPEED_GRID = (24, 25, 26, 64)
SPEED_LIMIT_S = 0.6
SPEED_ROUNDS = (4, 20)


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
    errors = [(a.cpu() - b).abs().max() / b.abs().max() for a, b in zip(ours, expected, strict=True)]
    return float(torch.stack(errors).max())  # NaN stays NaN


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


def layer_ms(engine: str, device: str, *, n_sites: int, channels: int) -> float:
    """Time a factorised layer, 3x3x3 in space and 3 in time, forward and backward with known maps; median in ms."""
    x = _blobs(n_sites, channels).to(device).with_engine(engine)
    x = x.with_feats(x.feats.requires_grad_())
    layers = nn.Sequential(*(SubmanifoldConv(channels, channels, size) for size in ((3, 3, 3, 1), (1, 1, 1, 3))))
    layers.to(device)
    fewest, most = SPEED_ROUNDS
    times: list[float] = []
    while len(times) < fewest or (sum(times) < SPEED_LIMIT_S and len(times) < most):
        start = time.perf_counter()
        layers(x).feats.sum().backward()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times[1:])  # The first pass compiles and builds maps.


def _blobs(n_sites: int, channels: int) -> SparseTensor:
    """Make cubes of 5 voxels a side that live 9 frames: as many neighbours as the kept voxels of a bubble have."""
    generator = torch.Generator().manual_seed(6)
    seeds = torch.rand(*SPEED_GRID, generator=generator) < 5e-4
    space = functional.max_pool3d(seeds.float().movedim(-1, 0)[:, None], 5, stride=1, padding=2)[:, 0]
    cubes = functional.max_pool1d(space.flatten(1).t(), 9, stride=1, padding=4).unflatten(0, SPEED_GRID[:3])
    coords = cubes[None].nonzero()[:n_sites]
    feats = torch.randn(len(coords), channels, generator=generator)
    return SparseTensor(coords, feats, spatial_range=(1, *SPEED_GRID))
