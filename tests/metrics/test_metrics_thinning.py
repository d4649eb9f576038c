import numpy as np
import pytest
from scipy import ndimage

from sparse_ulm.metrics.thinning import thin

EVERY = np.ones((3, 3, 3), bool)


def boxes(seed):
    """Random boxes, some of which touch or overlap."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((25, 26, 27), bool)
    for corner in rng.integers(1, 18, (25, 3)):
        sizes = rng.integers(1, 8, 3)
        picture[tuple(slice(c, c + s) for c, s in zip(corner, sizes, strict=True))] = True
    return picture


def points(seed, share):
    """Random voxels."""
    return np.pad(np.random.default_rng(seed).random((15, 16, 17)) < share, 1)


def hollow(seed):
    """A shell with a cavity, pierced by a tunnel beside it."""
    picture = np.zeros((16, 17, 18), bool)
    picture[2:13, 2:12, 2:14] = True
    picture[4 + seed : 7 + seed, 4:8, 4:8] = False
    picture[2:13, 9:11, 9:11] = False
    return picture


def thinned(picture):
    """The centre line as a picture."""
    line = np.zeros_like(picture)
    line[tuple(thin(np.argwhere(picture)).T)] = True
    return line


def euler_number(picture):
    """Cubes, faces, edges and corners of the closed voxels, counted with alternating signs."""
    total, padded = 0, np.pad(picture, 1)
    for axes in np.ndindex(2, 2, 2):
        cells = padded
        for axis in np.flatnonzero(axes):
            ahead = [slice(None)] * 3
            ahead[axis] = slice(1, None)
            behind = [slice(None)] * 3
            behind[axis] = slice(None, -1)
            cells = cells[tuple(ahead)] | cells[tuple(behind)]
        total += (-1) ** (3 - sum(axes)) * int(cells.sum())
    return total


@pytest.mark.parametrize(
    "picture",
    [
        *map(boxes, range(4)),
        *(points(s, p) for s, p in ((0, 0.05), (1, 0.2), (2, 0.5), (3, 0.8))),
        hollow(0),
        hollow(1),
    ],
    ids=lambda picture: f"{picture.sum()} voxels",
)
def test_components_cavities_and_tunnels_stay(picture):
    line = thinned(picture)
    assert not (line & ~picture).any()
    assert euler_number(line) == euler_number(picture)
    assert ndimage.label(line, EVERY)[1] == ndimage.label(picture, EVERY)[1]
    assert ndimage.label(~line)[1] == ndimage.label(~picture)[1]


@pytest.mark.parametrize("picture", [boxes(7), points(5, 0.3), hollow(0)], ids=["boxes", "points", "hollow"])
def test_nothing_more_can_go(picture):
    line = thinned(picture)
    assert np.array_equal(thinned(line), line)
    # Brute force: removing a voxel with background in front and object behind changes the topology, or it ends a line.
    for voxel in np.argwhere(line):
        around = line[tuple(slice(c - 1, c + 2) for c in voxel)]
        without = around.copy()
        without[1, 1, 1] = False
        faces = [np.take(np.take(around, 1, axis=a), 1, axis=b)[[0, 2]] for a, b in ((2, 1), (2, 0), (1, 0))]
        is_layer = any(face[0] != face[1] for face in faces)
        components = ndimage.label(without, EVERY)[1]
        assert not is_layer or without.sum() == 1 or components > 1 or euler_number(without) != euler_number(around)


@pytest.mark.parametrize("width", [(1, 1), (2, 2), (4, 4), (3, 3), (4, 5), (1, 6), (2, 7)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_rods_of_any_thickness_have_a_centre_line(width, axis):
    # scikit-image 0.26 leaves nothing of the even ones (its issue 3757).
    rod = np.moveaxis(np.ones((30, *width), bool), 0, axis)
    line = thin(np.argwhere(rod))
    assert 24 <= len(line) <= 36
    across = np.delete(line, axis, axis=1)
    middle = (np.array(width) - 1) / 2
    inner = (line[:, axis] > 6) & (line[:, axis] < 23)
    assert np.abs(across[inner] - middle).max() <= 1.0


def test_flat_sets_are_thinned_as_pictures():
    disc = np.hypot(*np.mgrid[-9:10, -9:10]) <= 8.5
    ring = disc & ~(np.hypot(*np.mgrid[-9:10, -9:10]) < 4)
    x, z = np.nonzero(ring)
    for columns in ([x, np.full(len(x), 4), z], [np.full(len(x), -2), x, z], [x, z, np.full(len(x), 7)]):
        line = thin(np.column_stack(columns))
        plane = line[:, [axis for axis in range(3) if np.ptp(columns[axis]) > 0]] - 9
        radius = np.hypot(*plane.T)
        assert (radius >= 3.9).all()
        assert radius.mean() == pytest.approx(6.25, abs=1.0)
        assert 30 <= len(line) <= 45


def test_order_translation_and_the_empty_set():
    voxel = np.argwhere(boxes(3))
    line, shift = thin(voxel), np.array([5, -100, 7])
    assert np.array_equal(thin(np.random.default_rng(0).permutation(voxel)), line)
    assert np.array_equal(thin(voxel + shift), line + shift)
    assert len(thin(np.empty((0, 3), dtype=np.int64))) == 0
    assert thin(np.array([[3, 4, 5]])).tolist() == [[3, 4, 5]]
