"""The inferer: how a network is asked."""

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import Inferer

from sparse_ulm.networks.trajectory_map import TrajectoryMapOutput
from sparse_ulm.sparse import SparseTensor


class SparseInferer(Inferer):
    """Run the network on a sparse batch; on a dense one, as MONAI Label and Deploy hand it over, get a dense answer."""

    def __call__(
        self, inputs: Any, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> TrajectoryMapOutput | torch.Tensor:
        """Call the network; an empty sparse batch is answered without it, by an empty map, except in training.

        Training needs a loss with a gradient from every batch, and the native engine gives one without a site.
        """
        if isinstance(inputs, SparseTensor) and len(inputs) == 0 and not getattr(network, "training", False):
            return TrajectoryMapOutput((), None)
        return network(inputs, *args, **kwargs)
