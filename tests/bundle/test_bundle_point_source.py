"""A point at a known place in scanner space lands in the right voxel of the written map, for every reader."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
import torch

from sparse_ulm.acquisition import Acquisition, Geometry, as_rows
from sparse_ulm.batch import run_recordings
from sparse_ulm.batching import split_output
from sparse_ulm.blocks import RecordingBlocks
from sparse_ulm.io import open_recording, save_recording
from sparse_ulm.io.truth import read_truth, write_truth
from sparse_ulm.map_writer import MapWriter
from sparse_ulm.mapping.truth_map import trajectory_voxels
from sparse_ulm.networks.trajectory_map import TrajectoryMapOutput
from sparse_ulm.simulation import Tracks
from sparse_ulm.sparse import SparseTensor

SHAPE = (5, 6, 7, 8)
STEP_M = np.array([0.10e-3, 0.23e-3, 0.07e-3])
ORIGIN_M = np.array([-3.1e-3, 2.7e-3, 9.4e-3])
SUBVOXEL = {"3D": (8, 8, 8), "2D": (8, 1, 8)}


def rotation(degrees_x, degrees_y, degrees_z):
    """Turn about x, then y, then z."""
    (cx, sx), (cy, sy), (cz, sz) = ((np.cos(a), np.sin(a)) for a in np.radians([degrees_x, degrees_y, degrees_z]))
    return (
        np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
        @ np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        @ np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    )


def make_geometry(turn):
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(STEP_M)
    affine[:3, 3] = ORIGIN_M
    return Geometry(as_rows(affine), 500.0, 8.0e6, 1540.0)


def answer_of(index, shape, upsampling):
    """What a network answers that saw one bubble in one voxel of the refined grid, and is sure of it."""
    sizes = [size * factor for size, factor in zip(shape[:3], upsampling, strict=True)]
    coords = torch.tensor([[0, *index, 0]], dtype=torch.int32)
    logits = SparseTensor(coords, torch.full((1, 1), 9.0), spatial_range=(1, *sizes, 1))
    return TrajectoryMapOutput((), logits)


def write_map(recording: Acquisition, index, upsampling, folder: Path) -> Path:
    """Write the map of a recording of one block through the handler that inference.yaml uses."""
    folder.mkdir()
    weights = folder / "weights.pt"
    weights.write_bytes(b"none were needed")
    writer = MapWriter(threshold=0.5, upsampling=upsampling, provenance={}, weights=weights)
    table = split_output(answer_of(index, recording.shape, upsampling), 1)[0]

    def compute(store):
        store.save(0, writer.result_of(table, {"shape": recording.shape[:3], "core": (0, recording.n_frames)}))

    blocks = RecordingBlocks(recording.path, block_frames=recording.n_frames)
    run_recordings(blocks, writer, compute, output_dir=folder)
    return folder / recording.name / f"{recording.name}_density.nii.gz"


def centres_mm(path):
    """Where the one visited voxel's centre lies, in RAS millimetres, by nibabel and by SimpleITK."""
    image = nibabel.load(path)
    [index] = np.argwhere(np.asarray(image.dataobj) > 0)
    by_nibabel = nibabel.affines.apply_affine(image.affine, index)
    itk = SimpleITK.ReadImage(str(path))
    [zyx] = np.argwhere(SimpleITK.GetArrayFromImage(itk) > 0)
    lps = np.array(itk.TransformIndexToPhysicalPoint([int(i) for i in zyx[::-1]]))
    return by_nibabel, lps * [-1, -1, 1]


@pytest.mark.parametrize("turn", [(0, 0, 0), (20, -35, 50)], ids=["aligned", "rotated"])
@pytest.mark.parametrize("dims", ["3D", "2D"])
def test_point_lands_in_its_voxel_on_all_axes(tmp_path, turn, dims):
    upsampling = SUBVOXEL[dims]
    shape = SHAPE if dims == "3D" else (5, 1, 7, 8)
    geometry = make_geometry(rotation(*turn))
    save_recording(tmp_path / "point.nii.gz", np.ones(shape, np.complex64), geometry)
    recording = open_recording(tmp_path / "point.nii.gz")
    # A point in scanner space, off every voxel's centre, by plain geometry: rotation, steps and origin.
    place_voxel = np.array([3.31, 4.77, 5.18]) if dims == "3D" else np.array([3.31, 0.0, 5.18])
    point_mm = 1.0e3 * (ORIGIN_M + rotation(*turn) @ (place_voxel * STEP_M))

    place = recording.geometry.to_voxel(point_mm[None] * 1.0e-3)[0]  # by what the file says, not by what we know
    index = np.floor((place + 0.5) * upsampling).astype(int)
    path = write_map(recording, index, upsampling, tmp_path / "out")
    half_mm = 0.5e3 * STEP_M / np.array(upsampling)
    for centre_mm in centres_mm(path):
        along_axes_mm = rotation(*turn).T @ (centre_mm - point_mm)
        assert (np.abs(along_axes_mm) <= half_mm * (1 + 1e-4)).all(), along_axes_mm / half_mm


def test_true_map_marks_the_same_voxel(tmp_path):
    """The way from a truth in millimetres to the voxels that training and scores use."""
    geometry = make_geometry(rotation(20, -35, 50))
    save_recording(tmp_path / "point.nii.gz", np.ones(SHAPE, np.complex64), geometry)
    recording = open_recording(tmp_path / "point.nii.gz")
    point_m = ORIGIN_M + rotation(20, -35, 50) @ (np.array([3.31, 4.77, 5.18]) * STEP_M)
    tracks = Tracks(np.array([4]), np.array([2]), point_m[None], np.ones(1), np.zeros(1))
    write_truth(tmp_path / "point_truth.csv", tracks, recording.geometry)
    truth = read_truth(tmp_path / "point_truth.csv", recording.geometry)
    [index] = trajectory_voxels(truth.position_voxel, truth.track_id, truth.frame, factor=(8, 8, 8), shape=(40, 48, 56))
    np.testing.assert_array_equal(index, np.floor((np.array([3.31, 4.77, 5.18]) + 0.5) * 8))
    path = write_map(recording, index, (8, 8, 8), tmp_path / "out")
    for centre_mm in centres_mm(path):
        along_axes_mm = rotation(20, -35, 50).T @ (centre_mm - 1.0e3 * point_m)
        assert (np.abs(along_axes_mm) <= 0.5e3 * STEP_M / 8 * (1 + 1e-4)).all()


def test_a_map_without_the_shift_would_fail(tmp_path):
    """The affine that a naive ×8 writes is 7/16 of a voxel off: more than the half sub-voxel that is allowed."""
    geometry = make_geometry(np.eye(3))
    shift_mm = geometry.refined((8, 8, 8)).affine_mm[:3, 3] - geometry.affine_mm[:3, 3]
    np.testing.assert_allclose(shift_mm, -7 / 16 * 1.0e3 * STEP_M, rtol=1e-9)
    assert (np.abs(shift_mm) > 0.5e3 * STEP_M / 8).all()
