"""The loss with the heads' temporal strides as the released code of the method has them: half of the true ones.

There the heads' features lie in temporal slots of 128 frames (0, 128, 256, 384) and the targets were built with slots
of 64 (0, 64, ..., 448), both written in frames (reference notes on the released code, not run). What follows: truth in
the second half of a slot has no site that could match it, ever, and a voxel visited in that half alone is taught to be
empty, which site pruning then drops. The final map, where time is joined, is not touched.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_ulm.losses import MultiScaleDiceLoss, TruthSites
from sparse_ulm.networks.trajectory_map import TrajectoryMapOutput
from sparse_ulm.sparse import SparseTensor

OVERRIDES = {
    "loss#_target_": "ablation_loss.ReleasedStrideLoss",
    "preprocessing#transforms#0#slot_frames": "$@network_def.slot_frames // 2",
    "augmentation#slot_frames": "$@network_def.slot_frames // 2",
}
"""Of configs/train.yaml: the loss, and truth in half slots for it; this folder must be on the path."""


class ReleasedStrideLoss(MultiScaleDiceLoss):
    """`MultiScaleDiceLoss` for truth in half slots: slot s of a head meets row 2 s of the truth, rows 2 s + 1 nothing.

    Takes and gives what its parent does; slots of the truth are half as long as the heads'.
    """

    def forward(self, output: TrajectoryMapOutput, truth: TruthSites) -> Float[Tensor, ""]:
        """Return the mean loss over heads, in [0, 1]."""
        heads = tuple(in_half_slots(head) for head in output.heads)
        return super().forward(TrajectoryMapOutput(heads, output.final), truth)


def in_half_slots(logits: SparseTensor) -> SparseTensor:
    """Put the sites of slot s into half slot 2 s of a range that is twice as long; key order stays."""
    double = torch.tensor([1, 1, 1, 1, 2], dtype=torch.int32, device=logits.coords.device)
    b, x, y, z, n_slots = logits.spatial_range
    return SparseTensor(
        logits.coords * double, logits.feats, spatial_range=(b, x, y, z, 2 * n_slots), engine=logits.engine
    )
