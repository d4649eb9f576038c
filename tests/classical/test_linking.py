"""Tracks from localisations: identity is kept, distances are metres, gaps close, blocks do not matter."""

import numpy as np
import pytest
from track_cases import ANISOTROPIC, CUBIC, FRAME_RATE_HZ, flow, links_of, part, table, true_links

from sparse_ulm.classical.linking import METHODS, Linker, link
from sparse_ulm.errors import UserError
from sparse_ulm.localisations import Localisations

SETTINGS = {"max_speed_m_s": 0.03, "max_gap_frames": 0, "min_length": 2, "acceleration_m_s2": 1.0}


def link_with(localisations, *, geometry=CUBIC, **changes):
    return link(localisations, geometry=geometry, **({"method": "nearest"} | SETTINGS | changes))


@pytest.mark.parametrize("method", METHODS)
def test_two_bubbles_that_pass_each_other_keep_their_names(method):
    rows = [(t, 2.0 + 0.2 * t, 5.0, 5.0) for t in range(6)] + [(t, 8.0 - 0.2 * t, 6.0, 5.0) for t in range(6)]
    tracks = link_with(table(rows), method=method)
    assert tracks.track_id.tolist() == [0] * 6 + [1] * 6
    np.testing.assert_allclose(tracks.position_voxel[:6, 0], 2.0 + 0.2 * np.arange(6))
    np.testing.assert_allclose(tracks.velocity_m_s[:6], [[0.2 * 0.1e-3 * FRAME_RATE_HZ, 0, 0]] * 6, atol=1e-12)
    np.testing.assert_allclose(tracks.velocity_m_s[6:, 0], -0.2 * 0.1e-3 * FRAME_RATE_HZ)


def test_the_least_sum_of_squares_wins_over_the_greedy_choice():
    # Greedy takes (0.0, 0.3) first and is left with the long one: 0.09 + 0.81 against 0.16 + 0.36.
    rows = [(0, 0.0, 5, 5), (0, 0.7, 5, 5), (1, 0.3, 5, 5), (1, -0.4, 5, 5)]
    tracks = link_with(table(rows), max_speed_m_s=0.05)
    first = {float(x) for x in tracks.position_voxel[tracks.track_id == 0, 0]}
    assert first == {0.0, -0.4}


@pytest.mark.parametrize("method", METHODS)
def test_the_gate_is_in_metres_along_every_axis(method):
    """0.03 m/s at 500 frames a second is 60 um: 0.6, 0.3 and 1.2 voxels of this grid."""
    for axis, limit in enumerate((0.6, 0.3, 1.2)):
        for factor, n_tracks in ((0.99, 1), (1.01, 2)):
            step = np.eye(3)[axis] * limit * factor
            rows = [(0, 5.0, 5.0, 5.0), (1, *(5.0 + step))]
            tracks = link_with(table(rows), geometry=ANISOTROPIC, min_length=1, method=method)
            assert len(set(tracks.track_id)) == n_tracks, (axis, factor)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("max_gap_frames", [0, 1, 2])
@pytest.mark.parametrize("gap", [1, 2, 3])
def test_a_gap_closes_exactly_when_it_is_allowed(gap, max_gap_frames, method):
    """The trackers of PALA and Open-3DULM close no gap of 1 with a largest gap of 1."""
    seen = [0, 1, 2, 3, *range(4 + gap, 8 + gap)]
    tracks = link_with(
        table([(t, 2.0 + 0.3 * t, 5.0, 5.0) for t in seen]), max_gap_frames=max_gap_frames, method=method
    )
    assert len(set(tracks.track_id)) == (1 if gap <= max_gap_frames else 2)
    np.testing.assert_allclose(tracks.frame, seen)


@pytest.mark.parametrize("method", METHODS)
def test_frames_without_any_bubble_count_as_gaps(method):
    rows = [(t, 5.0, 5.0, 5.0) for t in (0, 1, 4, 5)]
    assert len(set(link_with(table(rows), max_gap_frames=1, method=method).track_id)) == 2
    assert len(set(link_with(table(rows), max_gap_frames=2, method=method).track_id)) == 1


@pytest.mark.parametrize("method", METHODS)
def test_blocks_do_not_change_the_tracks(method):
    found, _ = flow(25, 31, geometry=ANISOTROPIC, speed_m_s=0.02, seed=1, missed=0.1)
    settings = SETTINGS | {"max_gap_frames": 2, "method": method, "geometry": ANISOTROPIC}
    whole = link(found, **settings)
    for edges in ([7], [3, 4, 20], list(range(1, 31))):
        linker = Linker(**settings)
        for start, stop in zip([0, *edges], [*edges, 31], strict=True):
            linker.add(part(found, (found.frame >= start) & (found.frame < stop)))
        pieces = linker.finish()
        np.testing.assert_array_equal(pieces.track_id, whole.track_id)
        np.testing.assert_array_equal(pieces.position_voxel, whole.position_voxel)


@pytest.mark.parametrize("method", METHODS)
def test_sparse_flow_is_followed_without_error(method):
    found, bubble = flow(20, 40, geometry=ANISOTROPIC, speed_m_s=0.01, seed=2)
    tracks = link_with(found, geometry=ANISOTROPIC, method=method)
    true = true_links(found, bubble, max_gap_frames=0)
    links = links_of(tracks, found)
    assert len(links & true) / len(links) > 0.99
    assert len(links & true) / len(true) > 0.99


def test_kalman_confuses_fewer_bubbles_than_the_nearest_neighbour_in_a_crowd():
    found, bubble = flow(150, 16, geometry=CUBIC, speed_m_s=0.1, seed=4, grid=(10, 11, 12), missed=0.1)
    true = true_links(found, bubble, max_gap_frames=2)
    wrong = {}
    for method in METHODS:
        links = links_of(link_with(found, max_speed_m_s=0.1, max_gap_frames=2, method=method), found)
        wrong[method] = len(links - true) / len(links)
    assert wrong["nearest"] > 0.08
    assert wrong["kalman"] < 0.6 * wrong["nearest"]


def test_order_within_a_frame_does_not_matter():
    found, _ = flow(15, 12, geometry=CUBIC, speed_m_s=0.02, seed=5)
    rng = np.random.default_rng(0)
    shuffled = part(found, np.lexsort((rng.random(len(found)), found.frame)))
    for method in METHODS:
        one, other = (link_with(rows, method=method) for rows in (found, shuffled))
        paths = [{tuple(t.position_voxel[t.track_id == i].ravel()) for i in set(t.track_id)} for t in (one, other)]
        assert paths[0] == paths[1]


def test_short_tracks_are_dropped_and_the_rest_numbered_from_0():
    rows = [(0, 1, 1, 1), *((t, 5, 5, 5) for t in range(3)), *((t, 9, 9, 9) for t in range(1, 3))]
    assert link_with(table(rows), min_length=3).track_id.tolist() == [0] * 3
    assert link_with(table(rows), min_length=2).track_id.tolist() == [0] * 3 + [1] * 2
    assert len(link_with(table(rows), min_length=4)) == 0
    assert len(link_with(table([]), min_length=1)) == 0


def test_frames_out_of_order_are_refused():
    linker = Linker(geometry=CUBIC, method="nearest", **SETTINGS)
    linker.add(table([(3, 1, 1, 1)]))
    with pytest.raises(ValueError, match="order of time"):
        linker.add(table([(3, 1, 1, 1)]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"max_speed_m_s": 0.0}, "max_speed_m_s is 0"),
        ({"max_gap_frames": -1}, "max_gap_frames is -1"),
        ({"min_length": 0}, "min_length 0"),
        ({"method": "kalman", "acceleration_m_s2": None}, "acceleration_m_s2 is None"),
    ],
)
def test_impossible_settings_are_refused(change, words):
    with pytest.raises(UserError, match=words):
        link_with(table([(0, 1, 1, 1)]), **change)


@pytest.mark.parametrize("method", METHODS)
def test_every_sample_keeps_the_deviation_of_its_localisation(method):
    rows = [(t, 2.0 + 0.2 * t, 5.0, 5.0) for t in range(6)] + [(t, 8.0 - 0.2 * t, 9.0, 5.0) for t in range(6)]
    found = table(rows)
    deviation = np.random.default_rng(3).uniform(0.01, 0.05, (len(found), 3))
    deviation[4] = np.nan
    found = Localisations(found.frame, found.position_voxel, found.amplitude, deviation)
    tracks = link_with(found, method=method)
    place = {tuple(p): d for p, d in zip(found.position_voxel.tolist(), deviation, strict=True)}
    wanted = [place[tuple(p)] for p in tracks.position_voxel.tolist()]
    np.testing.assert_array_equal(tracks.deviation_voxel, wanted)
    assert len(tracks) == 12
