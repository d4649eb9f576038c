"""`--dicom true`: density and speed as DICOM beside the NIfTI, the user's tags there and nowhere else."""

import json

import jaxtyping
import nibabel
import numpy as np
import pydicom
import pytest
from bundle_runs import GEOMETRY, blob_frames, infer, run_config

from sparse_ulm.io import save_recording
from sparse_ulm.workflow import find_user_error

pytest.importorskip("highdicom")

TAGS = {"PatientID": "SECRET-17", "StudyInstanceUID": "2.25.424242", "PatientName": "HIDDEN^NAME"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of classical.yaml with tags."""
    folder = tmp_path_factory.mktemp("dicom")
    save_recording(folder / "in/rec.npz", blob_frames(), GEOMETRY)
    run_config(
        "classical.yaml", dataset_dir=folder / "in", output_dir=folder / "out", min_length=3, n_threads=1,
        maps=["counts"], dicom=True, dicom_tags=TAGS,
    )  # fmt: skip
    return folder


def volume_of(path):
    """Give a file's values as (x, y, z); the frames of a grid along the scanner's axes run along y."""
    found = pydicom.dcmread(path)
    name, dtype = ("FloatPixelData", "<f4") if "FloatPixelData" in found else ("PixelData", "<u2")
    stored = np.frombuffer(found[name].value, dtype).reshape(int(found.NumberOfFrames), found.Rows, found.Columns)
    return stored.transpose(2, 0, 1)


def test_values_are_those_of_the_nifti(run):
    folder = run / "out/rec"
    density = np.asarray(nibabel.load(folder / "rec_density.nii.gz").dataobj)
    assert density.any()
    np.testing.assert_array_equal(volume_of(folder / "rec_density.dcm"), density)
    speed = volume_of(folder / "rec_speed.dcm")
    np.testing.assert_array_equal(np.isfinite(speed), density > 0)
    assert 0 < np.nanmax(speed) < 40  # mm/s: the blob makes 0.08 and 0.1 voxels of 0.1 mm a frame at 500 Hz, 6 mm/s


def test_tags_stand_in_the_dicom_files_alone(run):
    for kind in ("density", "speed"):
        found = pydicom.dcmread(run / f"out/rec/rec_{kind}.dcm")
        assert {keyword: str(found[keyword].value) for keyword in TAGS} == TAGS
    others = [path for path in (run / "out").rglob("*") if path.is_file() and path.suffix != ".dcm"]
    assert {"provenance.json", "manifest.json", "summary.csv"} <= {path.name for path in others}
    for path in others:
        for value in TAGS.values():
            assert value.encode() not in path.read_bytes(), path
    provenance = json.loads((run / "out/rec/provenance.json").read_text())
    assert (provenance["config"]["dicom"], provenance["config"]["dicom_tags"]) == (True, sorted(TAGS))


def test_other_tags_are_other_settings(run):
    with pytest.raises(Exception) as caught:
        run_config(
            "classical.yaml", dataset_dir=run / "in", output_dir=run / "out", min_length=3, n_threads=1,
            maps=["counts"], dicom=True, dicom_tags=TAGS | {"PatientID": "OTHER"},
        )  # fmt: skip
    assert "results of other settings" in str(find_user_error(caught.value))


def test_redraw_writes_the_same_values(run, tmp_path):
    run_config(
        "redraw.yaml", tracks=run / "out/rec/rec_tracks.trk", recording=run / "in", output_dir=tmp_path,
        maps=["counts"], dicom=True,
    )  # fmt: skip
    density = volume_of(run / "out/rec/rec_density.dcm")
    np.testing.assert_array_equal(volume_of(tmp_path / "rec/rec_density.dcm"), density)
    assert pydicom.dcmread(tmp_path / "rec/rec_speed.dcm").PatientID == ""


def test_the_map_network_writes_its_density(run, weights, tmp_path):
    infer(run / "in", tmp_path, weights, dicom=True)
    assert sorted(path.name for path in (tmp_path / "rec").glob("*.dcm")) == ["rec_density.dcm"]
    density = np.asarray(nibabel.load(tmp_path / "rec/rec_density.nii.gz").dataobj)
    assert density.any()
    np.testing.assert_array_equal(volume_of(tmp_path / "rec/rec_density.dcm"), density)
    found = pydicom.dcmread(tmp_path / "rec/rec_density.dcm")
    [mapping] = found.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "{blocks}"


def test_a_tag_that_is_not_allowed_stops_the_run_before_it_starts(run, tmp_path, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(Exception) as caught:
        run_config(
            "inference.yaml", method="classical", dataset_dir=run / "in", output_dir=tmp_path / "out", n_threads=1,
            dicom=True, dicom_tags={"InstitutionName": "Clinic"},
        )  # fmt: skip
    assert "dicom_tags names 'InstitutionName'" in str(find_user_error(caught.value))
    assert not (tmp_path / "out").exists()
