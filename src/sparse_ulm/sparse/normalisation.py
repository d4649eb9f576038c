"""Batch normalisation over the rows of a sparse tensor."""

from torch import nn

from sparse_ulm.sparse.tensor import SparseTensor


class BatchNorm(nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` over all sites of the batch, samples together, as TorchSparse's (bit-identical there).

    In training a tensor of one site or none has no variance: such a batch is normalised with the running statistics
    and leaves them as they are, so that an empty block does not stop a training run.
    """

    def forward(self, x: SparseTensor) -> SparseTensor:  # type: ignore[override]
        """Normalise the features of `x`."""
        if self.training and len(x) < 2 and self.track_running_stats:
            feats = nn.functional.batch_norm(
                x.feats, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
            return x.with_feats(feats)
        return x.with_feats(super().forward(x.feats))
