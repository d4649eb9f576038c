"""configs/inference.yaml from recordings to maps, in one process."""

import json

import nibabel
import numpy as np
import pytest
from bundle_runs import GEOMETRY, SHAPE, blob_frames, infer, save_untrained

from sparse_ulm.io import save_recording


def read(path):
    image = nibabel.load(path)
    return np.asarray(image.dataobj), image.affine


def test_four_formats_of_one_recording_give_the_same_map(tmp_path, weights):
    folder, frames = tmp_path / "in", blob_frames()
    for name, version in (("a.nii.gz", "5"), ("b.npz", "5"), ("c.mat", "5"), ("d.mat", "7.3")):
        save_recording(folder / name, frames, GEOMETRY, matlab_version=version)
    infer(folder, tmp_path / "out", weights)
    maps = {name: read(tmp_path / f"out/{name}/{name}_probability.nii.gz") for name in "abcd"}
    reference, affine = maps["a"]
    assert reference.shape == tuple(8 * size for size in SHAPE[:3])
    assert 0 < (reference > 1.0e-3).sum() < reference.size
    assert len(np.unique(reference)) > 100
    for data, other_affine in maps.values():
        np.testing.assert_array_equal(data, reference)
        np.testing.assert_array_equal(other_affine, affine)


def test_two_runs_give_identical_bits(tmp_path, recording, weights):
    for name in ("one", "two"):
        infer(recording, tmp_path / name, weights)
    for file in ("blob_density.nii.gz", "blob_probability.nii.gz"):
        (first, _), (second, _) = (read(tmp_path / name / "blob" / file) for name in ("one", "two"))
        assert first.any()
        np.testing.assert_array_equal(first, second)


def test_a_folder_of_outputs_is_as_the_design_says(tmp_path, recording, weights):
    infer(recording / "blob.npz", tmp_path, weights)
    names = sorted(path.name for path in (tmp_path / "blob").iterdir())
    assert names == ["blob_density.nii.gz", "blob_density.png", "blob_probability.nii.gz", "provenance.json"]
    density, affine = read(tmp_path / "blob/blob_density.nii.gz")
    assert set(np.unique(density)) <= {0.0, 1.0, 2.0}  # two blocks: 32 frames and 8
    assert density.max() == 2.0
    # First sub-voxel's centre: 7/16 of a voxel before the first voxel's, on each axis.
    np.testing.assert_allclose(
        affine[:3, 3], np.array([-1.0, 2.0, 5.0]) - 7 / 16 * np.array([0.10, 0.11, 0.09]), atol=1e-6
    )
    np.testing.assert_allclose(np.diag(affine)[:3], np.array([0.10, 0.11, 0.09]) / 8, rtol=1e-6)
    provenance = json.loads((tmp_path / "blob/provenance.json").read_text())
    assert provenance["config"]["encoder_widths"] == [4, 5, 6]
    assert provenance["inputs"][0]["path"].endswith("blob.npz")


def test_a_recording_shorter_than_a_block_works(tmp_path, weights):
    save_recording(tmp_path / "in/short.npz", blob_frames((6, 7, 8, 5)), GEOMETRY)
    infer(tmp_path / "in", tmp_path / "out", weights, block_frames=128)
    density, _ = read(tmp_path / "out/short/short_density.nii.gz")
    assert density.max() == 1.0


def test_no_site_above_threshold_gives_an_empty_map_and_a_warning(tmp_path, weights):
    save_recording(tmp_path / "in/quiet.npz", blob_frames((6, 7, 8, 33), noise=1.0), GEOMETRY)
    with pytest.warns(UserWarning, match="quiet: no voxel above the thresholds in 2 blocks; its map is empty"):
        infer(tmp_path / "in", tmp_path / "out", weights, noise_factor=1.0e6)
    density, _ = read(tmp_path / "out/quiet/quiet_density.nii.gz")
    assert density.shape == (48, 56, 64)
    assert not density.any()


def test_a_2d_recording_is_refined_in_its_plane_only(tmp_path):
    flat = save_untrained(tmp_path / "flat.pt", spatial_dims=2)
    save_recording(tmp_path / "in/plane.npz", blob_frames((6, 1, 8, 32)), GEOMETRY)
    infer(tmp_path / "in", tmp_path / "out", flat, spatial_dims=2)
    density, affine = read(tmp_path / "out/plane/plane_density.nii.gz")
    assert density.shape == (48, 1, 64)
    assert density.any()
    assert affine[1, 3] == pytest.approx(2.0)


def test_recordings_with_and_without_sites_share_a_run(tmp_path, weights):
    """A folder is not lost to its one empty recording."""
    save_recording(tmp_path / "in/a_empty.npz", np.zeros((5, 6, 7, 8), np.complex64), GEOMETRY)
    save_recording(tmp_path / "in/b_full.npz", blob_frames(), GEOMETRY)
    with pytest.warns(UserWarning, match="a_empty"):
        infer(tmp_path / "in", tmp_path / "out", weights)
    assert not read(tmp_path / "out/a_empty/a_empty_density.nii.gz")[0].any()
    assert read(tmp_path / "out/b_full/b_full_density.nii.gz")[0].any()
