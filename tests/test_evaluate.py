import csv
import json

import nibabel
import numpy as np
import pytest

from sparse_ulm.acquisition import Geometry
from sparse_ulm.errors import UserError
from sparse_ulm.evaluate import evaluate_folder
from sparse_ulm.evaluation_table import concentration_step
from sparse_ulm.io import save_map, save_recording

SHAPE = (5, 6, 7)
N_FRAMES = 4
GEOMETRY = Geometry.from_voxel_size(  # λ is 100 um: voxels of λ/2, λ/2 and 0.6 λ, sub-voxels of 6.25 and 7.5 um
    (5e-5, 5e-5, 6e-5),
    (-1e-4, 3e-4, 5e-3),
    frame_rate_hz=1000.0,
    transmit_frequency_hz=15e6,
    sound_speed_m_s=1500.0,
)
# One bubble that runs along x through sub-voxels 12 to 20 of row (20, 28), in three of four frames.
TRACK_VOXEL = np.array([[1.0625, 2.0625, 3.0625], [1.5625, 2.0625, 3.0625], [2.0625, 2.0625, 3.0625]])


def write_recording(folder, name, tracks, *, shape=SHAPE, n_frames=N_FRAMES, geometry=GEOMETRY):
    """Write a recording of silence and the truth of its tracks, in scanner millimetres."""
    folder.mkdir(exist_ok=True)
    save_recording(folder / f"{name}.npz", np.zeros((*shape, n_frames), np.complex64), geometry)
    lines = ["track_id,frame,time_s,x_mm,y_mm,z_mm,amplitude"]
    for track_id, positions in enumerate(tracks):
        for frame, position in enumerate(geometry.to_scanner_m(positions) * 1e3):
            lines.append(f"{track_id},{frame},{frame / 1000},{','.join(map(repr, position.tolist()))},1")
    (folder / f"{name}_truth.csv").write_text("\n".join(lines) + "\n")


def write_map(folder, name, voxels, *, factor=(8, 8, 8), shape=SHAPE, geometry=GEOMETRY):
    """Write a map with the value 2 at some voxels of the refined grid."""
    density = np.zeros(np.multiply(shape, factor), np.float32)
    density[tuple(np.asarray(voxels, dtype=int).reshape(-1, 3).T)] = 2
    save_map(folder / name / f"{name}_density.nii.gz", density, geometry.refined(factor))


def run_voxels(shift=(0, 0, 0)):
    """Voxels of the true run, moved."""
    return np.array([[x, 20, 28] for x in range(12, 21)]) + np.array(shift)


@pytest.fixture
def folders(tmp_path):
    """Folders of maps, recordings and results."""
    return tmp_path / "maps", tmp_path / "data", tmp_path / "scores"


def evaluate(folders, **options):
    """Evaluate and read both files back."""
    path = evaluate_folder(*folders, **options)
    with (folders[2] / "metrics.csv").open() as file:
        return json.loads(path.read_text()), list(csv.DictReader(file))


def test_a_perfect_map_and_one_that_is_a_subvoxel_aside(folders):
    for name, shift in (("exact", (0, 0, 0)), ("aside", (0, 1, 0)), ("far", (0, 2, 0))):
        write_recording(folders[1], name, [TRACK_VOXEL])
        write_map(folders[0], name, run_voxels(shift))
    result, table = evaluate(folders)
    rows = {row["name"]: row for row in result["recordings"]}
    assert (rows["exact"]["dice"], rows["exact"]["dice_lambda_10"]) == (1.0, 1.0)
    assert (rows["aside"]["dice"], rows["aside"]["dice_lambda_10"]) == (0.0, 1.0)  # 6.25 um of 10 um
    assert (rows["far"]["dice"], rows["far"]["dice_lambda_10"]) == (0.0, 0.0)  # 12.5 um
    assert rows["exact"]["n_predicted_voxels"] == rows["exact"]["n_true_voxels"] == 9
    assert rows["exact"]["wavelength_mm"] == pytest.approx(0.1)
    assert result["total"]["dice"] == pytest.approx(1 / 3)
    assert result["total"]["dice_lambda_10"] == pytest.approx(2 / 3)
    spread = result["total"]["over_recordings"]["dice"]
    assert spread == pytest.approx({"mean": 1 / 3, "standard_deviation": 3**-0.5})
    assert [row["scope"] for row in table] == ["recording"] * 3 + ["concentration", "total"]
    assert float(table[-1]["dice_lambda_10"]) == pytest.approx(2 / 3)


def test_pooled_scores_add_voxels_and_not_scores(folders):
    write_recording(folders[1], "long", [TRACK_VOXEL])
    write_map(folders[0], "long", run_voxels())  # 9 of 9
    write_recording(folders[1], "short", [TRACK_VOXEL[:1]])
    write_map(folders[0], "short", [[0, 0, 0]])  # 0 of 1
    total = evaluate(folders)[0]["total"]
    assert total["dice"] == pytest.approx(2 * 9 / (10 + 10))
    assert total["n_recordings"] == 2
    assert total["n_frames"] == 8


def test_concentration_counts_bubbles_in_the_field_of_view(folders):
    outside = np.array([[9.0, 0.0, 0.0]] * 4)
    edge = np.array([[-0.49, -0.49, -0.49], [4.49, 5.49, 6.49], [4.5, 0.0, 0.0], [0.0, 0.0, 0.0]])
    write_recording(folders[1], "rec", [TRACK_VOXEL, outside, edge])
    write_map(folders[0], "rec", run_voxels())
    row = evaluate(folders)[0]["recordings"][0]
    # 3 + 3 bubbles in 4 frames, in 0.25 x 0.3 x 0.42 mm.
    assert row["bubbles_per_frame"] == pytest.approx(1.5)
    assert row["bubbles_per_mm3"] == pytest.approx(1.5 / (0.25 * 0.3 * 0.42))
    assert row["bubbles_per_mm2"] is None


def test_two_dimensional_recordings_count_per_area(folders):
    flat = (5, 1, 7)
    track = TRACK_VOXEL * [1, 0, 1]
    write_recording(folders[1], "flat", [track], shape=flat)
    write_map(folders[0], "flat", run_voxels() * [1, 0, 1], factor=(8, 1, 8), shape=flat)
    row = evaluate(folders)[0]["recordings"][0]
    assert row["dice"] == 1.0
    assert row["bubbles_per_mm3"] is None
    assert row["bubbles_per_mm2"] == pytest.approx(0.75 / (0.25 * 0.42))


def test_maps_on_any_grid_are_scored_in_scanner_space(folders):
    write_recording(folders[1], "rec", [TRACK_VOXEL])
    fine = GEOMETRY.refined((8, 8, 8))
    matrix = fine.matrix_m
    matrix[:3, 3] = fine.to_scanner_m(np.array([[10.0, 19.0, 20.0]]))[0]  # cropped: starts at voxel (10, 19, 20)
    cropped = Geometry(tuple(map(tuple, matrix.tolist())), 1000.0, 15e6, 1500.0)
    density = np.zeros((20, 4, 11), np.float32)
    density[2:11, 1, 8] = 1
    save_map(folders[0] / "rec" / "rec_density.nii.gz", density, cropped)
    assert evaluate(folders)[0]["recordings"][0]["dice"] == 1.0
    image = nibabel.Nifti1Image(density, np.diag([1e-3, 1e-3, 1e-3, 1]) @ cropped.affine_mm)
    image.header.set_xyzt_units("meter", "sec")
    nibabel.save(image, folders[0] / "rec" / "rec_density.nii.gz")
    assert evaluate(folders)[0]["recordings"][0]["dice"] == 1.0


def test_the_threshold_is_on_the_density(folders):
    write_recording(folders[1], "rec", [TRACK_VOXEL])
    write_map(folders[0], "rec", run_voxels())
    assert evaluate(folders, density_threshold=1.9)[0]["recordings"][0]["dice"] == 1.0
    result = evaluate(folders, density_threshold=2.0)[0]
    assert result["recordings"][0]["n_predicted_voxels"] == 0
    assert result["recordings"][0]["dice"] == 0.0
    assert result["density_threshold"] == 2.0


def test_groups_follow_the_simulated_concentration(folders):
    values = {"a": 0.05, "b": 0.09, "c": 0.3}
    for name in values:
        write_recording(folders[1], name, [TRACK_VOXEL])
        write_map(folders[0], name, run_voxels())
    rows = [{"name": name, "bubbles_per_psf_volume": value} for name, value in values.items()]
    (folders[1] / "simulation.json").write_text(json.dumps({"recordings": rows}))
    write_recording(folders[1], "d", [TRACK_VOXEL])
    result, table = evaluate(folders)
    assert [(g["name"], g["n_recordings"]) for g in result["by_concentration"]] == [
        ("0.05 <= bubbles_per_psf_volume < 0.1", 2),
        ("0.2 <= bubbles_per_psf_volume < 0.5", 1),
    ]
    assert result["by_concentration"][0]["bubbles_per_psf_volume"] == pytest.approx(0.07)
    assert result["recordings_without_map"] == ["d"]
    assert [row["bubbles_per_psf_volume"] for row in table[:3]] == ["0.05", "0.09", "0.3"]


def test_without_a_summary_groups_follow_the_truth(folders):
    for name, n_tracks in (("thin", 1), ("thick", 12)):
        write_recording(folders[1], name, [TRACK_VOXEL] * n_tracks)
        write_map(folders[0], name, run_voxels())
    names = [group["name"] for group in evaluate(folders)[0]["by_concentration"]]
    assert names == ["20 <= bubbles_per_mm3 < 50", "200 <= bubbles_per_mm3 < 500"]  # 23.8 and 286


@pytest.mark.parametrize(
    ("value", "step"),
    [(0.0, (0, 0)), (1.0, (1, 2)), (9.99, (5, 10)), (10.0, (10, 20)), (0.02, (0.02, 0.05)), (4999.0, (2000, 5000))],
)
def test_concentration_steps(value, step):
    assert concentration_step(value) == step


def test_missing_truth_names_every_map_that_lacks_it(folders):
    for name in ("good", "bare", "gone"):
        write_recording(folders[1], name, [TRACK_VOXEL])
        write_map(folders[0], name, run_voxels())
    (folders[1] / "bare_truth.csv").unlink()
    for file in folders[1].glob("gone*"):
        file.unlink()
    with pytest.raises(UserError, match=r"2 of 3 maps have no truth: bare .*gone \(no such recording\)") as error:
        evaluate(folders)
    assert "good (" not in str(error.value)
    assert "\n" not in str(error.value)
    assert not folders[2].exists()


def test_bad_folders_and_files_are_one_line(folders):
    write_recording(folders[1], "rec", [TRACK_VOXEL])
    with pytest.raises(UserError, match="holds no NAME"):
        evaluate(folders)
    path = folders[0] / "rec" / "rec_density.nii.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not a map")
    with pytest.raises(UserError, match="cannot be read as NIfTI"):
        evaluate(folders)
    nibabel.save(nibabel.Nifti1Image(np.zeros((5, 6, 7, 2), np.float32), np.eye(4)), path)
    with pytest.raises(UserError, match="no 3D NIfTI map"):
        evaluate(folders)
    write_map(folders[0], "rec", run_voxels())
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="cannot be read as NIfTI"):
        evaluate(folders)
    write_map(folders[0], "rec", run_voxels())
    (folders[1] / "simulation.json").write_text('{"recordings": 3}')
    with pytest.raises(UserError, match="no summary of a simulation"):
        evaluate(folders)


def test_geometry_can_be_stated_where_the_file_does_not_hold_it(folders):
    write_recording(folders[1], "rec", [TRACK_VOXEL])
    write_map(folders[0], "rec", run_voxels())
    sidecar = folders[1] / "rec.json"
    statement = json.loads(sidecar.read_text())
    del statement["BeamformingSoundVelocity"]
    sidecar.write_text(json.dumps(statement))
    with pytest.raises(UserError):
        evaluate(folders, geometry={"sound_speed_m_s": None})
    assert evaluate(folders, geometry={"sound_speed_m_s": 1500.0})[0]["total"]["dice"] == 1.0
