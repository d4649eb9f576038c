"""What waits for the backward pass: features, in fewer bytes where asked for, or how to make them again.

Half of a training step's memory would be inputs of convolutions that a norm and a ReLU made from something that is kept
as well, for the norm's own gradient. `NormRelu` hands on that recipe (`Rebuild`); the convolution after it keeps the
recipe and makes its input again, in one pass over memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_ulm.errors import UserError
from sparse_ulm.sparse import feature_loops
from sparse_ulm.sparse.engines.kernels import runs_compiled

STORED_TYPES = {"float32": None, "bfloat16": torch.bfloat16}
"""Names of types for `stored_as`; None keeps features as they are."""

_storage: ContextVar[torch.dtype | None] = ContextVar("storage", default=None)


@contextmanager
def stored_as(name: str) -> Iterator[None]:
    """Keep features as "float32" or "bfloat16" from forward to backward pass: bfloat16 is half the memory, 8 bits.

    What the forward pass computes stays as it is; gradients see rounded features.

    Raises:
        UserError: If the name is neither.
    """
    if name not in STORED_TYPES:
        raise UserError(f"stored_activations is {name!r}; wanted one of {', '.join(STORED_TYPES)}.")
    token = _storage.set(STORED_TYPES[name])
    try:
        yield
    finally:
        _storage.reset(token)


def stored(feats: Float[Tensor, "rows channels"]) -> Float[Tensor, "rows channels"]:
    """Give features as they are kept."""
    return feats.detach().to(_storage.get() or feats.dtype)


@dataclass(frozen=True)
class Rebuild:
    """How to make features: max(raw * scale + shift, 0).

    Attributes:
        raw: (rows, channels) features before the norm, as they are stored.
        scale: (channels,).
        shift: (channels,).
    """

    raw: Tensor
    scale: Tensor
    shift: Tensor


def kept_tensors(feats: Tensor, rebuild: Rebuild | None) -> tuple[Tensor, ...]:
    """Give what to save for the backward pass in the place of `feats`."""
    return (stored(feats),) if rebuild is None else (rebuild.raw, rebuild.scale, rebuild.shift)


def features_of(kept: tuple[Tensor, ...], dtype: torch.dtype) -> Float[Tensor, "rows channels"]:
    """Make the features again from what `kept_tensors` gave."""
    raw = kept[0].to(dtype)
    return raw if len(kept) == 1 else normalise_rectify(raw, *kept[1:])


def normalise_rectify(
    feats: Float[Tensor, "rows channels"], scale: Float[Tensor, " channels"], shift: Float[Tensor, " channels"]
) -> Float[Tensor, "rows channels"]:
    """Give max(feats * scale + shift, 0)."""
    if runs_compiled(feats):
        return feature_loops.normalise_rectify(feats, scale, shift)
    return torch.addcmul(shift, feats, scale).relu_()
