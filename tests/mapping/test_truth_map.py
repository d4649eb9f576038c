import itertools
import time

import numpy as np
import pytest
from scipy import ndimage

from sparse_ulm.conventions import refined_index
from sparse_ulm.mapping.truth_map import trajectory_sites, trajectory_voxels

FACTOR, SHAPE = (8, 8, 8), (40, 48, 56)


def walks(n_tracks=6, n_frames=40, seed=0, step=0.3, grid=(5, 6, 7)):
    """Random walks on a grid of 5 x 6 x 7 voxels, some leaving it, rows shuffled; tracks start at unequal frames."""
    rng = np.random.default_rng(seed)
    position = rng.uniform(0, grid, (n_tracks, 1, 3)) + np.cumsum(rng.normal(0, step, (n_tracks, n_frames, 3)), axis=1)
    track, frame = np.meshgrid(np.arange(n_tracks) * 3, np.arange(n_frames), indexing="ij")
    frame = frame + np.arange(n_tracks)[:, None]
    rows = rng.permutation(n_tracks * n_frames)
    return position.reshape(-1, 3)[rows], track.ravel()[rows], frame.ravel()[rows]


def as_set(rows):
    """Rows as a set of tuples."""
    return set(map(tuple, rows.tolist()))


def test_one_bubble_at_rest_lies_in_its_subvoxel():
    # Voxel 2, 1/10 of a voxel right of its centre: (2.1 + 0.5) * 8 = 20.8.
    voxels = trajectory_voxels(np.array([[2.1, 0.0, -0.5]]), np.array([7]), np.array([3]), factor=FACTOR, shape=SHAPE)
    assert voxels.tolist() == [[20, 4, 0]]
    assert voxels.dtype == np.int64


def test_a_segment_fills_the_voxels_between_frames_and_a_gap_does_not():
    position = np.array([[0.0, 0.0, 0.0], [0.5, 0.0, 0.0], [1.5, 0.0, 0.0]])  # corners at 4, 8 and 16 along x
    voxels = trajectory_voxels(position, np.zeros(3, int), np.array([0, 1, 3]), factor=FACTOR, shape=SHAPE)
    assert voxels.tolist() == [[4, 4, 4], [5, 4, 4], [6, 4, 4], [7, 4, 4], [8, 4, 4], [16, 4, 4]]
    apart = trajectory_voxels(position, np.arange(3), np.array([0, 1, 2]), factor=FACTOR, shape=SHAPE)
    assert apart.tolist() == [[4, 4, 4], [8, 4, 4], [16, 4, 4]]


def test_bubbles_without_a_known_track_are_not_joined():
    position = np.array([[0.0, 0.0, 0.0], [0.5, 0.0, 0.0]])
    voxels = trajectory_voxels(position, np.full(2, -1), np.array([0, 1]), factor=FACTOR, shape=SHAPE)
    assert voxels[:, 0].tolist() == [4, 8]


def test_frames_cut_the_path_at_midpoints():
    position = np.array([[0.0, 0.0, 0.0], [0.5, 0.0, 0.0]])  # corners 4 and 8: the midpoint is 6
    arguments = (position, np.zeros(2, int), np.array([10, 11]))
    first = trajectory_voxels(*arguments, factor=FACTOR, shape=SHAPE, start=10, stop=11)
    second = trajectory_voxels(*arguments, factor=FACTOR, shape=SHAPE, start=11)
    assert first[:, 0].tolist() == [4, 5]
    assert second[:, 0].tolist() == [6, 7, 8]


def test_two_dimensional_recordings_refine_x_and_z_only():
    position = np.array([[1.0, 0.3, 1.0], [1.0, 0.7, 1.0]])  # the second is out of the slice
    voxels = trajectory_voxels(position, np.arange(2), np.zeros(2, int), factor=(8, 1, 8), shape=(40, 1, 56))
    assert voxels.tolist() == [[12, 0, 12]]


def test_agrees_with_exact_traversal():
    # A path sampled 400 times finer visits all the voxels that ours visits, and ours misses only corners that are cut.
    position, track, frame = walks()
    ours = as_set(trajectory_voxels(position, track, frame, factor=FACTOR, shape=SHAPE))
    fine = set()
    for name in np.unique(track):
        rows = np.flatnonzero(track == name)
        rows = rows[np.argsort(frame[rows])]
        for a, b in itertools.pairwise(rows):
            u = np.linspace(0, 1, 4001)[:, None]
            fine |= as_set(np.unique(refined_index((1 - u) * position[a] + u * position[b], FACTOR), axis=0))
    fine = {v for v in fine if all(0 <= i < n for i, n in zip(v, SHAPE, strict=True))}
    assert ours <= fine
    assert len(ours) > 0.8 * len(fine)


@pytest.mark.parametrize("step", [0.02, 0.3, 2.0])
def test_one_track_is_one_connected_path(step):
    position, track, frame = walks(n_tracks=1, step=step, seed=4)
    position = np.abs(position) % 40  # reflections keep it inside a larger grid
    shape = (400, 400, 400)
    voxels = trajectory_voxels(position, track, frame, factor=FACTOR, shape=shape)
    low = voxels.min(axis=0)
    picture = np.zeros(voxels.max(axis=0) - low + 1, bool)
    picture[tuple((voxels - low).T)] = True
    assert ndimage.label(picture, np.ones((3, 3, 3)))[1] == 1
    visited = as_set(voxels)
    assert as_set(refined_index(position, FACTOR)) <= visited


@pytest.mark.parametrize("cuts", [[0, 45], [0, 1, 2, 44], [0, 7, 30, 31, 45]])
def test_blocks_add_up_to_the_whole(cuts):
    arguments = walks(step=0.8)
    edges = [*cuts, 1000]
    blocks = [
        as_set(trajectory_voxels(*arguments, factor=FACTOR, shape=SHAPE, start=a, stop=b))
        for a, b in itertools.pairwise(edges)
    ]
    assert set().union(*blocks) == as_set(trajectory_voxels(*arguments, factor=FACTOR, shape=SHAPE))


def test_shift_by_whole_voxels_shifts_the_map():
    position, track, frame = walks(step=0.1, seed=2)
    shape = (80, 80, 96)
    position = position + 1.0
    arguments = {"factor": (8, 4, 8), "shape": shape}
    shifted = trajectory_voxels(position + np.array([1, 2, 3]), track, frame, **arguments)
    assert as_set(trajectory_voxels(position, track, frame, **arguments) + np.array([8, 8, 24])) == as_set(shifted)


def test_rows_may_come_in_any_order():
    position, track, frame = walks()
    rows = np.random.default_rng(1).permutation(len(track))
    np.testing.assert_array_equal(
        trajectory_voxels(position, track, frame, factor=FACTOR, shape=SHAPE),
        trajectory_voxels(position[rows], track[rows], frame[rows], factor=FACTOR, shape=SHAPE),
    )


def test_sites_by_hand_at_the_true_temporal_stride():
    # 512 frames at a temporal stride of 128 make 4 slots; frames 64 to 127 are slot 0, not a slot of their own.
    frame = np.array([0, 64, 127, 128, 383, 384, 511, 512])
    position = np.tile([2.1, 1.0, 0.0], (8, 1))  # fine voxel (20, 12, 4)
    sites = trajectory_sites(
        position,
        np.arange(8),
        frame,
        factor=FACTOR,
        shape=SHAPE,
        stride=(8, 4, 2),
        block_start=0,
        temporal_stride=128,
        n_slots=4,
    )
    assert sites.tolist() == [[2, 3, 2, 0], [2, 3, 2, 1], [2, 3, 2, 2], [2, 3, 2, 3]]
    assert sites.dtype == np.int64


def test_sites_of_a_later_and_shorter_block():
    position = np.tile([0.0, 0.0, 0.0], (4, 1))
    arguments = (position, np.arange(4), np.array([255, 256, 270, 300]))
    keywords = {"factor": FACTOR, "shape": SHAPE, "stride": (1, 1, 1), "temporal_stride": 32, "n_slots": 2}
    assert trajectory_sites(*arguments, block_start=256, **keywords)[:, 3].tolist() == [0, 1]
    assert trajectory_sites(*arguments, block_start=256, block_stop=300, **keywords)[:, 3].tolist() == [0]


@pytest.mark.parametrize("stride", [(8, 8, 8), (4, 2, 1), (3, 5, 7)])
def test_sites_are_the_floored_voxels_of_their_slots(stride):
    arguments = walks(step=0.6)
    sites = trajectory_sites(
        *arguments,
        factor=FACTOR,
        shape=SHAPE,
        stride=stride,
        block_start=5,
        temporal_stride=8,
        n_slots=4,
    )
    expected = set()
    for slot in range(4):
        bounds = {"start": 5 + 8 * slot, "stop": 13 + 8 * slot}
        fine = trajectory_voxels(*arguments, factor=FACTOR, shape=SHAPE, **bounds)
        expected |= as_set(np.column_stack([fine // np.asarray(stride), np.full(len(fine), slot)]))
    assert as_set(sites) == expected
    assert len(sites) == len(expected)
    assert sites.tolist() == sorted(sites.tolist())


def test_no_bubbles_no_voxels():
    none = np.empty((0, 3)), np.empty(0, int), np.empty(0, int)
    assert trajectory_voxels(*none, factor=FACTOR, shape=SHAPE).shape == (0, 3)
    sites = trajectory_sites(
        *none, factor=FACTOR, shape=SHAPE, stride=(8, 8, 8), block_start=0, temporal_stride=8, n_slots=1
    )
    assert sites.shape == (0, 4)


def test_a_training_block_is_fast():
    arguments = walks(n_tracks=100, n_frames=512, step=0.05, grid=(32, 32, 32))
    best = np.inf
    for _ in range(5):
        started = time.perf_counter()
        trajectory_voxels(*arguments, factor=FACTOR, shape=(256, 256, 256))
        best = min(best, time.perf_counter() - started)
    assert best < 0.3


def test_impossible_input_is_refused():
    with pytest.raises(ValueError, match="NaN"):
        trajectory_voxels(
            np.array([[np.nan, 0.0, 0.0]]), np.zeros(1, int), np.zeros(1, int), factor=FACTOR, shape=SHAPE
        )
    with pytest.raises(ValueError, match="at least 1"):
        trajectory_sites(
            *walks(), factor=FACTOR, shape=SHAPE, stride=(0, 1, 1), block_start=0, temporal_stride=1, n_slots=1
        )
