"""Joining sparse samples and splitting answers."""

import torch

from sparse_ulm.batching import collate, join_samples, split_output
from sparse_ulm.networks.trajectory_map import TrajectoryMapOutput
from sparse_ulm.sparse import SparseTensor


def sample(rows: list[list[int]], spatial_range: tuple[int, ...], start: float = 0.0) -> SparseTensor:
    coords = torch.tensor(rows, dtype=torch.int32).reshape(-1, 5)
    feats = torch.arange(len(rows), dtype=torch.float32)[:, None] + start
    return SparseTensor(coords, feats, spatial_range=spatial_range)


def test_samples_of_unequal_ranges_are_joined_and_empty_ones_kept() -> None:
    a = sample([[0, 1, 2, 3, 4], [0, 0, 0, 0, 0]], (1, 4, 8, 4, 16))
    empty = SparseTensor(torch.zeros(0, 5, dtype=torch.int32), torch.zeros(0, 1), spatial_range=(1, 4, 4, 12, 16))
    b = sample([[0, 3, 3, 3, 15]], (1, 4, 4, 4, 32), start=7.0)
    joined = join_samples([a, empty, b])
    assert joined.spatial_range == (3, 4, 8, 12, 32)
    assert joined.coords.tolist() == [[0, 0, 0, 0, 0], [0, 1, 2, 3, 4], [2, 3, 3, 3, 15]]
    assert joined.feats[:, 0].tolist() == [1.0, 0.0, 7.0]
    assert b.coords[0, 0] == 0, "joining must not change its samples"


def test_truth_rows_get_their_sample_in_front() -> None:
    item = {"image": sample([[0, 0, 0, 0, 0]], (1, 4, 4, 4, 16)), "recording": "r"}
    one = item | {"label": torch.tensor([[1, 2, 3, 0]], dtype=torch.int32)}
    two = item | {"label": torch.tensor([[4, 5, 6, 1], [7, 8, 9, 0]], dtype=torch.int32)}
    batch = collate([one, two])
    assert batch["label"].tolist() == [[0, 1, 2, 3, 0], [1, 4, 5, 6, 1], [1, 7, 8, 9, 0]]
    assert batch["recording"] == ["r", "r"]
    assert batch["image"].batch_size == 2


def test_answers_are_split_by_sample() -> None:
    coords = torch.tensor([[0, 1, 2, 3, 0], [2, 4, 5, 6, 0], [2, 7, 8, 9, 0]], dtype=torch.int32)
    logits = SparseTensor(coords, torch.tensor([[0.0], [100.0], [-100.0]]), spatial_range=(3, 16, 16, 16, 1))
    tables = split_output(TrajectoryMapOutput((), logits), 3)
    assert [t.tolist() for t in tables] == [[[1, 2, 3, 0.5]], [], [[4, 5, 6, 1.0], [7, 8, 9, 0.0]]]


def test_no_final_map_gives_empty_tables() -> None:
    assert [tuple(t.shape) for t in split_output(TrajectoryMapOutput((), None), 2)] == [(0, 4), (0, 4)]
