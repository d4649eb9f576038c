"""Blocks: listed without reading, read once, drawn and mirrored by seed and epoch alone."""

import json

import numpy as np
import pytest
import torch
from monai.transforms import Randomizable

from sparse_ulm.acquisition import Geometry
from sparse_ulm.batching import collate, join_samples
from sparse_ulm.blocks import RecordingBlocks, truth_of
from sparse_ulm.dataset import BlockLoader, CachedBlocks
from sparse_ulm.errors import RecordingError
from sparse_ulm.io import open_recordings, save_recording
from sparse_ulm.sparse import SparseTensor

GEOMETRY = Geometry.from_voxel_size(
    (1.0e-4, 2.0e-4, 3.0e-4), (0.0, 0.0, 0.0), frame_rate_hz=1000.0, transmit_frequency_hz=8e6, sound_speed_m_s=1540.0
)


def save(path, n_frames, shape=(5, 6, 7)):
    save_recording(path, np.ones((*shape, n_frames), np.complex64), GEOMETRY)


def sample(n_sites, t=8, value=0.0):
    sites = torch.zeros(n_sites, 5, dtype=torch.int32)
    sites[:, 3] = torch.arange(n_sites)
    return SparseTensor(sites, torch.full((n_sites, 2), value), spatial_range=(1, 5, 6, 7, t))


class CountingTransform:
    def __init__(self):
        self.calls = 0

    def __call__(self, item):
        self.calls += 1
        return {"image": sample(3), "start": item["start"]}


class Draw(Randomizable):
    """Random part: says what it drew."""

    def __call__(self, item):
        return item | {"drawn": float(self.R.rand())}


def loader(n_items=7, seed=3, **options):
    data = CachedBlocks([{"start": i} for i in range(n_items)], CountingTransform(), Draw(), seed=seed)
    return BlockLoader(data, batch_blocks=2, **options)


def epoch_of(one, epoch):
    one.set_epoch(epoch)
    return [(start, drawn) for batch in one for start, drawn in zip(batch["start"], batch["drawn"], strict=True)]


def test_blocks_run_recording_by_recording_in_time_order(tmp_path):
    save(tmp_path / "b.npz", 5)
    save(tmp_path / "a.npz", 20)
    blocks = RecordingBlocks(tmp_path, block_frames=8)
    listed = [(item["image"].name, item["start"], item["stop"]) for item in blocks]
    assert listed == [("a", 0, 8), ("a", 8, 16), ("a", 16, 20), ("b", 0, 5)]
    assert len(blocks) == 4
    assert [item["start"] for item in blocks[1:3]] == [8, 16]
    assert "label" not in blocks[0]


def test_blocks_of_a_folder_that_is_not_there_yet(tmp_path):
    blocks = RecordingBlocks(tmp_path / "later", block_frames=8)
    assert len(blocks) == 0
    with pytest.raises(RecordingError, match=r"later does not exist.*--dataset_dir"):
        blocks.require()
    (tmp_path / "later").mkdir()
    assert len(blocks) == 0
    with pytest.raises(RecordingError, match="no recordings found"):
        blocks.require()
    save(tmp_path / "later/a.npz", 3)
    assert len(blocks) == 1
    blocks.require()


def test_truth_beside_a_recording_is_demanded(tmp_path):
    save(tmp_path / "a.npz", 3)
    [item] = RecordingBlocks(tmp_path, block_frames=8, with_truth=True)
    with pytest.raises(RecordingError, match=r"a\.npz has no a_truth\.csv beside it"):
        truth_of(item["label"])


@pytest.mark.parametrize("flat", [False, True])
def test_truth_inside_a_training_hdf5(tmp_path, flat):
    import h5py

    shape = (5, 1, 7) if flat else (5, 6, 7)
    save(tmp_path / "train.h5", 9, shape)
    # Two tracks at two times: x, y, z in voxels and seconds; the second track is missing at its second time.
    coords = np.array(
        [[[1.5, 2.0], [3.0, 3.5], [4.0, 4.0], [0.002, 0.003]], [[0, np.nan], [1, 1], [2, 2], [0.005, 0.006]]]
    )
    with h5py.File(tmp_path / "train.h5", "a") as file:
        file["1/ground_truth/coords"] = coords
    [acquisition] = open_recordings(tmp_path / "train.h5")
    truth = truth_of(acquisition)
    np.testing.assert_array_equal(truth.track_id, [0, 0, 1])
    np.testing.assert_array_equal(truth.frame, [2, 3, 5])
    y = [0.0, 0.0, 0.0] if flat else [3.0, 3.5, 1.0]  # the 2D set is a projection along y
    np.testing.assert_allclose(truth.position_voxel, np.column_stack([[1.5, 2.0, 0.0], y, [4.0, 4.0, 2.0]]))


def test_rows_without_a_track_are_not_joined(tmp_path):
    import h5py

    save(tmp_path / "train.h5", 9)
    with h5py.File(tmp_path / "train.h5", "a") as file:
        file["1/ground_truth/coords"] = np.array([[1.0, 1.0, 1.0, 0.001], [3.0, 3.0, 3.0, 0.002]])
    truth = truth_of(open_recordings(tmp_path / "train.h5")[0])
    assert len(set(truth.track_id)) == 2


def test_geometry_given_once_serves_every_file_that_lacks_it(tmp_path):
    save(tmp_path / "a.npy", 3)
    sidecar = json.loads((tmp_path / "a.json").read_text())
    del sidecar["CompoundSamplingFrequency"]
    (tmp_path / "a.json").write_text(json.dumps(sidecar))
    blocks = RecordingBlocks(tmp_path, block_frames=8, geometry={"frame_rate_hz": 250.0, "voxel_size_mm": None})
    assert blocks[0]["image"].geometry.frame_rate_hz == 250.0


def test_a_block_is_read_once():
    one = loader(shuffle_seed=3)
    epoch_of(one, 1)
    epoch_of(one, 2)
    assert one.dataset.transform.transforms[0].calls == 7


def test_order_and_draws_follow_from_seed_and_epoch():
    one, other = loader(shuffle_seed=3), loader(shuffle_seed=3)
    first, second = epoch_of(one, 1), epoch_of(one, 2)
    assert epoch_of(other, 2) == second  # as after a resume: epoch 1 was never drawn here
    assert epoch_of(other, 1) == first
    assert first != second
    assert sorted(start for start, _ in first) == list(range(7))
    drawn = [number for _, number in first + second]
    assert len(set(drawn)) == 14  # each block, each epoch, a draw of its own
    assert [start for start, _ in epoch_of(loader(shuffle_seed=4), 1)] != [start for start, _ in first]


def on_rank(monkeypatch, number, n_ranks):
    monkeypatch.setattr("sparse_ulm.ranks.rank", lambda: number)
    monkeypatch.setattr("sparse_ulm.ranks.n_ranks", lambda: n_ranks)


@pytest.mark.parametrize(("n_blocks", "n_ranks"), [(12, 3), (11, 3), (2, 5)])
def test_ranks_take_together_what_one_process_would(monkeypatch, n_blocks, n_ranks):
    alone = BlockLoader(CachedBlocks([{}] * n_blocks, lambda item: item), batch_blocks=2 * n_ranks, shuffle_seed=4)
    alone.set_epoch(2)
    wanted = [sorted(batch) for batch in alone.batch_sampler]
    shares = []
    for number in range(n_ranks):
        on_rank(monkeypatch, number, n_ranks)
        loader = BlockLoader(
            CachedBlocks([{}] * n_blocks, lambda item: item), batch_blocks=2, shuffle_seed=4, over_ranks=True
        )
        loader.set_epoch(2)
        shares.append(list(loader.batch_sampler))
        assert len(shares[-1]) == len(loader)
    assert len({tuple(map(len, share)) for share in shares}) == 1  # every rank takes as many steps, of as many blocks
    found = [sorted(index for share in shares for index in share[step]) for step in range(len(shares[0]))]
    assert found[:-1] == wanted[:-1]
    assert set(found[-1]) >= set(wanted[-1])  # and some of the order's beginning, where they cannot be divided
    assert sum(map(len, found)) == -(-n_blocks // n_ranks) * n_ranks
    assert (found == wanted) == (n_blocks % n_ranks == 0)


def test_in_order_each_block_is_on_one_rank(monkeypatch):
    found = []
    for number in range(3):
        on_rank(monkeypatch, number, 3)
        loader = BlockLoader(CachedBlocks([{}] * 7, lambda item: item), batch_blocks=2, over_ranks=True)
        found += [index for batch in loader.batch_sampler for index in batch]
        assert list(BlockLoader(CachedBlocks([{}] * 7, len), batch_blocks=7).sampler) == list(range(7))
    assert sorted(found) == list(range(7))


def test_without_a_seed_blocks_come_in_order():
    assert [start for start, _ in epoch_of(loader(), 5)] == list(range(7))


def test_samples_join_in_order_and_empty_ones_stay():
    joined = join_samples([sample(2, t=8, value=1.0), sample(0), sample(3, t=16, value=3.0)])
    assert joined.spatial_range == (3, 5, 6, 7, 16)
    assert joined.coords[:, 0].tolist() == [0, 0, 2, 2, 2]
    assert joined.feats[:, 0].tolist() == [1.0, 1.0, 3.0, 3.0, 3.0]
    assert join_samples([sample(0), sample(0)]).batch_size == 2


def test_batch_holds_truth_with_its_sample_in_front():
    items = [
        {"image": sample(1), "label": torch.tensor([[1, 2, 3, 0]], dtype=torch.int32), "recording": "a"},
        {"image": sample(2), "label": torch.zeros((0, 4), dtype=torch.int32), "recording": "b"},
        {"image": sample(1), "label": torch.tensor([[4, 5, 6, 1]], dtype=torch.int32), "recording": "c"},
    ]
    batch = collate(items)
    assert batch["label"].tolist() == [[0, 1, 2, 3, 0], [2, 4, 5, 6, 1]]
    assert batch["recording"] == ["a", "b", "c"]
