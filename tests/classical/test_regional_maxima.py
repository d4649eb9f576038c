"""Regional maxima: one voxel for each, plateaus included, frame by frame."""

import numpy as np
import pytest
from scipy import ndimage

from sparse_ulm.classical.regional_maxima import frames_first, regional_maxima


def maxima_of(image, threshold=0.0):
    """Maxima of one frame (x, y, z), as a set of voxels."""
    rows = regional_maxima(frames_first(np.asarray(image, np.float32)[..., None]), threshold=threshold)
    return {tuple(row[1:]) for row in rows.tolist()}


def maxima_by_labels(image, threshold):
    """Sets of voxels that are maxima, by labelling every value on its own: slow and plain."""
    full = np.ones((3, 3, 3))
    highest_near = ndimage.maximum_filter(image, footprint=full, mode="nearest")
    found = []
    for value in np.unique(image[image > threshold]):
        labels, n_labels = ndimage.label(image == value, structure=full)
        for label in range(1, n_labels + 1):
            members = labels == label
            if (highest_near[members] == value).all() and not members.all():
                found.append({tuple(voxel) for voxel in np.argwhere(members).tolist()})
    return found


def test_corner_neighbours_count():
    image = np.zeros((5, 6, 7))
    image[2, 2, 2], image[3, 3, 3] = 2.0, 1.0  # touch by a corner
    image[2, 5, 5] = 1.0
    assert maxima_of(image) == {(2, 2, 2), (2, 5, 5)}


def test_maxima_on_the_border_count():
    image = np.zeros((5, 1, 7))
    image[0, 0, 0], image[4, 0, 6] = 1.0, 2.0
    assert maxima_of(image) == {(0, 0, 0), (4, 0, 6)}


def test_plateau_is_one_maximum_near_its_centroid():
    image = np.zeros((7, 6, 5))
    image[1:6, 3, 2] = 4.0
    assert maxima_of(image) == {(3, 3, 2)}


def test_even_plateau_takes_the_first_of_the_middle_voxels():
    image = np.zeros((7, 6, 5))
    image[2:4, 3:5, 2] = 4.0
    assert maxima_of(image) == {(2, 3, 2)}


def test_bent_plateau_is_marked_inside_itself():
    image = np.zeros((7, 1, 7))
    image[1:6, 0, 1] = image[1:6, 0, 5] = image[1, 0, 1:6] = 3.0  # the centroid lies in the gap
    (found,) = maxima_of(image)
    assert image[found] == 3.0


def test_plateau_beside_something_higher_is_no_maximum():
    image = np.zeros((8, 6, 5))
    image[1:6, 3, 2] = 4.0
    image[6, 4, 3] = 5.0
    assert maxima_of(image) == {(6, 4, 3)}


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_frame_of_one_value_has_no_maximum(value):
    assert maxima_of(np.full((4, 5, 6), value)) == set()


def test_maxima_at_the_threshold_are_left_out():
    image = np.zeros((5, 6, 7))
    image[1, 1, 1], image[3, 3, 3] = 2.0, 2.5
    assert maxima_of(image, threshold=2.0) == {(3, 3, 3)}


def test_frames_do_not_touch():
    frames = np.zeros((5, 4, 6, 3), np.float32)
    frames[2, 2, 2, 0], frames[2, 2, 3, 1], frames[2, 2, 2, 2] = 1.0, 2.0, 1.0
    found = regional_maxima(frames_first(frames), threshold=0.0)
    assert found.tolist() == [[0, 2, 2, 2], [1, 2, 2, 3], [2, 2, 2, 2]]


@pytest.mark.parametrize("shape", [(8, 9, 7), (11, 1, 12)])
@pytest.mark.parametrize("n_values", [3, 6, 1000])
def test_same_sets_as_labelling_value_by_value(shape, n_values):
    image = np.random.default_rng(5).integers(0, n_values, shape).astype(np.float32)
    wanted = maxima_by_labels(image, threshold=1.0)
    found = maxima_of(image, threshold=1.0)
    assert len(found) == len(wanted) > 0
    assert all(len(found & members) == 1 for members in wanted)
