"""report.html of a run: written at its end by the configs, also where recordings failed, and again with scores."""

import numpy as np
import pytest
from bundle_runs import GEOMETRY, blob_frames, run_config

from sparse_ulm.io import save_recording
from sparse_ulm.workflow import find_user_error


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A good recording, and one with samples that are no numbers, run through classical.yaml."""
    folder = tmp_path_factory.mktemp("report")
    frames = blob_frames()
    frames[1, 2, 3, 4] = np.nan
    save_recording(folder / "in/bad.npz", frames, GEOMETRY)
    save_recording(folder / "in/good.npz", blob_frames(), GEOMETRY)
    run(folder)
    return folder


def run(folder, **options):
    defaults = {"min_length": 3, "n_threads": 1, "block_frames": 16, "maps": ["density"], "report": True}
    with pytest.raises(Exception, match="run_folder") as caught:
        run_config("classical.yaml", dataset_dir=folder / "in", output_dir=folder / "out", **(defaults | options))
    assert "1 of 2 recordings failed" in str(find_user_error(caught.value))


def test_a_run_in_which_a_recording_failed_has_its_report(folder):
    page = (folder / "out/report.html").read_text(encoding="utf-8")
    assert "2 recordings: 1 failed, 1 done." in page or "2 recordings: 1 done, 1 failed." in page
    assert "NaN or infinite samples in frames 0:16" in page
    assert "Research use only; not for diagnosis." in page
    assert "gaussian_kalman" in page


def test_none_is_written_where_none_is_wanted(folder, tmp_path):
    (tmp_path / "in").symlink_to(folder / "in")
    run(tmp_path, report=False)
    assert not (tmp_path / "out/report.html").exists()
    assert (tmp_path / "out/good").is_dir()


def test_a_finished_folder_gets_its_report_again(folder):
    page = folder / "out/report.html"
    page.write_text("old")
    run_config("report.yaml", output_dir=folder / "out")
    assert "good_density.nii.gz" in page.read_text(encoding="utf-8")


def test_a_finished_folder_becomes_a_bids_dataset_without_what_failed(folder, tmp_path):
    with pytest.raises(Exception, match="export_bids") as caught:
        run_config("bids.yaml", output_dir=folder / "out", bids_dir=tmp_path / "ulm", names={"good": "sub-01"})
    assert "1 of 2 recordings were exported (bad is failed" in str(find_user_error(caught.value))
    exported = tmp_path / "ulm/sub-01/angio/sub-01_desc-density_ulm.nii.gz"
    assert exported.read_bytes() == (folder / "out/good/good_density.nii.gz").read_bytes()
