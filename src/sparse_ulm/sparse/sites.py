"""Operations on sets of sites: prune, concatenate, unite, to and from dense; plain PyTorch for every engine."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparse_ulm.conventions import SiteMask
from sparse_ulm.errors import UserError
from sparse_ulm.sparse.keys import find_keys, keys_to_coords, site_keys
from sparse_ulm.sparse.tensor import SparseTensor


def prune(x: SparseTensor, mask: SiteMask) -> SparseTensor:
    """Keep the sites where `mask` is true (site pruning, Rauby et al.); range and stride stay, maps are built anew.

    Raises:
        UserError: If the mask has not one entry per site.
    """
    if mask.shape[0] != len(x):
        raise UserError(f"mask has {mask.shape[0]} entries for {len(x)} sites; wanted one per site.")
    rows = mask.nonzero().squeeze(1)
    return SparseTensor.trusted(
        x.coords.index_select(0, rows),
        x.feats.index_select(0, rows),
        spatial_range=x.spatial_range,
        stride=x.stride,
        engine=x.engine,
    )


def concatenate(tensors: Sequence[SparseTensor]) -> SparseTensor:
    """Put the channels of tensors at the same sites side by side, as in a skip connection.

    Raises:
        UserError: If there is no tensor, or their sites differ.
    """
    if not tensors:
        raise UserError("no tensor to concatenate; wanted at least one.")
    first = tensors[0]
    if not all(_same_sites(first, other) for other in tensors[1:]):
        counts = ", ".join(str(len(x)) for x in tensors)
        raise UserError(
            f"tensors with {counts} sites do not lie at the same sites; concatenate wants equal sites. "
            "Bring one to the other's sites with TransposedConv, or add them with union."
        )
    return first.with_feats(torch.cat([x.feats for x in tensors], dim=1))


def union(a: SparseTensor, b: SparseTensor) -> SparseTensor:
    """Add two tensors over the union of their sites; a tensor counts as zero where it has no site.

    Raises:
        UserError: If channels, ranges or strides differ.
    """
    if (a.spatial_range, a.stride) != (b.spatial_range, b.stride) or a.feats.shape[1] != b.feats.shape[1]:
        raise UserError(f"{a} and {b} differ in channels, range or stride; union wants them equal.")
    if a.maps is b.maps:
        return a.with_feats(a.feats + b.feats)
    keys_a, keys_b = (site_keys(x.coords, x.spatial_range) for x in (a, b))
    keys = torch.unique(torch.cat([keys_a, keys_b]))
    feats = a.feats.new_zeros((keys.shape[0], a.feats.shape[1]))
    for x, own in ((a, keys_a), (b, keys_b)):
        feats = feats.index_add(0, find_keys(keys, own)[0], x.feats)
    return SparseTensor.trusted(
        keys_to_coords(keys, a.spatial_range), feats, spatial_range=a.spatial_range, stride=a.stride, engine=a.engine
    )


def to_dense(x: SparseTensor) -> Float[Tensor, "batch channels x y z t"]:
    """Write the features into a dense (B, C, X, Y, Z, T) array, zero where there is no site; keeps gradients."""
    columns = x.coords.long().unbind(1)
    dense = x.feats.new_zeros((*x.spatial_range, x.feats.shape[1])).index_put(columns, x.feats)
    return dense.movedim(-1, 1)


def from_dense(
    dense: Float[Tensor, "batch channels x y z t"],
    mask: Bool[Tensor, "batch x y z t"] | None = None,
    *,
    engine: str = "native",
) -> SparseTensor:
    """Take the sites of a dense (B, C, X, Y, Z, T) array where `mask` is true; else where any channel is not 0."""
    rows_last = dense.movedim(1, -1)
    chosen = (rows_last != 0).any(dim=-1) if mask is None else mask
    coords = chosen.nonzero()
    feats = rows_last[coords.unbind(1)]
    return SparseTensor(coords, feats, spatial_range=tuple(chosen.shape), engine=engine)  # type: ignore[arg-type]


def _same_sites(a: SparseTensor, b: SparseTensor) -> bool:
    """Tell whether two tensors have the same sites in the same grid."""
    if (a.spatial_range, a.stride) != (b.spatial_range, b.stride):
        return False
    return a.coords is b.coords or torch.equal(a.coords, b.coords)
