"""The parity part of gpu_check.py: layers and the network on one device against the native engine on the CPU.

Every comparison is one `Row`: the largest difference of output and gradients, each relative to its largest value. Sites
are compared by coordinate and must be equal. A comparison that raises is a row that failed, and stops no other.
"""

import copy
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from workload import moving_blobs

from sparse_ulm.checkpoint import load_weights
from sparse_ulm.errors import UserError
from sparse_ulm.losses import MultiScaleDiceLoss
from sparse_ulm.networks.trajectory_map import TrajectoryMapNet, TrajectoryMapOutput, probability_of
from sparse_ulm.sparse import (
    BatchNorm,
    GenerativeUpsample,
    MaxPool,
    SparseTensor,
    StridedConv,
    SubmanifoldConv,
    TransposedConv,
    find_rows,
    prune,
    union,
)
from sparse_ulm.sparse.engines.kernels import use_kernel

TOLERANCE = 5e-5
"""Of float32, relative to the largest value: sums of up to 40,000 products in another order."""
TOLERANCE_FLOAT64 = 1e-9
"""Of a whole training step in float64: gradients have gone through forty layers."""
TOLERANCE_PROBABILITY, TOLERANCE_SITES = 1e-3, 0.01
"""Of the network in float32: probabilities at common sites, and the share of sites that one side has alone, since a
head's probability may fall on either side of the threshold."""

GRID = (16, 24, 32, 64)
CHANNELS = 16
NARROW: dict[str, Any] = {"encoder_widths": (4, 6, 8), "refine_widths": (8, 6, 5, 4)}
STEP_SITES, MAP_SITES = 300, 20_000


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        engine: What ran on the device.
        what: What was compared with what.
        error: The largest difference; NaN where there is none.
        tolerance: What it may be.
        remark: Why it failed, or why the engine does not offer it.
        offered: Whether the engine does.
    """

    engine: str
    what: str
    error: float
    tolerance: float
    remark: str = ""
    offered: bool = True

    @property
    def passed(self) -> bool:
        """Whether the difference is small enough; NaN is not."""
        return not self.offered or self.error <= self.tolerance


Results = dict[str, Tensor]


def compare(what: str, tolerance: float, error: Callable[..., float], *inputs: Any, engine: str, device: str) -> Row:
    """Make a row of a comparison; what is refused with a `UserError` an engine other than ours need not offer."""
    try:
        return Row(engine, what, error(*inputs, engine, device), tolerance)
    except Exception as failure:
        reason = " ".join(f"{type(failure).__name__}: {failure}".split())[:200]
        return Row(engine, what, math.nan, tolerance, reason, engine == "native" or not isinstance(failure, UserError))


def compare_with_cpu(engine: str, device: str, *, n_sites: int, weights: Path | None) -> list[Row]:
    """Compare all layers and the network on a device with the native engine on the CPU."""
    sites, where = two_samples(n_sites), {"engine": engine, "device": device}
    rows = [compare(what, TOLERANCE, layer_error, layer, sites, **where) for what, layer in layers().items()]
    name = "shipped weights" if weights else "untrained"
    return [
        *rows,
        compare("network, one step, float64", TOLERANCE_FLOAT64, step_error, sites, **where),
        compare(f"network, {name}, float32", TOLERANCE_PROBABILITY, map_error, sites, weights, **where),
    ]


def arithmetic(device: str) -> AbstractContextManager[None]:
    """Compute in PyTorch on the device that is tested, even if it is the CPU, which tests this script."""
    return use_kernel("torch") if device == "cpu" else nullcontext()


def two_samples(n_sites: int) -> SparseTensor:
    """Make a batch of two with moving blobs, the second with half the sites."""
    parts = []
    for sample in range(2):
        coords, _ = moving_blobs(n_sites // (1 + sample), seed=sample, extent=(1, *GRID))
        parts.append(functional.pad(coords[:, 1:], (1, 0), value=sample))
    coords = torch.cat(parts)
    feats = torch.randn(len(coords), CHANNELS, generator=torch.Generator().manual_seed(2))
    return SparseTensor(coords, feats, spatial_range=(2, *GRID))


class WayBack(nn.Module):
    """Pool, drop a third of the coarse sites, and come back: some sites have no parent."""

    def __init__(self) -> None:
        """Make the layer."""
        super().__init__()
        self.pool, self.up = MaxPool((2, 2, 2, 1)), TransposedConv(CHANNELS, 8, (2, 2, 2, 1), bias=True)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Pool, prune and return."""
        coarse = self.pool(x)
        return self.up(prune(coarse, torch.arange(len(coarse), device=x.device) % 3 > 0), x)


class Union(nn.Module):
    """Add two tensors whose sites overlap in part: `x`, and a quarter of its children."""

    def __init__(self) -> None:
        """Make the layers."""
        super().__init__()
        self.down, self.up = StridedConv(CHANNELS, 8, (2, 2, 2, 1)), GenerativeUpsample(8, CHANNELS)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Go down, refine and add."""
        return union(self.up(self.down(x)), x)


def layers() -> dict[str, nn.Module]:
    """Make one layer of each kind."""
    torch.manual_seed(3)
    return {
        "submanifold 3x3x3x1": SubmanifoldConv(CHANNELS, 24, (3, 3, 3, 1), bias=True),
        "submanifold 1x1x1x3": SubmanifoldConv(CHANNELS, 8, (1, 1, 1, 3)),
        "submanifold 3x3x3x3": SubmanifoldConv(CHANNELS, 8, (3, 3, 3, 3)),
        "strided 2x2x2x1": StridedConv(CHANNELS, 24, (2, 2, 2, 1), bias=True),
        "strided 1x1x1x4": StridedConv(CHANNELS, 8, (1, 1, 1, 4)),
        "pool, prune, transposed 2x2x2x1": WayBack(),
        "generative 2x2x2x1": GenerativeUpsample(CHANNELS, 8, bias=True),
        "max pool 2x2x2x4": MaxPool((2, 2, 2, 4)),
        "batch norm": BatchNorm(CHANNELS),
        "strided, generative, union": Union(),
    }


def layer_error(layer: nn.Module, x: SparseTensor, engine: str, device: str) -> float:
    """Compare a layer's output, sites, gradients and running statistics with the CPU's."""
    expected = results(copy.deepcopy(layer), x.with_engine("native"))
    with arithmetic(device):
        found = results(copy.deepcopy(layer).to(device), x.to(device).with_engine(engine))
    return worst(found, expected)


def results(layer: nn.Module, x: SparseTensor) -> Results:
    """Run forward and backward; give sites, output, gradients and buffers on the CPU."""
    x = x.to(x.device)  # New maps, as for new sites.
    feats = x.feats.detach().clone().requires_grad_()
    y = layer(x.with_feats(feats))
    weights = torch.sin(torch.arange(y.feats.numel(), dtype=torch.float64)).view(y.feats.shape)
    (y.feats * weights.to(y.feats)).sum().backward()
    found = {"coords": y.coords, "output": y.feats, "gradient of the input": feats.grad}
    found |= {f"gradient of {name}": parameter.grad for name, parameter in layer.named_parameters()}
    found |= dict(layer.named_buffers())
    return {name: value.detach().cpu() for name, value in found.items() if value is not None}


def worst(found: Results, expected: Results) -> float:
    """Give the largest relative difference; integers (sites, counters) must be equal.

    Raises:
        ValueError: If something is missing, or sites differ.
    """
    if found.keys() != expected.keys():
        raise ValueError(f"{sorted(found.keys() ^ expected.keys())} on one side only")
    errors = [torch.zeros(())]
    for name, value in expected.items():
        if not value.is_floating_point():
            if not torch.equal(found[name], value):
                raise ValueError(f"{name} differ: {tuple(found[name].shape)} and {tuple(value.shape)}")
        elif value.numel():
            errors.append((found[name] - value).abs().max() / value.abs().max().clamp(min=1e-30))
    return float(torch.stack([error.double() for error in errors]).max())


def step_error(x: SparseTensor, engine: str, device: str) -> float:
    """Compare a training step of a narrow, untrained network: all sites, logits, loss and gradients."""
    torch.manual_seed(4)
    net = TrajectoryMapNet(in_channels=CHANNELS, variant="deep_supervision", engine="native", **NARROW).double()
    few = torch.arange(0, len(x), max(1, len(x) // STEP_SITES))  # Without pruning each becomes 512.
    block = SparseTensor(x.coords[few], x.feats[few].double(), spatial_range=x.spatial_range)
    truth = block.coords[::2] * torch.tensor([1, *net.upsampling, 1], dtype=torch.int32)
    truth[:, 4] //= net.slot_frames
    truth = torch.unique(truth, dim=0)
    ours = copy.deepcopy(net)
    ours.engine = engine
    expected = step_results(net, block, truth)
    with arithmetic(device):
        found = step_results(ours.to(device), block.to(device), truth.to(device))
    return worst(found, expected)


def step_results(net: TrajectoryMapNet, x: SparseTensor, truth: Tensor) -> Results:
    """Run a step; give all that it makes, on the CPU."""
    loss = MultiScaleDiceLoss(upsampling=net.upsampling, head_miss_weight=0.8)
    output = net.train()(x)
    value = loss(output, truth)
    value.backward()
    found: dict[str, Tensor | None] = {"loss": value}
    for i, head in enumerate(all_heads(output)):
        found |= {f"sites of head {i}": head.coords, f"logits of head {i}": head.feats}
    found |= {name: parameter.grad for name, parameter in net.named_parameters()}
    found |= {f"after {name}": buffer for name, buffer in net.named_buffers()}
    return {name: tensor.detach().cpu() for name, tensor in found.items() if tensor is not None}


def all_heads(output: TrajectoryMapOutput) -> list[SparseTensor]:
    """Give the heads and the final map."""
    return [*output.heads, *([] if output.final is None else [output.final])]


def map_error(x: SparseTensor, weights: Path | None, engine: str, device: str) -> float:
    """Compare the network's probabilities at common sites, head by head.

    Raises:
        ValueError: If too many sites are on one side only.
    """
    torch.manual_seed(5)
    net = TrajectoryMapNet(engine="native", max_kept_sites=MAP_SITES).eval()
    if weights is not None:
        load_weights(net, weights)
    block = SparseTensor(x.coords, x.feats[:, : net.in_channels], spatial_range=x.spatial_range)
    ours = copy.deepcopy(net)
    ours.engine = engine
    with torch.no_grad():
        expected = net(block)
        with arithmetic(device):
            found = ours.to(device)(block.to(device))
    errors = [0.0]
    for i, (head, reference) in enumerate(zip(all_heads(found), all_heads(expected), strict=True)):
        rows = find_rows(reference, head.coords.cpu())
        common = rows >= 0
        n_common, n_any = int(common.sum()), len(head) + len(reference) - int(common.sum())
        if n_common < (1.0 - TOLERANCE_SITES) * n_any:
            raise ValueError(f"head {i} has {n_any - n_common} of {n_any} sites on one side only")
        difference = probability_of(head).cpu()[common] - probability_of(reference)[rows[common]]
        errors += [float(difference.abs().max())] if n_common else []
    return float(torch.tensor(errors).max())
