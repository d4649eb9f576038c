"""Vessel trees: SWC in and out, Murray's law, smoothing."""

from pathlib import Path

import numpy as np
import pytest
from simulation_cases import straight_vessel

from sparse_ulm.simulation import VesselError, VesselTree, grow_vessel_tree, read_swc, write_swc
from sparse_ulm.simulation.vessels import smoothed, sum_downstream

HAND_MADE = """# a bifurcation, children listed before their parent
12 2 10 20 40 3 7
9 2 10 25 30 4 7
7 2 10 20 30 5 3   # the bifurcation
3 2 10 20 0 5.5 -1
"""


@pytest.fixture
def grown() -> VesselTree:
    """A tree in a box of unequal sides."""
    return grow_vessel_tree(
        np.random.default_rng(3), box_size_m=(5e-4, 6e-4, 7e-4), n_leaves=150, leaf_radius_m=3e-6, tortuosity=0.1
    )


def test_swc_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "tree.swc"
    path.write_text(HAND_MADE)
    tree = read_swc(path)
    np.testing.assert_array_equal(tree.parent, [-1, 0, 1, 1])
    np.testing.assert_allclose(tree.positions_m[0], [10e-6, 20e-6, 0])
    np.testing.assert_allclose(tree.radius_m, [5.5e-6, 5e-6, 3e-6, 4e-6])
    np.testing.assert_array_equal(tree.n_children, [1, 2, 0, 0])


def test_swc_round_trip(tmp_path: Path, grown: VesselTree) -> None:
    write_swc(tmp_path / "grown.swc", grown)
    again = read_swc(tmp_path / "grown.swc")
    assert again.n_nodes == grown.n_nodes
    assert _segments(again) == _segments(grown)
    assert [p.name for p in tmp_path.iterdir()] == ["grown.swc"]


def _segments(tree: VesselTree) -> set[tuple[float, ...]]:
    """Segments by the coordinates of both ends and the radius, whatever the order of the nodes."""
    inner = tree.parent >= 0
    rows = np.column_stack([tree.positions_m[inner], tree.positions_m[tree.parent[inner]], tree.radius_m[inner]])
    return {tuple(row) for row in np.round(rows * 1e6, 4)}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 2 0 0 0 1", r"line 2: .*wanted 7 numbers"),
        ("1 2 0 0 zero 1 0", r"line 2: .*wanted 7 numbers"),
        ("1 2 0 0 nan 1 0", r"line 2: .*wanted 7 numbers"),
        ("1 2 0 0 0 -4 0", r"line 2: radius is -4 um"),
        ("1 2 0 0 0 4 5", "node 1 names parent 5"),
        ("0 2 0 0 0 4 -1", "node id 0 occurs twice"),
        ("1 2 0 0 0 4 2\n2 2 0 0 9 4 1", "2 nodes form a loop"),
        ("1 2 0 0 9 4 -1", "no segment"),
    ],
)
def test_swc_errors_are_one_line_and_say_where(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "bad.swc"
    path.write_text(f"0 2 0 0 0 5 -1\n{line}\n")
    with pytest.raises(VesselError, match=message) as caught:
        read_swc(path)
    assert "\n" not in str(caught.value)


def test_swc_that_is_missing_empty_or_binary(tmp_path: Path) -> None:
    with pytest.raises(VesselError, match="not a file"):
        read_swc(tmp_path / "none.swc")
    (tmp_path / "empty.swc").write_text("# nothing\n")
    with pytest.raises(VesselError, match="no nodes"):
        read_swc(tmp_path / "empty.swc")
    (tmp_path / "binary.swc").write_bytes(b"\xff\xfe\x00\x9f")
    with pytest.raises(VesselError, match="not text"):
        read_swc(tmp_path / "binary.swc")


def test_grown_tree_obeys_murray_at_each_bifurcation(grown: VesselTree) -> None:
    radius_um = grown.radius_m * 1e6
    forks = np.flatnonzero(grown.n_children > 1)
    assert len(forks) == 149  # a binary tree of 150 leaves
    for fork in forks:
        children = np.flatnonzero(grown.parent == fork)
        assert (radius_um[children] ** 3).sum() == pytest.approx(radius_um[fork] ** 3, rel=1e-9)


def test_grown_tree_fills_its_box(grown: VesselTree) -> None:
    leaves = grown.positions_m[grown.n_children == 0]
    assert (leaves >= 0).all()
    assert (leaves <= [5e-4, 6e-4, 7e-4]).all()
    octants = (leaves > np.array([2.5e-4, 3e-4, 3.5e-4])) @ [1, 2, 4]
    assert np.bincount(octants, minlength=8).min() >= 8  # 150 / 8 = 19 expected
    np.testing.assert_allclose(grown.radius_m[grown.n_children == 0], 3e-6)


def test_growing_refuses_nonsense() -> None:
    with pytest.raises(VesselError, match="wanted 2 or more"):
        grow_vessel_tree(
            np.random.default_rng(0), box_size_m=(1e-3, 1e-3, 1e-3), n_leaves=1, leaf_radius_m=3e-6, tortuosity=0.1
        )


def test_smoothing_keeps_lines_straight_and_forks_in_place(grown: VesselTree) -> None:
    line = straight_vessel()
    np.testing.assert_allclose(smoothed(line).positions_m, line.positions_m, atol=1e-12)
    fixed = (grown.n_children != 1) | (grown.parent < 0)
    np.testing.assert_array_equal(smoothed(grown).positions_m[fixed], grown.positions_m[fixed])
    jagged = VesselTree(line.positions_m + [[0, 1e-6, 0]] * (np.arange(101) % 2)[:, None], line.radius_m, line.parent)
    assert np.ptp(smoothed(jagged).positions_m[10:90, 1]) < 0.05e-6


def test_sum_downstream_by_hand() -> None:
    parent = np.array([-1, 0, 1, 1, 0])
    np.testing.assert_array_equal(sum_downstream(np.array([0.0, 0, 2, 3, 5]), parent), [10, 5, 2, 3, 5])


def test_a_tree_in_the_wrong_order_is_refused() -> None:
    with pytest.raises(VesselError, match="before its parent"):
        VesselTree(np.zeros((2, 3)), np.ones(2), np.array([1, -1]))
