"""The dense network of the same layers as TrajectoryMapNet, and a count of what autograd saves for its backward pass.

Same widths, strides, order of layers and heads; every voxel of the block and of the refined grids is a site. Runs on
PyTorch's meta device, which works out shapes and saves no values, so that hundreds of GiB can be counted on a laptop.

Layout: time lies where convolutions have the batch, (t, c, x, y, z); convolutions along time see the same memory
through a permuted view, so that no copy is counted that a dense 4D convolution would not make.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


class SavedBytes:
    """Bytes that autograd saves inside `counting()`: each storage once, parameters left out, split by stage.

    Attributes:
        of_stage: Bytes by name of the stage that was running (`enter`).
    """

    def __init__(self) -> None:
        """Start from zero."""
        self.of_stage: dict[str, int] = {}
        self._stage = "all"
        # Storages are held, not only their addresses: a freed one's address may come again.
        self._seen: dict[int, torch.UntypedStorage] = {}

    @property
    def total(self) -> int:
        """Bytes of all stages."""
        return sum(self.of_stage.values())

    def enter(self, stage: str) -> None:
        """Count what is saved from now on for `stage`."""
        self._stage = stage

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count what is saved inside."""
        with torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor):
            yield

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        is_parameter = tensor.is_leaf and tensor.requires_grad
        if not is_parameter and storage._cdata not in self._seen:
            self._seen[storage._cdata] = storage
            self.of_stage[self._stage] = self.of_stage.get(self._stage, 0) + storage.nbytes()
        return tensor


class DenseCounterpart:
    """Factorised TrajectoryMapNet, 3D+t, on dense tensors; its `step` gives the loss of one block.

    Args:
        sizes: `in_channels`, `encoder_widths`, `refine_widths` and `temporal_strides` of the sparse network.
        with_heads: Whether it has the three heads of deep supervision.
        device: "meta" to count; "cpu" for a test of small sizes.
    """

    def __init__(self, sizes: dict[str, Any], *, with_heads: bool, device: str = "meta") -> None:
        """Keep the sizes; parameters are made on the way, since only their shapes matter."""
        self.sizes, self.with_heads, self.device = sizes, with_heads, device

    def step(self, grid: tuple[int, int, int], n_frames: int, *, enter: Callable[[str], None]) -> Tensor:
        """Run one block forward, loss included.

        Args:
            grid: Voxels along x, y and z.
            n_frames: Frames; a multiple of the temporal strides' product.
            enter: Is told the name of every stage as it begins.
        """
        enter("V-net on the input grid")
        x = self._encode(self._new(n_frames, self.sizes["in_channels"], *grid))
        losses = []
        for level, width in enumerate(self.sizes["refine_widths"][1:], start=1):
            if self.with_heads:
                losses.append(self._dice(self._conv_space(x, 1, 3)))
            enter(f"grid refined by {2**level}")
            x = self._residual(self._double(x, width), n_convs=2, taps=1)
        x = self._residual(x.amax(dim=0, keepdim=True), n_convs=1, taps=1)
        losses.append(self._dice(self._conv_space(x, 1, 1)))
        return torch.stack(losses).mean()

    def _encode(self, x: Tensor) -> Tensor:
        w0, w1, w2 = self.sizes["encoder_widths"]
        pool_1, pool_2, pool_3 = self.sizes["temporal_strides"]
        width = self.sizes["refine_widths"][0]
        level_0 = self._residual(self._block(x, w0, 3), n_convs=1, taps=3)
        level_1 = self._residual(_pool(self._pointwise(level_0, w1), 2, pool_1), n_convs=2, taps=5)
        level_2 = self._residual(_pool(self._pointwise(level_1, w2), 2, pool_2), n_convs=2, taps=5)
        joined_1 = torch.cat([self._double(level_2, w1), _pool(level_1, 1, pool_2)], dim=1)
        merged_1 = self._residual(self._pointwise(joined_1, w1), n_convs=1, taps=3)
        joined_0 = torch.cat([self._double(merged_1, w0), _pool(level_0, 1, pool_1 * pool_2)], dim=1)
        merged_0 = self._residual(self._pointwise(joined_0, width), n_convs=1, taps=3)
        return self._residual(_pool(merged_0, 1, pool_3), n_convs=1, taps=3)

    def _residual(self, x: Tensor, *, n_convs: int, taps: int) -> Tensor:
        y = x
        for _ in range(n_convs):
            y = self._block(y, x.shape[1], taps)
        return x + y

    def _block(self, x: Tensor, width: int, taps: int) -> Tensor:
        """3x3x3 in space, then `taps` in time, each with norm and ReLU."""
        x = self._norm_relu(self._conv_space(x, width, 3))
        return self._norm_relu(self._conv_time(x, taps)) if taps > 1 else x

    def _pointwise(self, x: Tensor, width: int) -> Tensor:
        return self._norm_relu(self._conv_space(x, width, 1))

    def _conv_space(self, x: Tensor, width: int, size: int) -> Tensor:
        return functional.conv3d(x, self._parameter(width, x.shape[1], size, size, size), padding=size // 2)

    def _conv_time(self, x: Tensor, taps: int) -> Tensor:
        t, c, *grid = x.shape
        lines = x.permute(1, 0, 2, 3, 4).reshape(1, c, t, -1)
        y = functional.conv2d(lines, self._parameter(c, c, taps, 1), padding=(taps // 2, 0))
        return y.view(c, t, *grid).permute(1, 0, 2, 3, 4)

    def _double(self, x: Tensor, width: int) -> Tensor:
        return functional.conv_transpose3d(x, self._parameter(x.shape[1], width, 2, 2, 2), stride=2)

    def _norm_relu(self, x: Tensor) -> Tensor:
        width = x.shape[1]
        return functional.batch_norm(x, None, None, self._parameter(width), self._parameter(width), True).relu()

    def _dice(self, logits: Tensor) -> Tensor:
        """Soft Dice against a dense target of one byte a voxel."""
        probability, target = logits.sigmoid(), torch.zeros(logits.shape, dtype=torch.bool, device=self.device)
        return 1.0 - 2.0 * (probability * target).sum() / (probability.sum() + target.sum())

    def _parameter(self, *shape: int) -> Tensor:
        return self._new(*shape).requires_grad_()

    def _new(self, *shape: int) -> Tensor:
        return torch.zeros(shape, device=self.device)


def _pool(x: Tensor, space: int, time: int) -> Tensor:
    """Maximum over cells of `space` voxels a side and `time` frames; saves its input and output, no indices."""
    t, c, *grid = x.shape
    cells = x.reshape(t // time, time, c, *(n for size in grid for n in (size // space, space)))
    return cells.amax(dim=(1, 4, 6, 8))


def count_dense(
    sizes: dict[str, Any], grid: tuple[int, int, int], n_frames: int, *, with_heads: bool, device: str = "meta"
) -> dict[str, int]:
    """Count the bytes that autograd saves for one block of the dense network, by stage; parameters left out."""
    saved = SavedBytes()
    with saved.counting():
        DenseCounterpart(sizes, with_heads=with_heads, device=device).step(grid, n_frames, enter=saved.enter)
    return saved.of_stage
