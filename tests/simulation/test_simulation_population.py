"""Steady populations: constant count, placement of tree copies, inlets."""

import numpy as np
import pytest
from simulation_cases import steady_law, straight_vessel

from sparse_ulm.simulation import VesselError, grow_vessel_tree
from sparse_ulm.simulation.flow import FlowField, make_flow
from sparse_ulm.simulation.placement import Box, Placement, fill_box, find_inlets
from sparse_ulm.simulation.population import simulate_tracks
from sparse_ulm.simulation.tracks import Tracks, with_echoes

VIEW = Box(np.array([1e-4, -2e-4, 5e-3]), np.array([9e-4, 5e-4, 5.6e-3]))
MARGIN_M = np.array([1e-4, 1.2e-4, 0.8e-4])
N_FRAMES = 90


@pytest.fixture(scope="module")
def field() -> FlowField:
    """Fast flow, so that bubbles leave and are replaced."""
    tree = grow_vessel_tree(
        np.random.default_rng(1), box_size_m=(5e-4, 6e-4, 7e-4), n_leaves=80, leaf_radius_m=3e-6, tortuosity=0.1
    )
    return make_flow(tree, steady_law(speed_at_20_um_m_s=10e-3, midway_birth_share=0.2, pulsatility=0.3))


def tracks_of(field: FlowField, seed: int, n_bubbles: int = 25) -> Tracks:
    rng = np.random.default_rng(seed)
    placement = fill_box(field, VIEW.grown(MARGIN_M), rng)
    return simulate_tracks(
        field, placement, view=VIEW, margin_m=MARGIN_M, n_bubbles=n_bubbles, n_frames=N_FRAMES, frame_rate_hz=500.0,
        rng=rng,
    )  # fmt: skip


def test_count_in_view_is_constant_while_bubbles_come_and_go(field: FlowField) -> None:
    tracks = tracks_of(field, 2)
    in_view = VIEW.contains(tracks.position_m)
    np.testing.assert_array_equal(np.bincount(tracks.frame[in_view], minlength=N_FRAMES), 25)
    n_tracks = len(np.unique(tracks.track_id[in_view]))
    assert n_tracks > 2 * 25  # many were replaced


def test_bubbles_stay_near_and_move_without_jumps(field: FlowField) -> None:
    tracks = tracks_of(field, 3)
    assert VIEW.grown(MARGIN_M).contains(tracks.position_m).all()
    assert not VIEW.contains(tracks.position_m).all()
    same = np.diff(tracks.track_id) == 0
    np.testing.assert_array_equal(np.diff(tracks.frame)[same], 1)
    step = np.linalg.norm(np.diff(tracks.position_m, axis=0), axis=1)[same]
    fastest = 2 * field.mean_speed_m_s.max() * 1.3 / 500.0
    assert step.max() < 1.3 * fastest  # lanes of a bend are longer than its axis
    assert np.median(step) > 0.05 * fastest


def test_margin_is_as_dense_as_the_view(field: FlowField) -> None:
    tracks = tracks_of(field, 4, n_bubbles=150)
    inside = VIEW.contains(tracks.position_m)
    margin_volume = VIEW.grown(MARGIN_M).volume_m3 - VIEW.volume_m3
    density_ratio = (~inside).sum() / margin_volume / (inside.sum() / VIEW.volume_m3)
    assert 0.8 < density_ratio < 1.8


def test_no_bubble_enters_the_view_twice(field: FlowField) -> None:
    tracks = tracks_of(field, 5)
    inside = VIEW.contains(tracks.position_m)
    for track in np.unique(tracks.track_id):
        entries = np.diff(np.concatenate([[0], inside[tracks.track_id == track].astype(int)])) == 1
        assert entries.sum() <= 1


def test_same_seed_same_bits_and_other_seed_others(field: FlowField) -> None:
    one, again, other = tracks_of(field, 7), tracks_of(field, 7), tracks_of(field, 8)
    np.testing.assert_array_equal(one.position_m, again.position_m)
    np.testing.assert_array_equal(one.frame, again.frame)
    assert len(one) != len(other) or not np.array_equal(one.position_m, other.position_m)


def test_no_bubbles_asked_for_gives_none(field: FlowField) -> None:
    assert len(tracks_of(field, 9, n_bubbles=0)) == 0


def test_inlets_by_hand() -> None:
    """A vessel along x from 0 to 1 mm enters a box that begins at 123 um, in segment 13."""
    field = make_flow(straight_vessel(), steady_law())
    box = Box(np.array([123e-6, -1e-5, -1e-5]), np.array([400e-6, 1e-5, 1e-5]))
    inlets = find_inlets(field, fill_box(field, box, np.random.default_rng(0), turn=False), box)
    assert inlets.segment.tolist() == [13]
    assert inlets.share[0] == pytest.approx(0.3)
    whole = Box(np.full(3, -1e-3), np.full(3, 2e-3))
    inlets = find_inlets(field, fill_box(field, whole, np.random.default_rng(0), turn=False), whole)
    assert (inlets.segment.tolist(), inlets.share.tolist()) == ([1], [0.0])


def test_bubbles_of_a_straight_vessel_enter_at_its_inlet() -> None:
    field = make_flow(straight_vessel(), steady_law(speed_at_20_um_m_s=20e-3))
    box = Box(np.array([200e-6, -2e-5, -2e-5]), np.array([700e-6, 2e-5, 2e-5]))
    rng = np.random.default_rng(3)
    placement = fill_box(field, box, rng, turn=False)
    tracks = simulate_tracks(
        field, placement, view=box, margin_m=np.array([1e-4, 0, 0]), n_bubbles=6, n_frames=80, frame_rate_hz=500.0,
        rng=rng,
    )  # fmt: skip
    inside = box.contains(tracks.position_m)
    np.testing.assert_array_equal(np.bincount(tracks.frame[inside], minlength=80), 6)
    x = tracks.position_m[:, 0]
    entered = inside & np.concatenate([[False], (np.diff(tracks.track_id) == 0) & ~inside[:-1]])
    assert entered.sum() > 6
    assert x[entered].max() < 200e-6 + 40e-3 / 500.0


def test_an_empty_field_of_view_is_an_error() -> None:
    field = make_flow(straight_vessel(), steady_law())
    box = Box(np.array([0.0, 1e-3, 0.0]), np.array([1e-3, 1.1e-3, 1e-3]))
    placement = Placement(np.eye(3)[None], np.array([[5e-4, 0.0, 0.0]]), np.array([5e-4, 0.0, 0.0]))
    with pytest.raises(VesselError, match="no vessel runs through"):
        simulate_tracks(
            field, placement, view=box, margin_m=np.zeros(3), n_bubbles=1, n_frames=3, frame_rate_hz=1.0,
            rng=np.random.default_rng(0),
        )  # fmt: skip


def test_copies_are_rigid_and_cover_the_box(field: FlowField) -> None:
    box = VIEW.grown(np.array([1e-3, 1e-3, 1e-3]))
    placement = fill_box(field, box, np.random.default_rng(4))
    identity = np.einsum("nij,nik->njk", placement.matrix, placement.matrix)
    np.testing.assert_allclose(identity, np.broadcast_to(np.eye(3), identity.shape), atol=1e-12)
    assert set(np.sign(np.linalg.det(placement.matrix))) == {-1.0, 1.0}
    nodes = np.concatenate([placement.to_scanner_m(i, field.positions_m) for i in range(len(placement.matrix))])
    cells = np.floor((nodes - box.low_m) / (box.high_m - box.low_m) * 4).astype(int)
    inside = ((cells >= 0) & (cells < 4)).all(axis=1)
    assert len(np.unique(cells[inside] @ [16, 4, 1])) == 64


def test_echoes_are_constant_up_to_a_tenth_along_a_track(field: FlowField) -> None:
    tracks = with_echoes(tracks_of(field, 2), np.random.default_rng(1), amplitude_sigma=0.4, frame_rate_hz=500.0)
    levels = []
    for track in np.unique(tracks.track_id):
        rows = tracks.track_id == track
        assert np.ptp(tracks.phase_rad[rows]) == 0.0
        assert tracks.amplitude[rows].max() / tracks.amplitude[rows].min() <= 1.1 / 0.9 + 1e-9
        levels.append(np.log(tracks.amplitude[rows].mean()))
    assert np.std(levels) == pytest.approx(0.4, abs=0.1)
