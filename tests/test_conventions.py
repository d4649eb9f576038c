"""The refined grid: eight sub-voxels a voxel, counted from the centre of the first voxel."""

import doctest

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sparse_ulm import conventions
from sparse_ulm.conventions import refined_index, refined_position

FACTOR = (8, 1, 4)


def test_by_hand():
    position_voxel = np.array([[-0.5, -0.5, -0.5], [0.0, 0.0, 0.0], [0.499, 0.499, 0.499], [2.51, 2.51, 2.51]])
    wanted = [[0, 0, 0], [4, 0, 2], [7, 0, 3], [24, 3, 12]]
    assert refined_index(position_voxel, FACTOR).tolist() == wanted
    np.testing.assert_allclose(refined_position(np.array([[0, 0, 0]]), 8), [[-7 / 16] * 3])


@given(st.tuples(*[st.integers(-1000, 1000)] * 3))
def test_index_of_a_centre_is_its_sub_voxel(index):
    assert refined_index(refined_position(np.array([index]), FACTOR), FACTOR).tolist() == [list(index)]


@given(st.tuples(*[st.floats(-100, 100)] * 3))
def test_position_lies_within_half_a_sub_voxel_of_its_centre(position_voxel):
    centre = refined_position(refined_index(np.array([position_voxel]), FACTOR), FACTOR)
    assert (np.abs(centre - position_voxel) <= 0.5 / np.array(FACTOR) + 1e-9).all()


def test_examples_in_the_docstrings_hold():
    assert doctest.testmod(conventions).failed == 0
