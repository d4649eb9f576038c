"""One network trained by several ranks, each with blocks of its own: all take the step that one process would take.

Its batch would be the blocks of all ranks together. Norms and losses add up what they sum over sites (`ranks.add_up`),
and gradients are averaged here. PyTorch's DistributedDataParallel would average them too, but it looks for tensors in
what a network gives, to tell which parameters had a part in it, and does not see into a sparse tensor: heads that the
cascade has not yet reached, or a block without a site, would stop it.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from sparse_ulm import ranks
from sparse_ulm.errors import UserError
from sparse_ulm.sparse import NormRelu


def start_together(network: nn.Module) -> None:
    """Give all ranks the parameters and statistics of rank 0.

    Raises:
        UserError: If the network has norms whose statistics each rank would take of its own blocks.
    """
    if ranks.n_ranks() == 1:
        return
    alone = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and type(m) is not NormRelu]
    if alone:
        raise UserError(
            f"{type(network).__name__} has {len(alone)} {type(alone[0]).__name__} layers, whose statistics are "
            "those of one process; wanted TrajectoryMapNet or LocalisationNet. Train this one without torchrun."
        )
    ranks.copy_from_first(network.state_dict().values())


@torch.no_grad()
def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace gradients by their mean over ranks; a parameter that no rank used keeps none.

    Raises:
        RanksError: If a process is gone, or does not come here in time.
    """
    if ranks.n_ranks() == 1:
        return
    of_all = [p for p in parameters if p.requires_grad]
    pieces = [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in of_all]
    used = torch.tensor([float(p.grad is not None) for p in of_all], dtype=pieces[0].dtype, device=pieces[0].device)
    total = ranks.add_up(torch.cat([*pieces, used]))
    *means, n_used = (total / ranks.n_ranks()).split([*(len(piece) for piece in pieces), len(of_all)])
    for parameter, mean, share in zip(of_all, means, n_used.tolist(), strict=True):
        if share > 0.0:
            parameter.grad = mean.reshape(parameter.shape).clone()
