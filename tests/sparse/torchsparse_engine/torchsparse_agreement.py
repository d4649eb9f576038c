"""Comparison of the TorchSparse engine with the native one: outputs, sites and every gradient."""

from collections.abc import Callable

import torch

from sparse_ulm.sparse import SparseTensor

TOLERANCE = 1e-5

Layers = list[torch.nn.Module]


def leaf(x: SparseTensor, name: str) -> SparseTensor:
    """Give a tensor with fresh maps and features that collect a gradient."""
    return x.to(x.device).with_engine(name).with_feats(x.feats.detach().clone().requires_grad_())


def relative(ours: torch.Tensor, reference: torch.Tensor) -> float:
    """Give the largest difference over the largest value; 0 where both are zero or empty."""
    assert ours.shape == reference.shape
    ours, reference = ours.detach(), reference.detach()
    if torch.equal(ours, reference):
        return 0.0
    return float((ours - reference).abs().max() / reference.abs().max())


def results(run: Callable, layers: Layers, inputs: list[SparseTensor], name: str) -> dict[str, torch.Tensor]:
    """Give the output, its sites and every gradient of `run(*inputs)` with one engine."""
    for layer in layers:
        layer.zero_grad()
    leaves = [leaf(x, name) for x in inputs]
    y = run(*leaves)
    assert y.engine == name
    # All positive: sums that cancel would leave rounding alone to compare.
    weights = 1.5 + torch.sin(torch.arange(y.feats.numel(), device=y.device, dtype=torch.float32)).view(y.feats.shape)
    (y.feats * weights).sum().backward()
    found = {"coords": y.coords, "range": torch.tensor(y.spatial_range), "feats": y.feats}
    found |= {f"feats {i}": x.feats.grad for i, x in enumerate(leaves) if x.feats.grad is not None}
    for i, layer in enumerate(layers):
        found |= {f"{i} {key}": p.grad.clone() for key, p in layer.named_parameters()}
    return found


def assert_engines_agree(run: Callable, layers: Layers, inputs: list[SparseTensor]) -> None:
    for layer in layers:
        for parameter in layer.to(inputs[0].device).parameters():
            torch.nn.init.normal_(parameter)
    native, ours = (results(run, layers, inputs, name) for name in ("native", "torchsparse"))
    assert native.keys() == ours.keys()
    for key, reference in native.items():
        if key in ("coords", "range"):
            assert torch.equal(ours[key], reference), key
        else:
            assert relative(ours[key], reference) < TOLERANCE, key
