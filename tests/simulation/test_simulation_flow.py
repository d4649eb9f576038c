"""Flow: speed in a straight vessel by hand, conservation of flux, lanes, the pulse."""

from dataclasses import replace

import numpy as np
import pytest
from simulation_cases import steady_law, straight_vessel

from sparse_ulm.simulation.flow import Start, draw_start, flow_clock_s, follow, make_flow
from sparse_ulm.simulation.vessels import VesselTree

FRAME_RATE_HZ = 500.0


def start_at(segment: int, share: float, lane: float, choices: float = 0.5) -> Start:
    return Start(segment, share, lane, np.array([0.0, 0.0, 1.0]), np.full(4, choices))


@pytest.mark.parametrize(("lane", "factor"), [(0.0, 2.0), (0.5, 1.5), (0.99, 0.3)])
def test_a_bubble_moves_by_speed_over_frame_rate(lane: float, factor: float) -> None:
    """Diameter 20 um: mean speed 1 mm/s, twice that on the axis, 0.3 of it at the least near the wall."""
    field = make_flow(straight_vessel(), steady_law())
    clock = flow_clock_s(field.law, 60, FRAME_RATE_HZ, 0.0)
    first, way, _ = follow(field, start_at(10, 0.5, lane), clock, 0, upstream=False)
    assert first == 0
    assert way[0, 0] == pytest.approx(95e-6)
    np.testing.assert_allclose(np.diff(way[:, 0]), factor * 1e-3 / FRAME_RATE_HZ, rtol=1e-9)
    np.testing.assert_allclose(way[:, 2], lane * 9e-6, rtol=1e-9)  # radius 10 um less the bubble's 1 um
    np.testing.assert_allclose(way[:, 1], 0.0, atol=1e-18)


def test_the_radius_is_that_of_the_vessel_where_the_bubble_is() -> None:
    """A cone of 5 to 15 um: halfway along, 10 um."""
    tree = replace(straight_vessel(), radius_m=np.linspace(5e-6, 15e-6, len(straight_vessel().radius_m)))
    field = make_flow(tree, steady_law(speed_exponent=0.0))
    clock = flow_clock_s(field.law, 600, FRAME_RATE_HZ, 0.0)
    _, way, radius = follow(field, start_at(50, 0.5, 0.0), clock, 0, upstream=False)
    length = field.positions_m[-1, 0] - field.positions_m[0, 0]
    np.testing.assert_allclose(radius, 5e-6 + 10e-6 * (way[:, 0] - field.positions_m[0, 0]) / length, rtol=0.02)
    assert radius.min() < 10.2e-6 < 14e-6 < radius.max()


def test_speed_law_and_its_limits() -> None:
    law = steady_law(speed_exponent=2.0, slowest_m_s=0.3e-3, fastest_m_s=1.2e-3)
    speeds = [make_flow(straight_vessel(radius_m=r), law).mean_speed_m_s[5] for r in (3e-6, 8e-6, 10e-6, 30e-6)]
    np.testing.assert_allclose(speeds, [0.3e-3, 0.64e-3, 1e-3, 1.2e-3])


def test_scale_enlarges_vessels_and_so_speeds_flow_up() -> None:
    field = make_flow(straight_vessel(), steady_law(), scale=1.5)
    assert field.length_m[7] == pytest.approx(15e-6)
    assert field.mean_speed_m_s[7] == pytest.approx(1.5e-3)


def test_upstream_and_downstream_join() -> None:
    """Where a bubble came from, and that it ends at both ends of the vessel."""
    field = make_flow(straight_vessel(), steady_law())
    clock = flow_clock_s(field.law, 600, FRAME_RATE_HZ, 0.0)
    first, way, _ = follow(field, start_at(50, 0.7, 0.0), clock, 300, upstream=True)
    np.testing.assert_allclose(np.diff(way[:, 0]), 4e-6, rtol=1e-9)
    assert way[300 - first, 0] == pytest.approx(497e-6)
    assert first == 300 - 124  # 497 um at 4 um a frame
    assert len(way) == 250
    assert way[0, 0] == pytest.approx(1e-6)
    assert way[-1, 0] == pytest.approx(997e-6)


def test_the_pulse_changes_speed_as_asked_and_not_the_mean() -> None:
    law = steady_law(pulsatility=0.4, heart_rate_hz=5.0)
    clock = flow_clock_s(law, 1001, 1000.0, 0.7)  # five beats
    speed = np.diff(clock) * 1000.0
    assert clock[0] == 0.0
    assert clock[-1] == pytest.approx(1.0)
    assert speed.max() == pytest.approx(1.4, abs=1e-3)
    assert speed.min() == pytest.approx(0.6, abs=1e-3)


def fork() -> VesselTree:
    """A vessel that splits into one of 8 um and one of 4 um radius."""
    positions = np.array([[0, 0, 0], [0, 0, 50], [40, 0, 90], [-40, 0, 90], [80, 0, 130], [-80, 0, 130]]) * 1e-6
    radius = np.array([8.3, 8.3, 8, 4, 8, 4]) * 1e-6
    return VesselTree(positions, radius, np.array([-1, 0, 1, 1, 2, 3]))


@pytest.mark.parametrize(("exponent", "share"), [(0.0, 0.5), (1.0, 2 / 3), (3.0, 8 / 9)])
def test_flux_is_conserved_and_splits_by_leaf_diameter(exponent: float, share: float) -> None:
    field = make_flow(fork(), steady_law(leaf_weight_exponent=exponent))
    np.testing.assert_allclose(field.flux, [1, 1, share, 1 - share, share, 1 - share])


def test_branches_are_taken_in_proportion_to_flux() -> None:
    field = make_flow(fork(), steady_law(leaf_weight_exponent=1.0))
    clock = flow_clock_s(field.law, 40, FRAME_RATE_HZ, 0.0)
    rng = np.random.default_rng(5)
    right = 0
    for _ in range(600):
        _, way, _ = follow(field, draw_start(rng, field, 1, 0.1, crossing_plane=True), clock, 0, upstream=False)
        right += way[-1, 0] > 0
    assert right / 600 == pytest.approx(2 / 3, abs=0.06)  # three standard deviations


def test_lanes_follow_the_profile() -> None:
    """Uniform over the disc: mean of lane^2 is 1/2. In proportion to 1 - lane^2 over it: 1/3."""
    field = make_flow(straight_vessel(), steady_law())
    rng = np.random.default_rng(6)
    present = [draw_start(rng, field, 3, 0.0, crossing_plane=False).lane ** 2 for _ in range(4000)]
    crossing = [draw_start(rng, field, 3, 0.0, crossing_plane=True).lane ** 2 for _ in range(4000)]
    assert np.mean(present) == pytest.approx(1 / 2, abs=0.015)
    assert np.mean(crossing) == pytest.approx(1 / 3, abs=0.015)


def test_a_lane_stays_at_its_distance_in_a_bent_vessel() -> None:
    angle = np.linspace(0, 2 * np.pi, 201)
    helix = np.column_stack([np.cos(angle), np.sin(angle), angle / 4]) * 1e-4
    tree = VesselTree(helix, np.full(201, 11e-6), np.arange(-1, 200))
    field = make_flow(tree, steady_law(), scale=1.0)
    clock = flow_clock_s(field.law, 200, FRAME_RATE_HZ, 0.0)
    _, way, _ = follow(field, start_at(20, 0.0, 0.8), clock, 0, upstream=False)
    distance = np.linalg.norm(way[:, None] - field.positions_m[None], axis=2).min(axis=1)
    np.testing.assert_allclose(distance, 8e-6, rtol=0.05)
    assert np.linalg.norm(np.diff(way, axis=0), axis=1).max() < 6e-6  # no jump from side to side
