"""Sparse tensors over (batch, x, y, z, t) and the layers on them; the engine that convolves is a value.

The idea: of a grid, few cells hold anything. A tensor keeps those *sites* and one row of features for each; a layer
visits, tap by tap, the pairs of sites that its kernel joins, and nothing else. Submanifold layers give outputs at their
input's sites alone, so that the sites do not grow from layer to layer (Graham and van der Maaten, arXiv:1706.01307).

The engine, in the order of reading:

- `tensor`: sites, features, and the maps that tensors at the same sites share.
- `keys`, `taps`: a site as one sorted number; the order of a kernel's taps in its parameter.
- `pairs`: the layout of the map: rows of inputs and outputs, tap after tap. `maps` finds them, with `loops`.
- `engines/native`: every convolution and its gradients as one sum over pairs. Its arithmetic: `engines/native_torch` in
  45 lines of PyTorch; `engines/native_compiled` and `engines/tiles` for the CPU; `engines/kernels` chooses.
- `kept`, `normalisation`, `pooling`, with `feature_loops`: what lies between convolutions, and what is kept of it.
- `engines/torchsparse_engine`: the same layers by TorchSparse, where it is installed.
"""

from sparse_ulm.sparse.engines import get_engine, resolve_engine
from sparse_ulm.sparse.kept import stored_as
from sparse_ulm.sparse.layers import GenerativeUpsample, StridedConv, SubmanifoldConv, TransposedConv
from sparse_ulm.sparse.maps import find_rows
from sparse_ulm.sparse.normalisation import BatchNorm, NormRelu
from sparse_ulm.sparse.pooling import MaxPool, pool_sites
from sparse_ulm.sparse.sites import concatenate, from_dense, prune, to_dense, union
from sparse_ulm.sparse.taps import tap_offsets
from sparse_ulm.sparse.tensor import SparseTensor, as_sparse_tensor

__all__ = [
    "BatchNorm",
    "GenerativeUpsample",
    "MaxPool",
    "NormRelu",
    "SparseTensor",
    "StridedConv",
    "SubmanifoldConv",
    "TransposedConv",
    "as_sparse_tensor",
    "concatenate",
    "find_rows",
    "from_dense",
    "get_engine",
    "pool_sites",
    "prune",
    "resolve_engine",
    "stored_as",
    "tap_offsets",
    "to_dense",
    "union",
]
