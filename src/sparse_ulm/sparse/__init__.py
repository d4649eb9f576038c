"""Sparse tensors over (batch, x, y, z, t) and the layers on them; the engine that convolves is a value."""

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
