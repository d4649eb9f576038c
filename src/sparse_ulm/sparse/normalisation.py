"""Batch normalisation over the rows of a sparse tensor, alone and in one with the activation."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from sparse_ulm import ranks
from sparse_ulm.sparse import feature_loops
from sparse_ulm.sparse.engines.kernels import runs_compiled
from sparse_ulm.sparse.kept import Rebuild, normalise_rectify, stored
from sparse_ulm.sparse.tensor import SparseTensor


class BatchNorm(nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` over all sites of the batch, samples together, as TorchSparse's (bit-identical there).

    In training a tensor of one site or none has no variance: such a batch is normalised with the running statistics
    and leaves them as they are, so that an empty block does not stop a training run.
    """

    def forward(self, x: SparseTensor) -> SparseTensor:  # type: ignore[override]
        """Normalise the features of `x`."""
        if self._has_variance(x) or not self.training:
            return x.with_feats(super().forward(x.feats))
        feats = nn.functional.batch_norm(
            x.feats, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
        )
        return x.with_feats(feats)

    def _has_variance(self, x: SparseTensor) -> bool:
        """Tell whether this batch's own statistics can be taken, or there are no others."""
        return len(x) >= 2 or not self.track_running_stats


class NormRelu(BatchNorm):
    """`BatchNorm` and ReLU in one, with its parameters and statistics and, within rounding, its numbers.

    It keeps one array for the backward pass, the features before the norm, where the two of them keep two; and the
    layer after it can do without (`kept.Rebuild`).

    Its batch is that of all ranks of a training: statistics are those of their sites together (`ranks`). torch's
    SyncBatchNorm does the same on GPUs alone.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, x: SparseTensor) -> SparseTensor:  # type: ignore[override]
        """Normalise and rectify the features of `x`."""
        n_rows, mean, variance = self._measure(x.feats.detach()) if self.training else self._running()
        inverse_deviation = (variance + self.eps).rsqrt()
        scale, shift = self._affine(mean, inverse_deviation)
        rebuild = Rebuild(stored(x.feats), scale, shift)
        feats = _NormRelu.apply(x.feats, self.weight, self.bias, rebuild, mean, inverse_deviation, n_rows)
        return x.with_feats(feats, rebuild=rebuild)

    def running_affine(self) -> tuple[Tensor, Tensor]:
        """Give scale and shift per channel that normalise with the running statistics, to fold into a kernel."""
        return self._affine(self.running_mean, (self.running_var + self.eps).rsqrt())

    def _affine(self, mean: Tensor, inverse_deviation: Tensor) -> tuple[Tensor, Tensor]:
        """Write the norm as one multiplication and one addition."""
        scale = inverse_deviation * self.weight.detach()
        return scale, self.bias.detach() - mean * scale

    def _running(self) -> tuple[int, Tensor, Tensor]:
        """Give the running statistics, which are those of no row at hand."""
        return 0, self.running_mean, self.running_var

    def _measure(self, feats: Tensor) -> tuple[int, Tensor, Tensor]:
        """Count the batch's rows, give mean and variance, and move the running ones; without two rows give those.

        The running variance is the unbiased one.
        """
        if ranks.n_ranks() > 1:
            n_rows, mean, variance = _moments_of_ranks(feats)
        elif len(feats) < 2:
            return self._running()
        else:
            n_rows, (mean, variance) = len(feats), _moments(feats)
        if n_rows < 2:
            return self._running()
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (n_rows / (n_rows - 1)), self.momentum)
        return n_rows, mean, variance


def _moments(feats: Float[Tensor, "rows channels"]) -> tuple[Float[Tensor, " channels"], Float[Tensor, " channels"]]:
    """Give mean and variance over rows."""
    if runs_compiled(feats):
        return feature_loops.channel_moments(feats)
    variance, mean = torch.var_mean(feats, dim=0, correction=0)
    return mean, variance


def _moments_of_ranks(
    feats: Float[Tensor, "rows channels"],
) -> tuple[int, Float[Tensor, " channels"], Float[Tensor, " channels"]]:
    """Count the rows of all ranks and give their mean and variance; ranks may have no row."""
    n_channels = feats.shape[1]
    own = torch.zeros(1 + 2 * n_channels, dtype=torch.float64, device=feats.device)
    if len(feats):
        own[0], own[1 : 1 + n_channels], own[1 + n_channels :] = len(feats), *_moments(feats)
    count, means, variances = ranks.stack(own).split([1, n_channels, n_channels], dim=1)
    total = count.sum().clamp_min(1.0)
    mean = (count * means).sum(0) / total
    variance = (count * (variances + (means - mean) ** 2)).sum(0) / total
    return int(count.sum()), mean.to(feats.dtype), variance.to(feats.dtype)


class _NormRelu(Function):
    """The gradient of norm and ReLU, from the features before them."""

    @staticmethod
    def forward(
        ctx: Any,
        feats: Tensor,
        weight: Tensor,
        bias: Tensor,
        rebuild: Rebuild,
        mean: Tensor,
        inverse_deviation: Tensor,
        n_rows: int,
    ) -> Tensor:
        """Normalise and rectify; weight and bias are in the rebuild and stand here to receive their gradients.

        `n_rows` is the number of rows, on all ranks, that mean and deviation are of; 0 where they do not move.
        """
        ctx.save_for_backward(rebuild.raw, rebuild.scale, rebuild.shift, mean, inverse_deviation)
        ctx.n_rows = n_rows
        return normalise_rectify(feats, rebuild.scale, rebuild.shift)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Give the gradients to features, weight and bias."""
        raw, scale, shift, mean, inverse_deviation = ctx.saved_tensors
        raw = raw.to(grad.dtype)
        grad_bias, grad_weight = _sums(grad, raw, scale, shift, mean)
        grad_weight = grad_weight * inverse_deviation
        grad_feats = None
        if ctx.needs_input_grad[0]:
            # scale * (g - mean of g - normalised * mean of g * normalised); the means are there if they moved.
            share = 1.0 / ctx.n_rows if ctx.n_rows else 0.0
            of_weight, of_bias = grad_weight, grad_bias
            if ctx.n_rows:
                of_weight, of_bias = ranks.add_up(torch.stack([grad_weight, grad_bias]))
            slope, offset = scale * inverse_deviation * of_weight * share, scale * of_bias * share
            grad_feats = _gradient(grad, raw, scale, shift, mean, slope, offset)
        return grad_feats, grad_weight, grad_bias, None, None, None, None


def _sums(
    grad: Float[Tensor, "rows channels"],
    raw: Float[Tensor, "rows channels"],
    scale: Tensor,
    shift: Tensor,
    mean: Tensor,
) -> tuple[Float[Tensor, " channels"], Float[Tensor, " channels"]]:
    """Give the sums over rows of g and g * (raw - mean), g being `grad` where the ReLU lets it through."""
    if runs_compiled(grad):
        return feature_loops.rectified_sums(grad, raw, scale, shift, mean)
    passed = grad * (torch.addcmul(shift, raw, scale) > 0)
    return passed.sum(0), (passed * (raw - mean)).sum(0)


def _gradient(
    grad: Float[Tensor, "rows channels"],
    raw: Float[Tensor, "rows channels"],
    scale: Tensor,
    shift: Tensor,
    mean: Tensor,
    slope: Tensor,
    offset: Tensor,
) -> Float[Tensor, "rows channels"]:
    """Give scale * g - slope * (raw - mean) - offset, with g as in `_sums`."""
    if runs_compiled(grad):
        return feature_loops.rectified_gradient(grad, raw, scale, shift, mean, slope, offset)
    return scale * (grad * (torch.addcmul(shift, raw, scale) > 0)) - slope * (raw - mean) - offset
