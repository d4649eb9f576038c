"""Tables of localisations and tracks: what is written is read, and what cannot be read is named."""

import csv

import numpy as np
import pytest

from sparse_ulm.acquisition import Geometry, as_rows
from sparse_ulm.errors import RecordingError
from sparse_ulm.io.tables import (
    LOCALISATION_COLUMNS,
    TRACK_COLUMNS,
    read_localisations,
    read_tracks,
    write_localisations,
    write_tracks,
)
from sparse_ulm.localisations import Localisations, Trajectories

ALIGNED = Geometry.from_voxel_size(
    (0.1e-3, 0.2e-3, 0.05e-3),
    (-1.0e-3, 2.0e-3, 5.0e-3),
    frame_rate_hz=500.0,
    transmit_frequency_hz=8.0e6,
    sound_speed_m_s=1540.0,
)
TURNED = Geometry(
    as_rows(np.array([[0, -0.2e-3, 0, 1e-3], [0.1e-3, 0, 0, 2e-3], [0, 0, 0.05e-3, 3e-3], [0, 0, 0, 1.0]])),
    500.0,
    8.0e6,
    1540.0,
)
NM_IN_VOXELS = 1.0e-9 / 0.05e-3
"""A nanometre in the finest voxels: the last digit that is written."""


def some_localisations():
    return Localisations(
        np.array([0, 3, 3]),
        np.array([[1.0, 2.0, 4.0], [0.25, 3.5, 1.125], [5.0, 0.0, 6.5]]),
        np.array([2.0, 0.03125, 1.0e5]),
        np.array([[0.1, 0.2, 0.3], [np.nan] * 3, [0.01, 0.02, 0.5]]),
    )


def some_tracks():
    return Trajectories(
        np.array([4, 4, 7]),
        np.array([1.0, 1.5, 0.0]),
        np.array([[1.0, 2.0, 4.0], [1.5, 2.0, 3.0], [5.0, 0.0, 6.5]]),
        np.array([[1.0e-3, 0.0, -2.0e-3], [1.5e-3, 0.25e-3, 0.0], [np.nan] * 3]),
        np.array([1.0, 2.0, np.nan]),
        np.array([[0.1, 0.2, 0.3], [np.nan] * 3, [0.01, 0.02, 0.5]]),
    )


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_rows_are_in_scanner_millimetres_and_seconds(tmp_path):
    write_localisations(tmp_path / "a.csv", some_localisations(), ALIGNED)
    write_tracks(tmp_path / "b.csv", some_tracks(), ALIGNED)
    first, second, _ = rows_of(tmp_path / "a.csv")
    assert tuple(first) == LOCALISATION_COLUMNS
    assert [float(first[n]) for n in ("x_mm", "y_mm", "z_mm")] == [-0.9, 2.4, 5.2]
    assert [float(first[f"{n}_deviation_mm"]) for n in "xyz"] == [0.01, 0.04, 0.015]
    assert (second["frame"], float(second["time_s"])) == ("3", 0.006)
    first, second, _ = rows_of(tmp_path / "b.csv")
    assert tuple(first) == TRACK_COLUMNS
    assert [float(first[n]) for n in ("vx_mm_s", "vy_mm_s", "vz_mm_s")] == [1.0, 0.0, -2.0]
    assert [float(first[f"{n}_deviation_mm"]) for n in "xyz"] == [0.01, 0.04, 0.015]
    assert (second["track_id"], float(second["frame"]), float(second["time_s"])) == ("4", 1.5, 0.003)


@pytest.mark.parametrize("geometry", [ALIGNED, TURNED], ids=["aligned", "turned"])
def test_what_is_written_is_read(tmp_path, geometry):
    write_localisations(tmp_path / "a.csv", some_localisations(), geometry)
    write_tracks(tmp_path / "b.csv", some_tracks(), geometry)
    for read, was, names in (
        (read_localisations(tmp_path / "a.csv", geometry), some_localisations(), ("amplitude", "deviation_voxel")),
        (
            read_tracks(tmp_path / "b.csv", geometry),
            some_tracks(),
            ("amplitude", "velocity_m_s", "track_id", "deviation_voxel"),
        ),
    ):
        for name in ("frame", "position_voxel", *names):
            np.testing.assert_allclose(getattr(read, name), getattr(was, name), atol=NM_IN_VOXELS, err_msg=name)


def test_nothing_found_is_a_table_without_rows(tmp_path):
    none = np.zeros((0, 3))
    write_localisations(tmp_path / "a.csv", Localisations(np.zeros(0, np.int64), none, np.zeros(0), none), ALIGNED)
    write_tracks(tmp_path / "b.csv", Trajectories(np.zeros(0, np.int64), np.zeros(0), none, none, np.zeros(0)), ALIGNED)
    assert len(read_localisations(tmp_path / "a.csv", ALIGNED)) == 0
    assert len(read_tracks(tmp_path / "b.csv", ALIGNED)) == 0


def test_tables_of_others_are_sorted_and_completed(tmp_path):
    (tmp_path / "a.csv").write_text("z_mm,quality,frame,y_mm,x_mm\n5.0,9,7,2.0,-1.0\n5.1,8,2,2.0,-0.9\n")
    found = read_localisations(tmp_path / "a.csv", ALIGNED)
    np.testing.assert_array_equal(found.frame, [2, 7])
    np.testing.assert_allclose(found.position_voxel, [[1, 0, 2], [0, 0, 0]], atol=1e-9)
    assert np.isnan(found.amplitude).all()
    assert np.isnan(found.deviation_voxel).all()
    (tmp_path / "b.csv").write_text("track_id,frame,x_mm,y_mm,z_mm\n3,1,-1,2,5\n1,5,-1,2,5\n3,0.5,-1,2,5\n")
    tracks = read_tracks(tmp_path / "b.csv", ALIGNED)
    assert list(zip(tracks.track_id.tolist(), tracks.frame.tolist(), strict=True)) == [(1, 5.0), (3, 0.5), (3, 1.0)]
    assert np.isnan(tracks.velocity_m_s).all()


BAD = {
    "no column y_mm": (read_localisations, "frame,x_mm,z_mm\n0,1,1\n"),
    "line 3: frame is 1.5": (read_localisations, "frame,x_mm,y_mm,z_mm\n0,1,1,1\n1.5,1,1,1\n"),
    "line 2: frame is -1": (read_localisations, "frame,x_mm,y_mm,z_mm\n-1,1,1,1\n"),
    "line 2: frame, x_mm": (read_localisations, "frame,x_mm,y_mm,z_mm\n0,nan,1,1\n"),
    "line 2: track_id, frame and position are": (read_tracks, "track_id,frame,x_mm,y_mm,z_mm\n0,0,1,inf,1\n"),
    "line 3: track_id is 0.5": (read_tracks, "track_id,frame,x_mm,y_mm,z_mm\n0,0,1,1,1\n0.5,0,1,1,1\n"),
    "not a table of numbers": (read_tracks, "track_id,frame,x_mm,y_mm,z_mm\n0,here,1,1,1\n"),
}


@pytest.mark.parametrize("words", BAD)
def test_a_damaged_table_is_named(tmp_path, words):
    read, text = BAD[words]
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(RecordingError, match=f"bad.csv.*{words}"):
        read(tmp_path / "bad.csv", ALIGNED)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(RecordingError, match=r"absent\.csv: no such file"):
        read_tracks(tmp_path / "absent.csv", ALIGNED)
