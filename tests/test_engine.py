"""Trainer and evaluator: batches are split by sample, so that MONAI's handlers work unchanged."""

import logging

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.handlers import StatsHandler, from_engine

from sparse_ulm.acquisition import Geometry
from sparse_ulm.dataset import BlockLoader, CachedBlocks
from sparse_ulm.engine import SparseEvaluator, SparseTrainer, prepare_batch, require_blocks
from sparse_ulm.errors import RecordingError, UserError
from sparse_ulm.handlers import LazySummaryWriter, MapDice
from sparse_ulm.inferer import SparseInferer
from sparse_ulm.networks.trajectory_map import TrajectoryMapNet, TrajectoryMapOutput
from sparse_ulm.sparse import SparseTensor, threads
from sparse_ulm.sparse.kept import stored

GEOMETRY = Geometry.from_voxel_size(
    (1.0e-4, 1.0e-4, 1.0e-4), (0.0, 0.0, 0.0), frame_rate_hz=500.0, transmit_frequency_hz=8e6, sound_speed_m_s=1540.0
)
RANGE = (1, 4, 8, 8, 8)


class Oracle(torch.nn.Module):
    """Answers each sample with the voxel of its own first site, certain of it; a parameter makes it trainable."""

    upsampling = (8, 8, 8)

    def __init__(self):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.tensor(9.0))

    def forward(self, x):
        first = [x.coords[x.coords[:, 0] == i][:1] for i in range(x.batch_size)]
        sites = torch.cat(first)
        sites = torch.cat([sites[:, :4], torch.zeros_like(sites[:, 4:])], dim=1)
        feats = self.bias.expand(len(sites), 1)
        b, nx, ny, nz, _ = x.spatial_range
        return TrajectoryMapOutput((), SparseTensor(sites, feats, spatial_range=(b, 8 * nx, 8 * ny, 8 * nz, 1)))


def doubt(output, truth):
    """A loss that falls as the network grows surer of what it says."""
    return -torch.nn.functional.logsigmoid(output.final.feats).mean()


def block(name, site, truth):
    sites = torch.tensor([[0, *site, 0]] if site else np.zeros((0, 5)), dtype=torch.int32)
    return {
        "image": SparseTensor(sites, torch.ones(len(sites), 4), spatial_range=RANGE),
        "label": torch.tensor([[*voxel, 0] for voxel in truth], dtype=torch.int32).reshape(-1, 4),
        "recording": name,
        "geometry": GEOMETRY,
    }


BLOCKS = [
    block("a", (1, 2, 3), [(1, 2, 3)]),
    block("empty", None, [(9, 9, 9)]),
    block("b", (3, 4, 5), [(3, 4, 5), (7, 7, 7), (8, 8, 8)]),
]


def loader(blocks=BLOCKS, batch_blocks=3):
    return BlockLoader(CachedBlocks(list(blocks), lambda item: item), batch_blocks=batch_blocks)


def evaluator(network, blocks=BLOCKS, batch_blocks=3, **options):
    return SparseEvaluator(
        device=torch.device("cpu"), val_data_loader=loader(blocks, batch_blocks), network=network,
        inferer=SparseInferer(), prepare_batch=prepare_batch, **options,
    )  # fmt: skip


def trainer(network, **options):
    return SparseTrainer(
        device=torch.device("cpu"), max_epochs=2, train_data_loader=loader(batch_blocks=2), network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.01), loss_function=doubt, inferer=SparseInferer(),
        prepare_batch=prepare_batch, **options,
    )  # fmt: skip


def test_every_sample_gets_its_own_part_of_the_answer():
    seen = []
    engine = evaluator(Oracle())
    engine.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda e: seen.extend(zip([i["recording"] for i in e.state.batch], e.state.output, strict=True)),
    )
    engine.run()
    assert [name for name, _ in seen] == ["a", "empty", "b"]
    tables = {name: sample["pred"] for name, sample in seen}
    np.testing.assert_allclose(tables["a"], [[1, 2, 3, torch.sigmoid(torch.tensor(9.0))]])
    assert tables["empty"].shape == (0, 4)
    np.testing.assert_array_equal(tables["b"][:, :3], [[3, 4, 5]])
    labels = {name: sample["label"].tolist() for name, sample in seen}
    assert labels == {"a": [[1, 2, 3, 0]], "empty": [[9, 9, 9, 0]], "b": [[3, 4, 5, 0], [7, 7, 7, 0], [8, 8, 8, 0]]}


@pytest.mark.parametrize("batch_blocks", [1, 2, 3])
def test_dice_is_pooled_over_blocks_however_they_are_batched(batch_blocks):
    metric = MapDice(threshold=0.5, tolerance_wavelengths=0.0, upsampling=(8, 8, 8))
    engine = evaluator(Oracle(), batch_blocks=batch_blocks, key_val_metric={"dice": metric})
    engine.run()
    # Predicted 2, true 5, both 2: 2 * 2 / (2 + 5).
    assert engine.state.metrics["dice"] == pytest.approx(4 / 7)


def test_tolerance_is_a_tenth_of_the_wavelength():
    near = [block("near", (1, 2, 3), [(2, 2, 3)])]  # one sub-voxel, 12.5 um, where the tenth is 19.25 um
    far = [block("far", (1, 2, 3), [(3, 2, 3)])]
    for blocks, expected in ((near, 1.0), (far, 0.0)):
        metric = MapDice(threshold=0.5, tolerance_wavelengths=0.1, upsampling=(8, 8, 8))
        engine = evaluator(Oracle(), blocks, key_val_metric={"dice": metric})
        engine.run()
        assert engine.state.metrics["dice"] == expected


def test_stats_handler_prints_the_loss_of_every_step():
    """With MONAI's own decollate switched off it would print none, without a word."""
    lines = []
    listener = logging.Handler()
    listener.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("test_stats")
    logger.setLevel(logging.INFO)
    logger.addHandler(listener)
    handler = StatsHandler(tag_name="train_loss", output_transform=from_engine("loss", first=True), name="test_stats")
    trainer(Oracle(), train_handlers=[handler]).run()
    assert len([line for line in lines if "train_loss: " in line]) == 4  # 2 epochs, batches of 2 and 1


def test_training_moves_the_parameters_and_announces_its_epochs():
    network = Oracle()
    engine = trainer(network)
    epochs = []
    engine.data_loader.set_epoch = epochs.append
    engine.run()
    assert epochs == [1, 2]
    assert network.bias.item() > 9.0  # surer than before: it is right


def test_a_batch_without_sites_is_answered_without_the_network_but_trained_with_it():
    empty = join_of_nothing()
    network = TrajectoryMapNet(in_channels=4)
    assert SparseInferer()(empty, network.eval()).final is None
    output = SparseInferer()(empty, network.train())
    assert len(output.final) == 0
    output.final.feats.sum().backward()  # a loss with a gradient, as the trainer needs


def join_of_nothing():
    return SparseTensor(torch.zeros(0, 5, dtype=torch.int32), torch.zeros(0, 4), spatial_range=(2, 8, 8, 8, 32))


def test_no_block_is_refused_before_the_run():
    with pytest.raises(UserError, match="holds no block"):
        require_blocks(loader([]))
    from sparse_ulm.blocks import RecordingBlocks

    missing = BlockLoader(CachedBlocks(RecordingBlocks("absent", block_frames=8), dict), batch_blocks=1)
    with pytest.raises(RecordingError, match="absent does not exist"):
        require_blocks(missing)


def test_tensorboard_writes_nothing_before_its_first_value(tmp_path):
    writer = LazySummaryWriter(tmp_path / "logs")
    assert not (tmp_path / "logs").exists()
    writer.add_scalar("loss", 0.5, 1)
    writer.add_scalar("loss", 0.4, 2)
    writer.close()
    assert len(list((tmp_path / "logs").iterdir())) == 1


@pytest.mark.parametrize(("name", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_a_step_stores_as_asked_and_lends_its_threads_to_the_loops(name, dtype):
    network, seen, before = Oracle(), set(), torch.get_num_threads()
    network.register_forward_pre_hook(
        lambda *_: seen.add((stored(torch.zeros(1, 1)).dtype, torch.get_num_threads(), threads._lent))
    )
    torch.set_num_threads(2)
    try:
        trainer(network, stored_activations=name).run()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == {(dtype, 1, 2)}
    assert stored(torch.zeros(1, 1)).dtype == torch.float32


def test_unknown_storage_is_refused_at_once():
    with pytest.raises(UserError, match="stored_activations is 'half'"):
        trainer(Oracle(), stored_activations="half")
