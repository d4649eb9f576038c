import pickle
import tracemalloc

import numpy as np
import pytest

from sparse_ulm.acquisition import Geometry
from sparse_ulm.mapping.accumulate import DensityAccumulator

SHAPE = (5, 6, 7)
GEOMETRY = Geometry.from_voxel_size(
    (1e-5, 2e-5, 3e-5), (0.0, 0.0, 0.0), frame_rate_hz=1000.0, transmit_frequency_hz=15e6, sound_speed_m_s=1540.0
)


def accumulate(blocks, threshold=0.5, shape=SHAPE):
    """Add blocks in their order."""
    accumulator = DensityAccumulator(shape, GEOMETRY, threshold=threshold)
    for index, probability in blocks:
        accumulator.add(index, probability)
    return accumulator


@pytest.fixture
def blocks():
    """Twenty blocks of unequal length, with a few voxels named twice in a block."""
    rng = np.random.default_rng(3)
    sizes = [0, 1, 2, *rng.integers(5, 80, 17)]
    return [(rng.integers(0, SHAPE, (n, 3)), rng.random(n).astype(np.float32)) for n in sizes]


def test_two_blocks_by_hand():
    accumulator = accumulate(
        [
            (np.array([[4, 5, 6], [0, 0, 0], [1, 2, 3]]), np.array([0.9, 0.5, 0.2], np.float32)),
            (np.array([[1, 2, 3], [4, 5, 6]]), np.array([0.75, 0.6], np.float32)),
        ]
    )
    density = np.zeros(SHAPE, np.float32)
    density[4, 5, 6] = 2  # above 0.5 in both
    density[1, 2, 3] = 1  # in the second only
    probability = np.zeros(SHAPE, np.float32)
    probability[4, 5, 6], probability[0, 0, 0], probability[1, 2, 3] = np.float32(0.9), 0.5, 0.75
    np.testing.assert_array_equal(accumulator.density().dense(), density)  # 0.5 is not above 0.5: (0, 0, 0) stays 0
    np.testing.assert_array_equal(accumulator.probability().dense(), probability)
    assert accumulator.density().dense().dtype == np.float32
    assert accumulator.n_blocks == 2


def test_agrees_with_dense_maps(blocks):
    density, probability = np.zeros(SHAPE), np.zeros(SHAPE, np.float32)
    for index, p in blocks:
        block = np.zeros(SHAPE, np.float32)
        np.maximum.at(block, tuple(index.T), p)
        density += block > 0.3
        probability = np.maximum(probability, block)
    accumulator = accumulate(blocks, threshold=0.3)
    np.testing.assert_array_equal(accumulator.density().dense(), density)
    np.testing.assert_array_equal(accumulator.probability().dense(), probability)
    index, count, p = accumulator.sites()
    np.testing.assert_array_equal(density[tuple(index.T)], count)
    np.testing.assert_array_equal(probability[tuple(index.T)], p)
    assert len(np.unique(index, axis=0)) == len(index)


def test_bits_do_not_depend_on_order_or_on_asking_between(blocks):
    expected = accumulate(blocks)
    rng = np.random.default_rng(5)
    for _ in range(3):
        shuffled = [blocks[i] for i in rng.permutation(len(blocks))]
        shuffled = [(index[::-1], p[::-1]) for index, p in shuffled]
        accumulator = accumulate(shuffled[:7])
        accumulator.density().dense()
        for block in shuffled[7:]:
            accumulator.add(*block)
        for got, wanted in zip(accumulator.sites(), expected.sites(), strict=True):
            assert got.tobytes() == wanted.tobytes()


def test_merging_shards_equals_one_run(blocks):
    first, second = accumulate(blocks[:9]), accumulate(blocks[9:])
    first.merge(pickle.loads(pickle.dumps(second)))  # as another rank would send it
    expected = accumulate(blocks)
    np.testing.assert_array_equal(first.density().dense(), expected.density().dense())
    np.testing.assert_array_equal(first.probability().dense(), expected.probability().dense())
    assert first.n_blocks == expected.n_blocks == 20
    with pytest.raises(ValueError, match="threshold"):
        first.merge(accumulate([], threshold=0.6))


def test_memory_follows_visited_voxels_and_not_the_volume():
    rng = np.random.default_rng(7)
    visited = rng.integers(0, 5000, (2000, 3))
    tracemalloc.start()
    accumulator = DensityAccumulator((5000, 5001, 5002), GEOMETRY)  # 500 GB as float32
    for _ in range(50):
        accumulator.add(visited, rng.random(2000).astype(np.float32))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6  # 2000 voxels of 20 bytes, the buffer and the sort; 50 blocks unmerged would add up to 2 MB
    assert accumulator.sites()[1].sum() > 0
    assert len(accumulator.sites()[0]) <= 2000


def test_an_empty_map_is_zero():
    assert not accumulate([]).density().dense().any()
    assert accumulate([(np.empty((0, 3), np.int64), np.empty(0, np.float32))]).probability().dense().shape == SHAPE


@pytest.mark.parametrize("voxel", [[5, 0, 0], [0, 6, 0], [0, 0, 7], [-1, 0, 0]])
def test_a_voxel_outside_is_refused(voxel):
    with pytest.raises(ValueError, match="outside the refined grid"):
        accumulate([(np.array([[1, 1, 1], voxel]), np.array([0.9, 0.9]))])


@pytest.mark.parametrize("probability", [np.nan, -0.1, 1.1])
def test_a_value_that_is_no_probability_is_refused(probability):
    with pytest.raises(ValueError, match="probability"):
        accumulate([(np.array([[1, 1, 1]]), np.array([probability]))])


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="threshold"):
        DensityAccumulator(SHAPE, GEOMETRY, threshold=1.0)
    with pytest.raises(ValueError, match="shape_refined"):
        DensityAccumulator((5, 0, 7), GEOMETRY)
