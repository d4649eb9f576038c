"""configs/classical.yaml from recordings to maps and tracks."""

import json
from dataclasses import fields

import jaxtyping
import nibabel
import numpy as np
import pytest
import yaml
from bundle_runs import GEOMETRY, ROOT, blob_frames, run_config

from sparse_ulm.acquisition import Geometry
from sparse_ulm.classical.pipeline import Recorded
from sparse_ulm.classical.presets import Preset
from sparse_ulm.clutter import ClutterFilter
from sparse_ulm.io import open_recording, read_truth, save_recording
from sparse_ulm.io.tables import read_localisations, read_tracks
from sparse_ulm.mapping.truth_map import trajectory_voxels
from sparse_ulm.metrics import map_scores
from sparse_ulm.workflow import find_user_error

FILES = [
    "axial_velocity.nii.gz", "axial_velocity.png", "counts.nii.gz", "density.nii.gz", "density.png",
    "localisations.csv", "speed.nii.gz", "tracks.csv", "tracks.trk", "uncertainty.nii.gz", "velocity.nii.gz",
]  # fmt: skip
EASY = {"min_length": 5, "n_threads": 1, "block_frames": 16}


def track(dataset_dir, output_dir, **options):
    """Run classical.yaml in this process, in several blocks."""
    return run_config("classical.yaml", dataset_dir=dataset_dir, output_dir=output_dir, **(EASY | options))


def read(folder, name, kind):
    image = nibabel.load(folder / name / f"{name}_{kind}.nii.gz")
    return np.asarray(image.dataobj), image


def moving_point(shape, geometry, start_m, velocity_m_s, *, n_frames, noise=0.01, seed=0):
    """A Gaussian bubble of 2 x 2 x 1.1 wavelengths that moves in scanner space, and its positions."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1).reshape(-1, 3)
    centres_m = geometry.to_scanner_m(index.astype(float))
    width_m = np.array([2.0, 2.0, 1.1]) * geometry.wavelength_m / 2.3548
    path_m = start_m + np.arange(n_frames)[:, None] / geometry.frame_rate_hz * velocity_m_s
    rng = np.random.default_rng(seed)
    axes = geometry.matrix_m[:3, :3] / geometry.voxel_size_m
    frames = [np.exp(-0.5 * (((centres_m - at) @ axes / width_m) ** 2).sum(axis=1)) for at in path_m]
    iq = np.stack(frames, axis=-1).reshape(*shape, n_frames) * np.exp(0.4j)
    iq = iq + noise * (rng.normal(size=iq.shape) + 1j * rng.normal(size=iq.shape))
    return iq.astype(np.complex64), path_m


def turned_geometry():
    """Axes of unequal steps, turned in two planes and shifted."""
    a, b = np.radians([25.0, -40.0])
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    turn = turn @ np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([0.10e-3, 0.11e-3, 0.06e-3])
    affine[:3, 3] = [-3.1e-3, 2.7e-3, 9.4e-3]
    return Geometry(tuple(map(tuple, affine.tolist())), 500.0, 8.0e6, 1540.0)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """A folder of one simulated recording with its truth, at a low concentration."""
    folder = tmp_path_factory.mktemp("simulated")
    run_config(
        "simulate.yaml", output_dir=folder, n_recordings=1, grid_size=[16, 17, 18], n_frames=64, seed=11,
        bubbles_per_psf_volume=0.02, side_lobe_share=0.0, snr_db=25.0, format="npz",
    )  # fmt: skip
    return folder


def test_the_map_of_a_simulated_recording_agrees_with_its_truth(simulated, tmp_path):
    track(simulated, tmp_path)
    name = "simulated_0000"
    assert sorted(p.name for p in (tmp_path / name).iterdir()) == ["provenance.json", *(f"{name}_{f}" for f in FILES)]
    recording = open_recording(simulated / f"{name}.npz")
    truth = read_truth(simulated / f"{name}_truth.csv", recording.geometry)
    density, _ = read(tmp_path, name, "density")
    true = trajectory_voxels(
        truth.position_voxel, truth.track_id, truth.frame, factor=(8, 8, 8), shape=density.shape, stop=64
    )
    fine = recording.geometry.refined((8, 8, 8))
    scores = map_scores(np.argwhere(density > 0), true, fine, recording.geometry.wavelength_m)
    assert scores["dice_lambda_10"] > 0.6, scores
    tracks = read_tracks(tmp_path / name / f"{name}_tracks.csv", recording.geometry)
    found = read_localisations(tmp_path / name / f"{name}_localisations.csv", recording.geometry)
    assert density.max() <= len(set(tracks.track_id)) > 5
    assert np.bincount(tracks.track_id).max() > EASY["block_frames"]  # tracks run on over the blocks' edges
    assert len(found) > 0.5 * len(tracks)
    assert np.isfinite(found.deviation_voxel).all()
    provenance = json.loads((tmp_path / name / "provenance.json").read_text())
    assert (provenance["config"]["preset"], provenance["config"]["min_length"]) == ("gaussian_kalman", 5)
    assert provenance["config"]["track_formats"] == ["csv", "trk"]
    counts, _ = read(tmp_path, name, "counts")
    upper = np.array(recording.shape[:3]) - 0.5
    inside = ((tracks.position_voxel >= -0.5) & (tracks.position_voxel < upper)).all(axis=1)
    assert counts.sum() == inside.sum()
    assert not counts[density == 0].any()
    uncertainty, _ = read(tmp_path, name, "uncertainty")
    # Isolated bubbles of 25 dB are found to some micrometres; gaps that were filled have none.
    assert 0.0002 < np.nanmedian(uncertainty) < 0.02
    assert np.isnan(uncertainty[counts == 0]).all()
    axial, _ = read(tmp_path, name, "axial_velocity")
    vectors, _ = read(tmp_path, name, "velocity")
    depth = recording.geometry.matrix_m[:3, 2] / recording.geometry.voxel_size_m[2]
    np.testing.assert_allclose(axial, vectors[:, :, :, 0] @ depth, atol=1e-4)
    assert provenance["weights"] is None


@pytest.mark.parametrize("preset", ["gaussian_kalman", "pala_rat"])
def test_a_moving_point_lands_where_it_was_with_its_velocity(tmp_path, preset):
    """From scanner metres to IQ, through the whole pipeline, to scanner millimetres of map, tracks and velocity."""
    geometry, velocity = turned_geometry(), np.array([6.0e-3, -4.0e-3, 3.0e-3])
    start_m = geometry.to_scanner_m(np.array([[7.3, 7.8, 9.1]]))[0]
    frames, path_m = moving_point((15, 16, 20), geometry, start_m, velocity, n_frames=40)
    save_recording(tmp_path / "in/point.nii.gz", frames, geometry)
    # Presets that keep a number of maxima per frame would keep noise beside the one bubble.
    track(tmp_path / "in", tmp_path / "out", preset=preset, n_brightest=1)
    density, image = read(tmp_path / "out", "point", "density")
    speed, _ = read(tmp_path / "out", "point", "speed")
    vectors, vector_image = read(tmp_path / "out", "point", "velocity")
    voxels = np.argwhere(density > 0)
    assert len(voxels) > 10
    assert set(np.unique(density)) == {0.0, 1.0}
    centres_m = nibabel.affines.apply_affine(image.affine, voxels) * 1e-3
    along = velocity / np.linalg.norm(velocity)
    from_line = (centres_m - start_m) - ((centres_m - start_m) @ along)[:, None] * along
    # A sub-voxel's corner is 10 um from its centre; the localisation of this noise adds a few.
    assert np.linalg.norm(from_line, axis=1).max() < 0.02e-3
    ends = np.sort((centres_m - start_m) @ along)[[0, -1]]
    np.testing.assert_allclose(ends, [0, np.linalg.norm(path_m[-1] - start_m)], atol=0.03e-3)
    seen = tuple(voxels.T)
    assert np.median(speed[seen]) == pytest.approx(1e3 * np.linalg.norm(velocity), rel=0.05)
    np.testing.assert_allclose(np.median(vectors[:, :, :, 0][seen], axis=0), 1e3 * velocity, atol=0.5)
    assert np.isnan(speed[density == 0]).all()
    assert vectors.shape == (*density.shape, 1, 3)
    assert vector_image.header["intent_code"] == 1007
    tracks = read_tracks(tmp_path / "out/point/point_tracks.csv", geometry)
    assert set(tracks.track_id) == {0}
    np.testing.assert_allclose(
        geometry.to_scanner_m(tracks.position_voxel), path_m[tracks.frame.astype(int)], atol=2e-5
    )


def test_a_2d_recording_of_few_frames(tmp_path):
    frames = blob_frames((12, 1, 14, 7), noise=0.01)
    save_recording(tmp_path / "in/plane.npz", frames, GEOMETRY)
    track(tmp_path / "in", tmp_path / "out", block_frames=128)
    density, image = read(tmp_path / "out", "plane", "density")
    vectors, _ = read(tmp_path / "out", "plane", "velocity")
    assert density.shape == (96, 1, 112)
    assert density.any()
    assert image.affine[1, 3] == pytest.approx(2.0)
    moved = vectors[:, 0, :, 0][density[:, 0] > 0]
    assert np.median(moved[:, 0]) == pytest.approx(0.08 * 0.10 * 500, rel=0.2)
    assert np.median(moved[:, 2]) == pytest.approx(-0.1 * 0.09 * 500, rel=0.2)
    np.testing.assert_allclose(moved[:, 1], 0, atol=1e-6)


def test_no_bubble_is_an_empty_map_and_a_warning(tmp_path):
    save_recording(tmp_path / "in/a_empty.npz", np.zeros((5, 6, 7, 8), np.complex64), GEOMETRY)
    save_recording(tmp_path / "in/b_full.npz", blob_frames(), GEOMETRY)
    with pytest.warns(UserWarning, match="a_empty: no track among 0 localisations; its map is empty"):
        track(tmp_path / "in", tmp_path / "out")
    assert not read(tmp_path / "out", "a_empty", "density")[0].any()
    assert (tmp_path / "out/a_empty/a_empty_tracks.csv").read_text().count("\n") == 1
    density, image = read(tmp_path / "out", "b_full", "density")
    assert density.any()
    # The grid is that of inference.yaml: its first centre lies 7/16 of a voxel before the recording's.
    assert density.shape == (48, 56, 64)
    step = np.array([0.10, 0.11, 0.09])
    np.testing.assert_allclose(image.affine[:3, 3], np.array([-1.0, 2.0, 5.0]) - 7 / 16 * step, atol=1e-6)
    np.testing.assert_allclose(np.diag(image.affine)[:3], step / 8, rtol=1e-6)


def test_every_setting_of_a_preset_can_be_changed_in_the_config():
    config = yaml.safe_load((ROOT / "configs/classical.yaml").read_text())
    [run] = config["run"]
    assert set(run["settings"]) == {field.name for field in fields(Preset)}
    assert set(run["recorded"]) == {field.name for field in fields(Recorded)}
    for key, value in (run["settings"] | run["recorded"]).items():
        assert value == f"@{key}"
    assert all(config[key] is None for key in run["settings"])
    assert_every_clutter_setting(config, run["clutter"])


def test_every_setting_of_the_clutter_filter_can_be_changed_in_inference_too():
    config = yaml.safe_load((ROOT / "configs/inference.yaml").read_text())
    assert_every_clutter_setting(config, config["clutter"])


def assert_every_clutter_setting(config, clutter):
    for name in (field.name for field in fields(ClutterFilter)):
        key = f"clutter_{name}" if name in ("window_frames", "overlap_frames") else name
        assert clutter[name] == f"@{key}"
        assert config[key] == getattr(ClutterFilter(), name)
    assert len(clutter) == len(fields(ClutterFilter))


def mistake_of(*arguments, **options):
    with pytest.raises(Exception) as caught:  # MONAI wraps errors of configs in its own
        track(*arguments, **options)
    mistake = find_user_error(caught.value)
    assert mistake is not None, caught.value
    return str(mistake)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"preset": "best"}, "preset is 'best'"),
        ({"maps": ["speed", "power"]}, "maps names 'power'"),
        ({"track_formats": ["trx"]}, "track_formats names 'trx'"),
        ({"localisation": "guess"}, "method is 'guess'"),
        ({"linking": "guess"}, "linking is 'guess'"),
        ({"max_speed_m_s": 0.0}, "max_speed_m_s is 0.0"),
        ({"min_length": 0}, "min_length 0"),
        ({"smooth_span": 0}, "smooth_span is 0"),
        ({"band_pass_hz": [50.0, 300.0]}, "band_pass_hz is"),
        ({"band_pass_hz": [50.0]}, "band_pass_hz is [50.0]; wanted [lowest, highest]"),
        ({"n_tissue_components": 99}, "n_tissue_components is 99"),
        ({"n_tissue_components": "all"}, "n_tissue_components is 'all'"),
        ({"n_tissue_components": 1, "tissue_below_hz": 9.0}, "both say how much is tissue"),
        ({"tissue_energy_share": 1.0}, "tissue_energy_share is 1.0"),
        ({"tissue_below_hz": 249.0}, "tissue_below_hz is 249.0, but no component"),
        ({"clutter_window_frames": 0}, "clutter windows of 0 frames"),
        ({"block_frames": 0}, "block_frames is 0"),
        ({"noise_measure": "guess"}, "noise_measure is 'guess'"),
        ({"psf_fwhm_wavelengths": [0.0, 1.0, 1.0]}, "psf_fwhm_wavelengths is"),
    ],
)
def test_an_impossible_option_is_one_line(tmp_path, recording, options, words, monkeypatch):
    # As for users: the type checks of the tests would come first.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    line = mistake_of(recording, tmp_path / "out", **options)
    assert words in line
    assert "\n" not in line
    assert not (tmp_path / "out").exists()


def test_bad_recordings_are_one_line_and_good_ones_are_done(tmp_path, recording):
    frames = blob_frames()
    frames[2, 3, 4, 35] = np.nan
    save_recording(tmp_path / "in/bad.npz", frames, GEOMETRY)
    save_recording(tmp_path / "in/a_good.npz", blob_frames(), GEOMETRY)
    assert "1 NaN or infinite samples in frames 32:40" in mistake_of(tmp_path / "in", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a_good", "manifest.json", "summary.csv"}
    assert len(list((tmp_path / "out/a_good").iterdir())) == len(FILES) + 1
    assert "does not exist" in mistake_of(tmp_path / "absent", tmp_path / "out")
    (tmp_path / "file").write_text("mine")
    assert "is a file; wanted a folder" in mistake_of(recording, tmp_path / "file")
