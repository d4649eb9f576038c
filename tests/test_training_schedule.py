"""Which epochs train which heads, against which truth."""

import pytest
import torch
from ignite.engine import Engine

from sparse_ulm.handlers import TrainingSchedule
from sparse_ulm.losses import MultiScaleDiceLoss
from sparse_ulm.networks.trajectory_map import TrajectoryMapNet, TrajectoryMapOutput
from sparse_ulm.sparse import SparseTensor


def engine_at(epoch: int, n_epochs: int) -> Engine:
    engine = Engine(lambda engine, batch: None)
    engine.state.epoch, engine.state.max_epochs = epoch, n_epochs
    return engine


def test_phases_follow_the_epoch() -> None:
    network = TrajectoryMapNet(encoder_widths=(3, 4, 5), refine_widths=(5, 4, 3, 2), variant="cascade")
    loss = MultiScaleDiceLoss(upsampling=(8, 8, 8), head_miss_weight=0.8, tolerance_voxels=(1.5, 1.5, 2.1))
    schedule = TrainingSchedule(network, loss, cascade_epochs=[1, 2, 1], dilate_epochs=3, exact_epochs=2)
    seen = []
    for epoch in range(1, 8):
        schedule(engine_at(epoch, 7))
        seen.append((network.phase, loss.dilate, loss.tolerant))
    assert [phase for phase, _, _ in seen] == [0, 1, 1, 2, 3, 3, 3]
    assert [dilate for _, dilate, _ in seen] == [True] * 3 + [False] * 4
    assert [tolerant for _, _, tolerant in seen] == [True] * 5 + [False] * 2


def test_a_loss_that_forgives_nothing_is_the_exact_one() -> None:
    coords = torch.tensor([[0, 3, 4, 5, 0], [0, 3, 4, 7, 0]], dtype=torch.int32)
    final = SparseTensor(coords, torch.tensor([[2.0], [1.0]]), spatial_range=(1, 8, 16, 24, 1), engine="native")
    output = TrajectoryMapOutput(heads=(), final=final)
    truth = torch.tensor([[0, 3, 4, 6, 0]], dtype=torch.int32)
    common = {"upsampling": (8, 8, 8), "head_miss_weight": 0.8}
    loss = MultiScaleDiceLoss(**common, tolerance_voxels=(1.5, 1.5, 2.1))
    forgiving = float(loss(output, truth))
    loss.tolerant = False
    assert float(loss(output, truth)) == pytest.approx(float(MultiScaleDiceLoss(**common)(output, truth)))
    # Both voxels lie one beside the truth: wrong without forgiveness, nearly right with it.
    assert forgiving < 0.6 < 0.95 < float(loss(output, truth))
