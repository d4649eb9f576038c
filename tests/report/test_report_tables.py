"""What the report computes from tables and maps."""

import base64
import gzip

import nibabel
import numpy as np
import pytest
from report_cases import GEOMETRY, SHAPE, two_tracks

from sparse_ulm.localisations import Trajectories
from sparse_ulm.mapping.sparse_map import SparseMap
from sparse_ulm.mapping.track_map import TrackMap
from sparse_ulm.report import volumes
from sparse_ulm.report.bubbles import first_visits_s, read_bubbles, read_tracks
from sparse_ulm.report.plots import per_frame
from sparse_ulm.report.scores import main_table, number_text
from sparse_ulm.report.volumes import ReadMap, join_voxels, read_map, viewer_volume


def test_lengths_and_speeds_of_two_tracks(run_folder):
    tracks = read_tracks(run_folder / "rec/rec_tracks.csv")
    assert tracks.lengths_frames().tolist() == [5.0, 7.0]
    np.testing.assert_allclose(tracks.mean_speeds_mm_s(), [0.5 * 0.09 * 500.0, 0.0], atol=1e-6)


def test_bubbles_are_counted_per_frame(run_folder):
    bubbles = read_bubbles(run_folder / "rec/rec_localisations.csv")
    middle, mean = per_frame(bubbles.frame, 10)
    assert middle.tolist() == list(range(10))
    assert mean.tolist() == [1, 1, 1, 2, 2, 1, 1, 1, 1, 1]
    np.testing.assert_allclose(bubbles.deviation_um[0], [10.0, 22.0, np.nan], atol=1e-3)


def test_long_recordings_are_averaged_over_spans():
    frame = np.repeat(np.arange(1000), 3)
    middle, mean = per_frame(np.r_[frame, 2000, -1], 1000)
    assert len(middle) == 400
    assert set(mean) == {3.0}
    assert (middle[0], middle[-1]) == (0.5, 998.0)  # spans of two or three frames


def test_a_table_without_rows_or_without_our_columns(tmp_path):
    (tmp_path / "a_tracks.csv").write_text("track_id,frame,time_s,x_mm,y_mm,z_mm\n")
    tracks = read_tracks(tmp_path / "a_tracks.csv")
    assert (len(tracks.first), len(tracks.lengths_frames()), len(tracks.mean_speeds_mm_s())) == (0, 0, 0)
    assert len(first_visits_s(tracks, GEOMETRY.affine_mm, SHAPE)) == 0
    (tmp_path / "b_tracks.csv").write_text("frame,track_id\n3,1\n1,1\n2,0\n")
    other = read_tracks(tmp_path / "b_tracks.csv")
    assert other.frame.tolist() == [2.0, 1.0, 3.0]
    assert len(other.mean_speeds_mm_s()) == 0
    assert read_tracks(tmp_path / "none_tracks.csv") is None


def test_first_visits_of_a_bubble_that_crosses_a_voxel_at_a_time(run_folder):
    tracks = read_tracks(run_folder / "rec/rec_tracks.csv")
    # Along z half an input voxel a frame: four sub-voxels a frame, the first at once, and the other track adds none.
    image = nibabel.load(run_folder / "rec/rec_density.nii.gz")
    visits = first_visits_s(tracks, image.affine, image.shape)
    assert len(visits) == 17
    np.testing.assert_allclose(visits[[0, 4, 8, 16]], np.array([0, 1, 2, 4]) / 500.0, atol=3e-4)


def test_as_many_voxels_are_visited_as_the_map_holds(run_folder):
    rng = np.random.default_rng(3)
    n = 300
    found = Trajectories(
        np.sort(rng.integers(0, 20, n)),
        np.arange(n, dtype=np.float64),
        rng.uniform(-1.5, np.array(SHAPE) + 0.5, (n, 3)),
        np.full((n, 3), np.nan),
        np.ones(n),
    )
    grid = GEOMETRY.refined((8, 8, 8))
    tracks = read_tracks(run_folder / "rec/rec_tracks.csv")
    tracks = type(tracks)(
        found.track_id, found.frame, found.frame / 500.0, GEOMETRY.to_scanner_m(found.position_voxel) * 1e3, np.ones(n)
    )
    fine = tuple(8 * size for size in SHAPE)
    density = TrackMap.of(found, GEOMETRY, SHAPE).density()
    assert len(first_visits_s(tracks, grid.affine_mm, fine)) == np.count_nonzero(density.values)


@pytest.mark.parametrize("factor", [(1, 1, 1), (2, 3, 4), (3, 1, 2)])
def test_joined_voxels_hold_the_largest_and_lie_amid_them(factor):
    rng = np.random.default_rng(5)
    volume = np.where(rng.uniform(size=(7, 6, 9)) < 0.1, rng.uniform(1, 9, (7, 6, 9)), 0).astype(np.float32)
    affine = nibabel.affines.from_matvec(rng.normal(size=(3, 3)), [1.0, -2.0, 3.0])
    joined = join_voxels(ReadMap(SparseMap.of(volume), affine), factor)
    whole = np.pad(volume, [(0, -size % step) for size, step in zip(volume.shape, factor, strict=True)])
    x, y, z = (size // step for size, step in zip(whole.shape, factor, strict=True))
    wanted = whole.reshape(x, factor[0], y, factor[1], z, factor[2]).max(axis=(1, 3, 5))
    np.testing.assert_array_equal(joined.values.dense(), wanted)
    corner = nibabel.affines.apply_affine(affine, np.argwhere(np.ones(factor))).mean(axis=0)
    np.testing.assert_allclose(joined.affine_mm[:3, 3], corner)
    np.testing.assert_allclose(joined.affine_mm[:3, :3], affine[:3, :3] * np.array(factor))


def unpack(volume):
    return nibabel.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(volume.base64)))


@pytest.mark.parametrize("limit", [1 << 23, 20000])
def test_the_viewer_s_map_is_the_density_turned_by_half_a_turn(run_folder, monkeypatch, limit):
    monkeypatch.setattr(volumes, "MAX_VIEWER_VOXELS", limit)
    density = read_map(run_folder / "rec/rec_density.nii.gz")
    volume = viewer_volume(density)
    image = unpack(volume)
    step = 1 if limit > 20000 else 2
    assert volume.factor == (step, step, step)
    assert image.shape == volume.shape == (40 // step, 48 // step, 56 // step)
    # Depth downwards, nothing mirrored: the turn keeps the hand of the axes.
    assert volume.is_turned
    np.testing.assert_allclose(np.linalg.det(image.affine), np.linalg.det(density.affine_mm) * step**3, rtol=1e-5)
    assert image.affine[2, 2] < 0
    index = np.argwhere(image.get_fdata() > 0)
    turned = nibabel.affines.apply_affine(image.affine, index) * [1, -1, -1]
    assert np.ptp(turned[:, 2]) == pytest.approx(2 * 0.09, abs=0.03)
    np.testing.assert_allclose(image.get_fdata().max() ** 3, 2.0, rtol=1e-6)
    assert volume.largest == pytest.approx(2 ** (1 / 3))
    # Both bubbles pass the second one's place of rest: voxel (2, 3, 3).
    at = np.array(volume.busiest_mm) * [1, -1, -1]
    rest = GEOMETRY.to_scanner_m(np.array([[2.0, 3.0, 3.0]]))[0] * 1e3
    assert np.abs(at - rest).max() < 0.02 * step


def test_a_map_whose_depth_runs_down_already_is_not_turned(run_folder):
    density = read_map(run_folder / "rec/rec_density.nii.gz")
    down = ReadMap(density.values, np.diag([1.0, 1.0, -1.0, 1.0]) @ density.affine_mm)
    volume = viewer_volume(down)
    assert not volume.is_turned
    np.testing.assert_allclose(unpack(volume).affine, down.affine_mm, atol=1e-5)


def test_maps_are_read_slab_by_slab_without_nan(tmp_path, monkeypatch):
    monkeypatch.setattr(volumes, "SLAB_BYTES", 4 * 5 * 6 * 2)
    rng = np.random.default_rng(2)
    speed = np.where(rng.uniform(size=(5, 6, 7)) < 0.2, rng.uniform(1, 2, (5, 6, 7)), np.nan).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(speed, np.eye(4)), tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_map(tmp_path / "a.nii.gz").values.dense(), np.nan_to_num(speed, nan=0.0))


def test_a_packed_map_is_unpacked_once(tmp_path, monkeypatch):
    """From its start for every slab, a map of 1024 x 1024 x 1024 voxels took minutes."""
    monkeypatch.setattr(volumes, "SLAB_BYTES", 4 * 5 * 6)
    dense = np.arange(5 * 6 * 40, dtype=np.float32).reshape(5, 6, 40)
    nibabel.save(nibabel.Nifti1Image(dense, np.eye(4)), tmp_path / "map.nii.gz")
    opened, open_stream = [], gzip.GzipFile.__init__
    monkeypatch.setattr(
        gzip.GzipFile, "__init__", lambda self, *args, **kwargs: opened.append(1) or open_stream(self, *args, **kwargs)
    )
    np.testing.assert_array_equal(read_map(tmp_path / "map.nii.gz").values.dense(), dense)
    assert len(opened) <= 3  # the header, and the samples


def test_main_scores_are_those_that_are_there():
    scores = {
        "recordings": [{"name": "a", "dice_lambda_10": 0.80591, "precision": 1.0}, {"name": "b"}, "no row"],
        "total": {"name": "all", "dice_lambda_10": 0.7, "saturation_t90_s": float("nan")},
    }
    headings, rows = main_table(scores)
    assert headings == ["recording", "Dice λ/10", "t90 (s)"]
    assert rows == [["a", "0.8059", "–"], ["b", "–", "–"], ["all", "0.7", "–"]]
    assert main_table({"recordings": 3, "total": []}) == ([], [])
    assert number_text(12671) == "12671"


def test_two_tracks_are_what_their_docstring_says():
    tracks = two_tracks()
    assert len(tracks) == 12
    assert np.ptp(tracks.position_voxel[:5, 2]) == 2.0
