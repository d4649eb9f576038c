import csv
import json

import numpy as np
import pytest

from sparse_ulm.acquisition import Geometry
from sparse_ulm.errors import UserError
from sparse_ulm.evaluate import evaluate_folder
from sparse_ulm.evaluation_localisations import visits
from sparse_ulm.evaluation_table import plain
from sparse_ulm.io import save_map, save_recording
from sparse_ulm.io.tables import write_localisations, write_tracks
from sparse_ulm.localisations import Localisations, Trajectories

SHAPE = (12, 13, 14)
N_FRAMES = 40
RATE_HZ = 500.0
GEOMETRY = Geometry.from_voxel_size(  # λ is 100 um: λ/4 is half a voxel along x and y
    (5e-5, 5e-5, 6e-5),
    (-1e-4, 3e-4, 5e-3),
    frame_rate_hz=RATE_HZ,
    transmit_frequency_hz=15e6,
    sound_speed_m_s=1500.0,
)


def straight_tracks(n_tracks, *, seed=0, length=20):
    """Bubbles on straight ways inside the grid: a table of tracks."""
    rng = np.random.default_rng(seed)
    start = rng.uniform(2, np.array(SHAPE) - 3, (n_tracks, 1, 3))
    way = rng.uniform(-0.08, 0.08, (n_tracks, 1, 3))
    position = (start + way * np.arange(length)[:, None]).reshape(-1, 3)
    frame = (rng.integers(0, N_FRAMES - length + 1, (n_tracks, 1)) + np.arange(length)).reshape(-1)
    n = len(position)
    track_id = np.repeat(np.arange(n_tracks), length)
    return Trajectories(track_id, frame.astype(float), position, np.full((n, 3), 1e-3), np.ones(n))


def write_case(folders, name, tracks, *, shape=SHAPE):
    """A recording of silence, the truth of its tracks, and the map of them."""
    data, maps = folders[1], folders[0]
    data.mkdir(exist_ok=True)
    save_recording(data / f"{name}.npz", np.zeros((*shape, N_FRAMES), np.complex64), GEOMETRY)
    write_tracks(data / f"{name}_truth.csv", tracks, GEOMETRY)
    factor = tuple(8 if size > 1 else 1 for size in shape)
    grid = GEOMETRY.refined(factor)
    refined = tuple(np.multiply(shape, factor).tolist())
    density = np.zeros(refined, np.float32)
    voxel, _, _ = visits(tracks, GEOMETRY, grid, refined)
    density[tuple(voxel.T)] = 1
    save_map(maps / name / f"{name}_density.nii.gz", density, grid)
    return maps / name / name


def as_localisations(tracks, *, rows=slice(None), shift=0.0):
    """Rows of tracks as localisations, moved along z."""
    frame = tracks.frame[rows].astype(np.int64)
    order = np.argsort(frame, kind="stable")
    position = tracks.position_voxel[rows][order] + np.array([0, 0, shift])
    return Localisations(frame[order], position, np.ones(len(frame)), np.full((len(frame), 3), np.nan))


def save_localisations(stem, found):
    """Write NAME_localisations.csv."""
    write_localisations(stem.with_name(f"{stem.name}_localisations.csv"), found, GEOMETRY)


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Folders of maps, recordings and results; without pictures, which take the longest and are tested elsewhere."""
    monkeypatch.setattr("sparse_ulm.evaluate.save_projections", lambda *_, **__: None)
    return tmp_path / "maps", tmp_path / "data", tmp_path / "scores"


def evaluate(folders, **options):
    """Evaluate and read both files back."""
    path = evaluate_folder(*folders, **options)
    with (folders[2] / "metrics.csv").open() as file:
        return json.loads(path.read_text()), list(csv.DictReader(file))


def test_localisations_are_scored_at_both_gates(folders):
    tracks = straight_tracks(6)
    stem = write_case(folders, "rec", tracks)
    n = len(tracks)
    # Three of four bubbles, 30 um too deep: beyond λ/4 of 25 um and within λ/2.
    save_localisations(stem, as_localisations(tracks, rows=np.arange(n) % 4 > 0, shift=0.5))
    result, table = evaluate(folders)
    row = result["recordings"][0]
    found = row["localisations"]
    assert found["source"] == "localisations"
    assert found["lambda_4"]["n_pairs"] < 0.1 * n
    assert found["lambda_2"]["n_pairs"] == found["lambda_2"]["n_predicted"] == n * 3 // 4
    assert found["lambda_2"]["recall"] == pytest.approx(0.75)
    assert found["lambda_2"]["bias_um"] == pytest.approx([0, 0, 30], abs=3)
    assert row["localisation_jaccard_lambda_2"] == pytest.approx(0.75)
    assert "by_neighbour_psf_widths" not in found
    assert float(table[0]["localisation_recall_lambda_2"]) == pytest.approx(0.75)
    assert result["total"]["localisations"]["lambda_2"]["n_truth"] == n


def test_pooled_localisations_add_pairs(folders):
    counts = {"all": (4, slice(None)), "few": (9, np.arange(9 * 20) < 20)}
    for name, (n_tracks, rows) in counts.items():
        tracks = straight_tracks(n_tracks, seed=n_tracks)
        save_localisations(write_case(folders, name, tracks), as_localisations(tracks, rows=rows))
    write_case(folders, "bare", straight_tracks(2))
    result, _ = evaluate(folders)
    total = result["total"]
    assert total["localisation_recall_lambda_4"] == pytest.approx((80 + 20) / (80 + 180))
    assert total["over_recordings"]["localisation_recall_lambda_4"]["n_recordings"] == 2
    assert total["over_recordings"]["localisation_recall_lambda_4"]["mean"] == pytest.approx((1 + 1 / 9) / 2)
    assert "n_recordings" not in total["over_recordings"]["dice"]
    assert total["dice"] == 1.0


def test_recall_by_neighbour_needs_a_width(folders):
    # Two bubbles one voxel apart along x, 50 um, of which only the first is found, and one alone.
    n = 10
    position = np.repeat([[4.0, 5, 6], [5, 5, 6], [4, 5, 12]], n, axis=0)
    tracks = Trajectories(
        np.repeat(np.arange(3), n),
        np.tile(np.arange(n), 3).astype(float),
        position,
        np.zeros((3 * n, 3)),
        np.ones(3 * n),
    )
    stem = write_case(folders, "rec", tracks)
    save_localisations(stem, as_localisations(tracks, rows=tracks.track_id != 1))
    found = evaluate(folders, psf_fwhm_wavelengths=[1.25, 1.0, 1.0])[0]["total"]["localisations"]
    bins = found["by_neighbour_psf_widths"]
    assert bins["n_truth"] == [0, 2 * n, 0, 0, n]  # 50 of 125 um
    assert bins["recall"] == {"<0.25": None, "0.25-0.5": 0.5, "0.5-0.75": None, "0.75-1": None, ">=1": 1.0}
    drawn = {"name": "rec", "bubbles_per_psf_volume": 0.1, "psf_fwhm_m": [8e-5, 1e-4, 1e-4]}
    (folders[1] / "simulation.json").write_text(json.dumps({"recordings": [drawn]}))
    bins = evaluate(folders)[0]["recordings"][0]["localisations"]["by_neighbour_psf_widths"]
    assert bins["n_truth"] == [0, 0, 2 * n, 0, n]
    with pytest.raises(UserError, match="three positive widths"):
        evaluate(folders, psf_fwhm_wavelengths=[2.0, 1.0])


def test_the_margin_leaves_the_border_out(folders):
    n = 10
    position = np.repeat([[5.0, 5, 6], [0.3, 5, 6]], n, axis=0)
    tracks = Trajectories(
        np.repeat([0, 1], n), np.tile(np.arange(n), 2).astype(float), position, np.zeros((2 * n, 3)), np.ones(2 * n)
    )
    save_localisations(write_case(folders, "rec", tracks), as_localisations(tracks, rows=tracks.track_id == 0))
    assert evaluate(folders)[0]["total"]["localisation_recall_lambda_4"] == 0.5
    result = evaluate(folders, margin_wavelengths=1.0)[0]
    assert result["total"]["localisation_recall_lambda_4"] == 1.0
    assert result["margin_wavelengths"] == 1.0


def test_tracks_alone_give_localisations_at_whole_frames_resolution_and_saturation(folders):
    tracks = straight_tracks(40)
    stem = write_case(folders, "rec", tracks)
    half = Trajectories(
        *(np.repeat(values, 2, axis=0) for values in (tracks.track_id, tracks.frame, tracks.position_voxel)),
        np.repeat(tracks.velocity_m_s, 2, axis=0),
        np.repeat(tracks.amplitude, 2),
    )
    half.frame[1::2] += 0.5
    write_tracks(stem.with_name("rec_tracks.csv"), half, GEOMETRY)
    result, table = evaluate(folders, n_splits=2)
    row = result["recordings"][0]
    assert row["localisations"]["source"] == "tracks"
    assert row["localisations"]["lambda_4"]["n_predicted"] == len(tracks)
    assert row["localisation_f1_lambda_4"] == 1.0
    assert row["resolution"]["n_tracks"] == 40
    assert row["resolution"]["n_splits"] == 2
    # Forty tracks in different places have nothing in common: infinite, which JSON writes as null.
    assert row["resolution_half_bit_um"] is None
    assert table[0]["resolution_half_bit_um"] == ""
    assert row["saturation"]["share_at_end"] == pytest.approx(1.0)
    assert 0 < row["saturation_t90_s"] < 2 * N_FRAMES / RATE_HZ * 5
    assert float(table[-1]["saturation_t90_s"]) == row["saturation_t90_s"]
    assert "resolution" not in evaluate(folders, n_splits=0)[0]["recordings"][0]


def test_repeated_tracks_have_a_resolution(folders):
    base = straight_tracks(25)
    n = len(base)
    every = Trajectories(
        np.concatenate([base.track_id + 25 * i for i in range(12)]),
        *(np.tile(v, 12) for v in (base.frame,)),
        np.tile(base.position_voxel, (12, 1)),
        np.tile(base.velocity_m_s, (12, 1)),
        np.ones(12 * n),
    )
    stem = write_case(folders, "rec", base)
    write_tracks(stem.with_name("rec_tracks.csv"), every, GEOMETRY)
    row = evaluate(folders)[0]["recordings"][0]
    # The same ways again and again: as fine as the grid of 6.25 and 7.5 um lets see.
    assert row["resolution_half_bit_um"] == pytest.approx(15.0, abs=2.0)
    assert row["resolution"]["half_bit"]["standard_deviation_um"] is not None


def test_maps_without_tables_keep_their_row(folders):
    write_case(folders, "rec", straight_tracks(3))
    result, table = evaluate(folders)
    row = result["recordings"][0]
    assert (row["dice"], row["dice_lambda_10"], row["dice_lambda_4"], row["centre_line_dice_lambda_10"]) == (1, 1, 1, 1)
    assert not {"localisations", "resolution", "saturation"} & set(row)
    assert row["gridding_index_db"] == pytest.approx(np.mean(row["gridding_index_per_axis_db"]))
    assert table[0]["localisation_f1_lambda_4"] == ""
    old = "scope,name,n_recordings,bubbles_per_psf_volume,bubbles_per_frame,bubbles_per_mm3,bubbles_per_mm2,n_frames"
    assert ",".join(table[0]).startswith(old + ",wavelength_mm,n_predicted_voxels,n_true_voxels,dice,precision,recall")


def test_two_dimensional_recordings_ignore_the_place_in_the_slice(folders):
    shape = (12, 1, 14)
    tracks = straight_tracks(5)
    tracks.position_voxel[:, 1] = 0.3
    stem = write_case(folders, "rec", tracks, shape=shape)
    found = as_localisations(tracks)
    found.position_voxel[:, 1] = -0.3
    save_localisations(stem, found)
    row = evaluate(folders)[0]["recordings"][0]
    assert row["localisation_f1_lambda_4"] == 1.0
    assert row["localisation_rmse_y_um"] == 0.0


def test_a_broken_table_is_one_line(folders):
    stem = write_case(folders, "rec", straight_tracks(3))
    stem.with_name("rec_localisations.csv").write_text("frame,x_mm,y_mm\n0,1,2\n")
    with pytest.raises(UserError, match="z_mm"):
        evaluate(folders)


def test_visits_pass_every_voxel_on_the_way_in_order():
    position = np.array([[1.0625, 2.0625, 3.0625], [1.5625, 2.0625, 3.0625], [4.0625, 4.0625, 4.0625]])
    tracks = Trajectories(
        np.array([3, 3, 8]), np.array([0.0, 2, 5]), position, np.full((3, 3), np.nan), np.full(3, np.nan)
    )
    voxel, track_id, frame = visits(tracks, GEOMETRY, GEOMETRY.refined((8, 8, 8)), (96, 104, 100))
    run = voxel[track_id == 3]
    assert np.unique(run[:, 0]).tolist() == [12, 13, 14, 15, 16]
    assert set(map(tuple, run[:, 1:].tolist())) == {(20, 28)}
    assert frame[track_id == 3].tolist() == np.linspace(0, 2, len(run)).tolist()
    assert voxel[track_id == 8].tolist() == [[36, 36, 36]]
    assert len(visits(tracks, GEOMETRY, GEOMETRY, (1, 1, 1))[0]) == 0


def test_plain_numbers_only():
    nested = {"a": [1.0, float("inf")], "b": {"c": float("nan")}, "d": "x", "e": (2, None)}
    assert plain(nested) == {"a": [1.0, None], "b": {"c": None}, "d": "x", "e": [2, None]}
