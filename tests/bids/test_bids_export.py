"""A derivative dataset from a run: names, sidecars and tables as BIDS and its own validator want them; nothing lost."""

import csv
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import nibabel
import numpy as np
import pytest
from filelock import FileLock

from sparse_ulm.bids import export_bids
from sparse_ulm.bids.export import LOCK
from sparse_ulm.errors import UserError

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))

from report_cases import GEOMETRY, make_run, write_output

NAME = "sub-01_ses-02_pwd"


@pytest.fixture
def raw(tmp_path):
    """A BIDS dataset of two recordings, one of which is named as the lab named it, and the run over them in ../out."""
    out = make_run(tmp_path, NAME, "rat7")
    manifest = json.loads((out / "manifest.json").read_text())
    del manifest["recordings"]["bad"]
    (out / "manifest.json").write_text(json.dumps(manifest))
    raw = tmp_path / "in"
    (raw / "dataset_description.json").write_text('{"Name": "raw", "BIDSVersion": "1.10.0"}')
    return raw


def export(raw, **options):
    return export_bids(raw.parent / "out", raw / "derivatives/ulm", **({"names": {"rat7": "sub-07"}} | options))


def sidecar(path):
    return json.loads(path.with_name(path.name.split(".")[0] + ".json").read_text(encoding="utf-8"))


def test_every_file_has_its_place_and_a_sidecar(raw):
    written = export(raw)
    kinds = ("density_ulm.nii.gz", "density_ulm.png", "localisations_ulm.tsv", "speed_ulm.nii.gz", "tracks_ulm.tsv")
    folders = {"sub-01/ses-02/angio/sub-01_ses-02": raw, "sub-07/angio/sub-07": raw}
    assert {str(one.relative_to(raw / "derivatives/ulm")) for one in written} == {
        f"{start}_desc-{kind}" for start in folders for kind in kinds
    }
    assert all(sidecar(one)["Sources"] for one in written)


def test_maps_are_the_same_bytes_and_say_what_they_are(raw):
    export(raw)
    path = raw / "derivatives/ulm/sub-07/angio/sub-07_desc-speed_ulm.nii.gz"
    assert path.read_bytes() == (raw.parent / "out/rat7/rat7_speed.nii.gz").read_bytes()
    said = sidecar(path)
    assert said["Description"] == "Mean speed of tracks"
    assert said["Units"] == "mm/s"
    assert said["Sources"] == ["bids:raw:rat7.npz"]
    assert said["CompoundSamplingFrequency"] == 500.0
    assert said["UltrasoundTransmitFrequency"] == 8.0e6
    assert said["BeamformingSoundVelocity"] == 1540.0
    assert said["SparseULMMethod"] == "classical"
    size_mm = nibabel.load(path).header.get_zooms()
    assert said["Resolution"] == f"super-resolved, voxels of {size_mm[0]:.6g} x {size_mm[1]:.6g} x {size_mm[2]:.6g} mm"
    assert size_mm[1] == pytest.approx(GEOMETRY.voxel_size_m[1] * 1e3 / 8)


def test_tables_hold_the_same_numbers_between_tabs(raw):
    export(raw)
    path = raw / "derivatives/ulm/sub-07/angio/sub-07_desc-tracks_ulm.tsv"
    with path.open(newline="") as file:
        header, *rows = csv.reader(file, delimiter="\t")
    with (raw.parent / "out/rat7/rat7_tracks.csv").open(newline="") as file:
        assert [header, *([value.replace("n/a", "nan") for value in row] for row in rows)] == list(csv.reader(file))
    assert {row[-1] for row in rows} == {"n/a"}  # no deviation along z is known
    said = sidecar(path)
    assert set(header) <= set(said)
    assert (said["vz_mm_s"], said["z_mm"], said["time_s"]) == ({"Units": "mm/s"}, {"Units": "mm"}, {"Units": "s"})


def test_no_path_of_the_lab_goes_with_the_data(raw):
    export(raw)
    texts = [one.read_text(encoding="utf-8") for one in (raw / "derivatives/ulm").rglob("*.json")]
    assert len(texts) == 9
    assert not any(str(raw.parent) in text for text in texts)


def test_the_description_links_the_raw_dataset(raw):
    export(raw, dataset_name="Kidneys")
    description = json.loads((raw / "derivatives/ulm/dataset_description.json").read_text())
    assert (description["Name"], description["DatasetType"]) == ("Kidneys", "derivative")
    assert description["GeneratedBy"][0]["Name"] == "sparse-ulm"
    assert (raw / "derivatives/ulm" / description["DatasetLinks"]["raw"]).resolve() == raw.resolve()


@pytest.mark.skipif(find_spec("bids_validator_deno") is None, reason="the BIDS validator is not installed")
def test_the_bids_validator_finds_no_error(raw):
    export(raw)
    command = [Path(sys.executable).with_name("bids-validator-deno"), raw / "derivatives/ulm", "--json"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)
    errors = [issue for issue in found["issues"]["issues"] if issue["severity"] == "error"]
    assert not errors
    (raw / "derivatives/ulm/sub-07/stray.txt").write_text("x")  # the validator did look
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)
    assert [i["code"] for i in found["issues"]["issues"] if i["severity"] == "error"] == ["NOT_INCLUDED"]


def test_a_recording_outside_any_dataset_is_named_alone(raw):
    (raw / "dataset_description.json").unlink()
    written = export(raw)
    assert {tuple(sidecar(one)["Sources"]) for one in written} == {(f"{NAME}.npz",), ("rat7.npz",)}
    assert "DatasetLinks" not in json.loads((raw / "derivatives/ulm/dataset_description.json").read_text())


def test_a_second_export_replaces_nothing_unless_told_and_then_all(raw):
    written = export(raw)
    before = {one: one.read_bytes() for one in written}
    with pytest.raises(UserError, match=r"is there already.*--force true"):
        export(raw)
    assert {one: one.read_bytes() for one in written} == before
    (raw.parent / "out/rat7/rat7_speed.nii.gz").unlink()
    manifest = json.loads((raw.parent / "out/manifest.json").read_text())
    del manifest["recordings"]["rat7"]["outputs"]["rat7_speed.nii.gz"]
    (raw.parent / "out/manifest.json").write_text(json.dumps(manifest))
    export(raw, force=True)
    assert not list((raw / "derivatives/ulm/sub-07").rglob("*speed*"))
    assert list((raw / "derivatives/ulm/sub-01").rglob("*speed*.nii.gz"))


def test_another_run_adds_its_recordings(raw, tmp_path):
    export(raw)
    write_output(tmp_path / "more/sub-09", "sub-09")
    (tmp_path / "more/sub-09/provenance.json").write_text('{"inputs": [{"path": "sub-09.nii.gz"}]}')
    export_bids(tmp_path / "more", raw / "derivatives/ulm")
    assert {one.name for one in (raw / "derivatives/ulm").glob("sub-*")} == {"sub-01", "sub-07", "sub-09"}
    description = json.loads((raw / "derivatives/ulm/dataset_description.json").read_text())
    assert description["DatasetLinks"] == {"raw": "../.."}


def test_recordings_that_failed_or_were_changed_are_left_out_and_told(tmp_path):
    out = make_run(tmp_path, "sub-01", "sub-02")
    np.savetxt(out / "sub-02/sub-02_tracks.csv", [1.0])
    with pytest.raises(
        UserError, match=r"1 of 3 recordings were exported \(sub-02: .*not as the run wrote.*bad is failed"
    ):
        export_bids(out, tmp_path / "bids")
    assert [one.name for one in (tmp_path / "bids").glob("sub-*")] == ["sub-01"]


def test_names_may_be_given_of_what_failed_and_nothing_is_made_of_nothing(tmp_path):
    out = make_run(tmp_path, "rat7")
    names = {"rat7": "sub-07", "bad": "sub-08"}
    with pytest.raises(UserError, match="1 of 2 recordings were exported"):
        export_bids(out, tmp_path / "bids", names=names)
    assert [one.name for one in (tmp_path / "bids").glob("sub-*")] == ["sub-07"]
    (out / "rat7/rat7_speed.nii.gz").unlink()
    with pytest.raises(UserError, match="0 of 2 recordings were exported"):
        export_bids(out, tmp_path / "other", names=names)
    assert not (tmp_path / "other").exists()


def test_folders_of_others_are_left_alone(raw, tmp_path):
    with pytest.raises(UserError, match="names no tool that made the dataset"):
        export_bids(raw.parent / "out", raw, names={"rat7": "sub-07"})
    (tmp_path / "fmri").mkdir()
    (tmp_path / "fmri/dataset_description.json").write_text('{"GeneratedBy": [{"Name": "fMRIPrep"}]}')
    with pytest.raises(UserError, match="is of fMRIPrep; wanted a dataset of sparse-ulm"):
        export_bids(raw.parent / "out", tmp_path / "fmri", names={"rat7": "sub-07"})
    with pytest.raises(UserError, match=r"holds files and no dataset_description\.json"):
        export_bids(raw.parent / "out", tmp_path / "out", names={"rat7": "sub-07"})
    assert not list(tmp_path.rglob("sub-07*"))


def test_two_exports_at_once_and_a_folder_that_cannot_be_written(raw, tmp_path):
    (tmp_path / "bids").mkdir()
    with FileLock(tmp_path / "bids" / LOCK), pytest.raises(UserError, match="another export writes to"):
        export_bids(raw.parent / "out", tmp_path / "bids", names={"rat7": "sub-07"})
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        export_bids(raw.parent / "out", tmp_path / "file/bids", names={"rat7": "sub-07"})


def test_nothing_appears_where_a_file_cannot_be_made(raw, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sparse_ulm.bids.export.shutil.copyfile", full)
    with pytest.raises(UserError, match="No space left on device"):
        export(raw)
    assert not [one for one in (raw / "derivatives/ulm").iterdir() if one.name != LOCK]
