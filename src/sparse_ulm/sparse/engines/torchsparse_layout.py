"""Four axes in TorchSparse's three: one axis is folded into the batch, and unfolded again.

Folding the frame gives the space layout, rows (b*T + t, x, y, z) in a range (B*T, X, Y, Z); folding x gives the time
layout, rows (b*X + x, y, z, t). A kernel of size 1 along the folded axis never reaches across it, so this is exact.
"""

import importlib
from typing import Any

import torch
from jaxtyping import Int32
from torch import Tensor

from sparse_ulm.conventions import TIME_COLUMN, X_COLUMN, Y_COLUMN, Z_COLUMN, Coordinates
from sparse_ulm.errors import UserError
from sparse_ulm.sparse.taps import Quad
from sparse_ulm.sparse.tensor import SparseTensor, SpatialRange, Stride

_COLUMNS = (X_COLUMN, Y_COLUMN, Z_COLUMN, TIME_COLUMN)


def folded_column(size: Quad) -> int:
    """Choose the column to fold for a kernel: time if it has one tap there, else the first axis where it has one.

    Raises:
        UserError: If the kernel has more than one tap along all four axes.

    >>> folded_column((3, 3, 3, 1)), folded_column((1, 1, 1, 5))
    (4, 1)
    """
    for column in (TIME_COLUMN, *_COLUMNS):
        if size[column - X_COLUMN] == 1:
            return column
    raise UserError(
        f"kernel {size} (x, y, z, t) has more than one tap along all four axes, but TorchSparse has three; "
        "split it into space and time, or set engine: native."
    )


def kept(sizes: tuple[int, ...], column: int) -> tuple[int, ...]:
    """Give, of sizes along (x, y, z, t), those of the three axes that stay axes when `column` is folded."""
    return tuple(size for axis, size in zip(_COLUMNS, sizes, strict=True) if axis != column)


def fold(coords: Coordinates, spatial_range: SpatialRange, column: int) -> Int32[Tensor, "sites folded=4"]:
    """Give (batch * range + folded, kept axes in order) rows; contiguous, as the library reads raw pointers."""
    batch = coords[:, :1] * spatial_range[column] + coords[:, column : column + 1]
    return torch.cat([batch, coords[:, list(kept(_COLUMNS, column))]], dim=1).contiguous()


def fold_range(spatial_range: SpatialRange, column: int) -> tuple[int, ...]:
    """Give the range of the folded grid."""
    return spatial_range[0] * spatial_range[column], *kept(spatial_range[1:], column)


def to_torchsparse(x: SparseTensor) -> Any:
    """Give `x` as a `torchsparse.SparseTensor` in the space layout, coords (b*T + t, x, y, z).

    Rows and features are those of `x`. Beside TorchSparse's attributes the tensor has `n_frames` (T) and
    `frame_stride`, which `from_torchsparse` reads. TorchSparse's layers drop both, `torchsparse.cat` the range as well;
    `sparse_collate` cannot batch it, as it wants coordinates without a batch column.
    """
    folded = importlib.import_module("torchsparse").SparseTensor(
        feats=x.feats,
        coords=fold(x.coords, x.spatial_range, TIME_COLUMN),
        stride=x.stride[:3],
        spatial_range=fold_range(x.spatial_range, TIME_COLUMN),
    )
    folded.n_frames, folded.frame_stride = x.spatial_range[TIME_COLUMN], x.stride[3]
    return folded


def from_torchsparse(folded: Any, n_frames: int | None = None) -> SparseTensor:
    """Unfold a `torchsparse.SparseTensor` with coords (b*T + t, x, y, z) into our tensor, rows in key order.

    Args:
        folded: TorchSparse's tensor, with its `spatial_range` (B*T, X, Y, Z).
        n_frames: T; by default the attribute `n_frames` that `to_torchsparse` sets.

    Raises:
        UserError: If the range or the number of frames is missing, they do not fit, or the sites are refused.
    """
    frames = getattr(folded, "n_frames", None) if n_frames is None else n_frames
    extent = folded.spatial_range
    if frames is None or extent is None:
        raise UserError(
            f"torchsparse tensor has n_frames {frames} and spatial_range {extent}; wanted both, to unfold the frames. "
            "Make it with to_torchsparse; torchsparse.cat and sparse_collate drop them."
        )
    if frames < 1 or extent[0] % frames:
        raise UserError(
            f"torchsparse tensor has {extent[0]} folded frames, no multiple of n_frames {frames}; "
            "give the number of frames of one sample."
        )
    batch_frame, space = folded.coords[:, :1], folded.coords[:, 1:]
    stride: Stride = (*folded.stride, getattr(folded, "frame_stride", 1))
    return SparseTensor(
        torch.cat([batch_frame // frames, space, batch_frame % frames], dim=1),
        folded.feats,
        spatial_range=(extent[0] // frames, *extent[1:], frames),
        stride=stride,
        engine="torchsparse",
    )
