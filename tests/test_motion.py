"""Motion by hand: signs, places, frames that are left out, the map's voxels and the table."""

import csv

import numpy as np
import pytest
from motion_phantom import geometry

from sparse_ulm.errors import UserError
from sparse_ulm.localisations import Localisations
from sparse_ulm.motion import Motion, MotionSettings, between_nodes

SHAPE, N_FRAMES = (5, 4, 6), 30


def turned_affine() -> np.ndarray:
    """Axes of unequal steps: x of the grid along y of the scanner, y against x."""
    affine = np.eye(4)
    affine[:3, :3] = [[0.0, -2e-4, 0.0], [1e-4, 0.0, 0.0], [0.0, 0.0, 3e-4]]
    affine[:3, 3] = (1e-3, -2e-3, 5e-3)
    return affine


def hand(field, rejected=(), affine=None) -> Motion:
    """Tissue that stands still until frame 4.5, and from 24.5 on lies where `field` of the place takes it."""
    nodes = tuple(np.array([0.0, size - 1.0]) for size in SHAPE)
    lattice = np.stack(np.meshgrid(*nodes, indexing="ij"), axis=-1)
    displacement = np.stack([np.zeros_like(lattice), field(lattice)])
    where = geometry(turned_affine() if affine is None else affine)
    mask = np.isin(np.arange(N_FRAMES), rejected)
    return Motion(where, nodes, np.array([4.5, 24.5]), displacement, mask, (0, 10))


def along_x(lattice: np.ndarray) -> np.ndarray:
    return np.zeros_like(lattice) + np.array([1.0, 0.0, 0.0])


def bubbles(frame, position) -> Localisations:
    n = len(frame)
    return Localisations(np.array(frame), np.array(position, dtype=float), np.arange(n) + 1.0, np.full((n, 3), 0.1))


def test_tissue_that_moved_by_a_voxel_along_x_is_moved_back_by_one() -> None:
    """Halfway between the windows half of it; beyond them the way goes on."""
    motion = hand(along_x)
    found = motion.bubbles(bubbles([4, 14, 24, 29], [[3.0, 1.0, 2.0]] * 4))
    wanted = 3.0 - (np.array([4, 14, 24, 29]) - 4.5) / 20.0
    np.testing.assert_allclose(found.position_voxel[:, 0], wanted, atol=1e-12)
    np.testing.assert_allclose(found.position_voxel[:, 1:], [[1.0, 2.0]] * 4)
    np.testing.assert_allclose(motion.displacement_m()[24], [0.0, 0.975e-4, 0.0], atol=1e-15)


def test_metres_follow_the_scanners_axes() -> None:
    motion = hand(along_x)
    here = np.array([[1.0e-3, 2.0e-3, 6.0e-3]])
    moved = motion.to_reference(here, np.array([24])) - here
    np.testing.assert_allclose(moved, [[0.0, -0.975e-4, 0.0]], atol=1e-15)


def test_a_turn_is_undone_everywhere() -> None:
    """Displacements are of material points at their place in the REFERENCE: a turn is linear there, not here."""
    angle = 0.08
    turn = np.array([[np.cos(angle), -np.sin(angle), 0.0], [np.sin(angle), np.cos(angle), 0.0], [0.0, 0.0, 1.0]])
    motion = hand(lambda place: 20.0 / 19.5 * (place @ turn.T - place))
    reference = np.random.default_rng(0).uniform(-0.5, 4.0, (40, 3))
    back = motion.bubbles(bubbles([24] * 40, reference @ turn.T)).position_voxel
    # Six steps leave angle**6 of the first one.
    np.testing.assert_allclose(back, reference, atol=1e-5)


def test_between_nodes_is_linear_and_goes_on() -> None:
    nodes = (np.array([0.0, 3.0, 4.0]), np.array([0.0]), np.array([0.0, 2.0]))
    slope = np.array([[0.3, 0.0, -0.2], [0.0, 0.0, 0.0], [0.1, 0.0, 0.7]])
    lattice = np.stack(np.meshgrid(*nodes, indexing="ij"), axis=-1)
    places = np.array([[-0.5, 0.0, 2.5], [1.2, 0.0, 0.3], [3.4, 0.0, 1.9], [4.4, 0.0, -0.4]])
    np.testing.assert_allclose(between_nodes(nodes, lattice @ slope, places), places @ slope, atol=1e-12)


def test_bubbles_of_rejected_frames_are_left_out() -> None:
    found = hand(along_x, rejected=[14]).bubbles(bubbles([4, 14, 24], [[3.0, 1.0, 2.0]] * 3))
    assert found.frame.tolist() == [4, 24]
    assert found.amplitude.tolist() == [1.0, 3.0]
    assert found.deviation_voxel.shape == (2, 3)


def test_voxels_of_a_block_move_by_its_mean() -> None:
    """Frames 20 to 29 are moved by 0.775 to 1.225 voxels, on average by one: eight voxels of a map refined by 8."""
    motion = hand(along_x)
    index = np.array([[20, 3, 9], [21, 0, 0]])
    assert motion.voxels(index, (8, 8, 8), (20, 30)).tolist() == [[12, 3, 9], [13, 0, 0]]
    assert motion.voxels(index, (8, 8, 8), (0, 10)).tolist() == index.tolist()
    late = hand(along_x, rejected=range(20, 24))
    # Of 24 to 29: 1.1 voxels; nearest of 8.8.
    assert late.voxels(index, (8, 8, 8), (20, 30)).tolist() == [[11, 3, 9], [12, 0, 0]]
    assert hand(along_x, rejected=range(20, 25)).voxels(index, (8, 8, 8), (20, 30)) is None


def test_the_table_by_hand(tmp_path) -> None:
    motion = hand(along_x, rejected=[24, 25])
    motion.write(tmp_path / "rec_motion.csv")
    with (tmp_path / "rec_motion.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["frame", "time_s", "x_mm", "y_mm", "z_mm", "largest_mm", "rejected"]
    assert len(rows) == N_FRAMES
    assert rows[24] == {
        "frame": "24", "time_s": "0.048000", "x_mm": "0.000000", "y_mm": "0.097500", "z_mm": "0.000000",
        "largest_mm": "0.097500", "rejected": "1",
    }  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["rec_motion.csv"]
    assert motion.summary() == {
        "reference_frames": [0, 10], "n_rejected_frames": 2, "largest_displacement_mm": pytest.approx(0.1225),
    }  # fmt: skip


def test_settings_of_a_config() -> None:
    assert MotionSettings.of(None).is_off
    assert MotionSettings.of({"kind": "none", "limit_mm": None}).is_off
    settings = MotionSettings.of({"kind": "rigid", "window_frames": 20, "limit_mm": 0.25})
    assert (settings.window_frames, settings.limit_m, settings.is_off) == (20, pytest.approx(0.25e-3), False)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"kind": "affine"}, "motion is 'affine'; wanted one of none, rigid, non_rigid"),
        ({"window_frames": 0}, "motion_window_frames is 0; wanted a whole number"),
        ({"limit_mm": 0.0}, "motion_limit_mm is 0; wanted a positive length"),
        ({"limit_mm": "wide"}, "motion_limit_mm is 'wide'; wanted a number"),
    ],
)
def test_impossible_settings_are_refused(wrong, told) -> None:
    with pytest.raises(UserError, match=told):
        MotionSettings.of(wrong)
