"""The native engine: sparse convolution in PyTorch, for every device, float32 and float64, with gradients.

Stride-1 layers gather each site's neighbours block by block and multiply once (`native_gather`); strided and
transposed ones multiply per tap, as every fine site has one parent and one tap (`native_segments`).
Two runs on the CPU give identical bits: blocks and taps are summed in a fixed order.
"""

from torch import Tensor

from sparse_ulm.sparse import maps
from sparse_ulm.sparse.engines.native_gather import GatherConvolution
from sparse_ulm.sparse.engines.native_segments import SegmentsDown, SegmentsUp
from sparse_ulm.sparse.taps import Quad
from sparse_ulm.sparse.tensor import SparseTensor


def submanifold(x: SparseTensor, kernel: Tensor, bias: Tensor | None, kernel_size: Quad) -> Tensor:
    """Convolve at the sites of `x`; see `Engine.submanifold`."""
    if kernel.ndim == 2:
        feats = x.feats @ kernel
    else:
        feats = GatherConvolution.apply(x.feats, kernel, maps.neighbours(x, kernel_size))
    return feats if bias is None else feats + bias


def strided(x: SparseTensor, kernel: Tensor, bias: Tensor | None, stride: Quad) -> SparseTensor:
    """Convolve with kernel = stride, padding 0; see `Engine.strided`."""
    level = maps.level(x, stride)
    feats = SegmentsDown.apply(x.feats, kernel, maps.segments(x, stride), level.coords.shape[0])
    return SparseTensor.trusted(
        level.coords,
        feats if bias is None else feats + bias,
        spatial_range=level.spatial_range,
        stride=level.stride,
        engine=x.engine,
        maps=level.maps,
    )


def transposed(coarse: SparseTensor, fine: SparseTensor, kernel: Tensor, bias: Tensor | None, stride: Quad) -> Tensor:
    """Bring `coarse` to the sites of `fine`; see `Engine.transposed`. Without a parent a fine site gets the bias."""
    feats = SegmentsUp.apply(coarse.feats, kernel, maps.segments_between(coarse, fine, stride), len(fine))
    return feats if bias is None else feats + bias
