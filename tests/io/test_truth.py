"""The truth file: by hand, round trip, errors with their line."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sparse_ulm.acquisition import Geometry
from sparse_ulm.errors import RecordingError
from sparse_ulm.io.truth import read_truth, write_truth

GEOMETRY = Geometry.from_voxel_size(
    (0.1e-3, 0.2e-3, 0.05e-3),
    (-1e-3, 2e-3, 8e-3),
    frame_rate_hz=500.0,
    transmit_frequency_hz=10e6,
    sound_speed_m_s=1540.0,
)
HEADER = "track_id,frame,time_s,x_mm,y_mm,z_mm,amplitude\n"


def rows(n: int) -> SimpleNamespace:
    rng = np.random.default_rng(2)
    position_m = GEOMETRY.to_scanner_m(rng.uniform(-3, 20, size=(n, 3)))
    return SimpleNamespace(
        track_id=np.arange(n) // 3,
        frame=rng.integers(0, 90, n),
        position_m=position_m,
        amplitude=rng.uniform(1, 2, n),
        vessel_radius_m=rng.uniform(1e-6, 9e-6, n),
    )


def test_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "rec_truth.csv"
    path.write_text(f"{HEADER}7,3,0.006,-0.95,2.4,8.1,1.5\n8,0,0,-1.2,2,8,1\n")
    truth = read_truth(path, GEOMETRY)
    assert (truth.track_id.tolist(), truth.frame.tolist()) == ([7, 8], [3, 0])
    np.testing.assert_allclose(truth.position_voxel, [[0.5, 2.0, 2.0], [-2.0, 0.0, 0.0]], atol=1e-9)
    assert len(truth) == 2


def test_written_lines_are_as_documented(tmp_path: Path) -> None:
    one = SimpleNamespace(
        track_id=np.array([4]),
        frame=np.array([6]),
        position_m=np.array([[1e-3, -2.5e-3, 9e-3]]),
        amplitude=np.ones(1),
        vessel_radius_m=None,
    )
    line = "4,6,0.012000,1.000000,-2.500000,9.000000,1"
    write_truth(tmp_path / "t.csv", one, GEOMETRY)
    assert (tmp_path / "t.csv").read_text() == f"{HEADER}{line}\n"
    assert read_truth(tmp_path / "t.csv", GEOMETRY).vessel_radius_m is None
    one.vessel_radius_m = np.array([3.25e-6])
    write_truth(tmp_path / "t.csv", one, GEOMETRY)
    assert (tmp_path / "t.csv").read_text() == f"{HEADER[:-1]},vessel_radius_um\n{line},3.25\n"


@pytest.mark.parametrize("n", [0, 1, 50])
def test_round_trip_to_nanometres(tmp_path: Path, n: int) -> None:
    written = rows(n)
    write_truth(tmp_path / "t.csv", written, GEOMETRY)
    truth = read_truth(tmp_path / "t.csv", GEOMETRY)
    np.testing.assert_array_equal(truth.track_id, written.track_id)
    np.testing.assert_array_equal(truth.frame, written.frame)
    np.testing.assert_allclose(GEOMETRY.to_scanner_m(truth.position_voxel), written.position_m, atol=1e-9)
    np.testing.assert_allclose(truth.vessel_radius_m, written.vessel_radius_m, rtol=1e-3)
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]


def test_columns_may_come_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("note, z_mm,y_mm,x_mm,frame,track_id\n1,8.1,2.4,-0.95,3,7\n")
    np.testing.assert_allclose(read_truth(path, GEOMETRY).position_voxel, [[0.5, 2.0, 2.0]], atol=1e-9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("track_id,frame,x_mm,y_mm\n1,1,1,1\n", "no column z_mm among"),
        (f"{HEADER}1,2,0,0,0,0,1\n1,2.5,0,0,0,0,1\n", "line 3: track and frame"),
        (f"{HEADER}1,-2,0,0,0,0,1\n", "line 2: track and frame"),
        (f"{HEADER}1,2,0,nan,0,0,1\n", "line 2: track and frame"),
        (f"{HEADER}1,2,0,zero,0,0,1\n", "not a table of numbers"),
        (f"{HEADER}1,2,0,0,0,0\n", "7 column names but 6 values"),
        ("", "no column"),
    ],
)
def test_errors_are_one_line_and_name_the_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "rec_truth.csv"
    path.write_text(text)
    with pytest.raises(RecordingError, match=message) as caught:
        read_truth(path, GEOMETRY)
    assert "rec_truth.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="no such file"):
        read_truth(tmp_path / "none.csv", GEOMETRY)
