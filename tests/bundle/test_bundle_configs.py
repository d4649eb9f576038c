"""What MONAI asks of a bundle: properties, metadata, data format; and the commands, as users run them."""

import hashlib
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from bundle_runs import GEOMETRY, ROOT, SIZES, blob_frames, infer, load_tool, run_config
from monai.bundle import ConfigWorkflow, verify_metadata, verify_net_in_out

from sparse_ulm.io import save_recording

SCHEMA_MD5 = "06954cad2cc5d3784e72077ac76f0fc8"
"""Of the schema in MONAI's own test configuration."""


def command(*arguments, cwd):
    """Run `python -m monai.bundle run` as a user does; gives the finished process."""
    return subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(("name", "workflow_type"), [("train", "train"), ("inference", "inference")])
@pytest.mark.parametrize("data", ["missing", "empty", "present"])
def test_no_property_is_missing_from_another_folder(name, workflow_type, data, tmp_path, monkeypatch):
    folder = tmp_path / "data"
    if data != "missing":
        folder.mkdir()
    if data == "present":
        for part in (".", "train", "validation"):
            save_recording(folder / part / "rec.npz", blob_frames(), GEOMETRY)
    monkeypatch.chdir(tmp_path)
    workflow = ConfigWorkflow(
        config_file=str(ROOT / f"configs/{name}.yaml"),
        workflow_type=workflow_type,
        meta_file=str(ROOT / "configs/metadata.json"),
        logging_file=str(ROOT / "configs/logging.conf"),
        dataset_dir=str(folder),
        output_dir=str(tmp_path / "out"),
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    assert not (tmp_path / "out").exists()


def test_metadata_is_valid_against_the_official_schema_offline(schema, tmp_path):
    copy = tmp_path / "schema.json"
    shutil.copy(schema, copy)
    assert hashlib.md5(copy.read_bytes(), usedforsecurity=False).hexdigest() == SCHEMA_MD5
    verify_metadata(
        meta_file=str(ROOT / "configs/metadata.json"), filepath=str(copy), hash_val=SCHEMA_MD5, hash_type="md5"
    )


def test_the_network_takes_and_gives_what_metadata_says():
    files = {
        "meta_file": str(ROOT / "configs/metadata.json"),
        "config_file": str(ROOT / "configs/inference.yaml"),
        "device": "cpu",
    }
    verify_net_in_out(net_id="network_def", **files)
    with pytest.raises(ValueError, match="output channel number"):  # the check does look
        verify_net_in_out(net_id="network_def", **files, **{"_meta_#network_data_format#outputs#pred#num_channels": 2})


def test_the_shipped_bundle_has_no_problem():
    problems = load_tool("verify").verify(ROOT)
    unfinished = [line for line in problems if "missing; a bundle needs it" in line]
    assert [line for line in problems if line not in unfinished] == []
    if unfinished:
        pytest.skip(f"not yet in the repository: {unfinished}")


def test_simulate_infer_evaluate(tmp_path, weights, capsys):
    """The demo's three commands, small: each reads what the one before wrote."""
    recordings, out = tmp_path / "recordings", tmp_path / "out"
    run_config(
        "simulate.yaml", output_dir=recordings, n_recordings=2, grid_size=[8, 9, 10], n_frames=32, seed=3,
        bubbles_per_psf_volume=[0.05, 0.05], side_lobe_share=0.0,
    )  # fmt: skip
    infer(recordings, out, weights)
    (out / "report.html").write_text("old")
    run_config("evaluate.yaml", dataset_dir=recordings, output_dir=out)
    assert "recordings: 2. All scores:" in capsys.readouterr().out
    assert (out / "metrics.csv").read_text().count("simulated_000") == 2
    report = (out / "report.html").read_text(encoding="utf-8")
    assert "Map and truth" in report
    assert "n_predicted_voxels" in report


def test_a_run_from_another_folder(tmp_path, weights):
    save_recording(tmp_path / "in/rec.nii.gz", blob_frames(), GEOMETRY)
    shutil.copytree(ROOT / "configs", tmp_path / "bundle/configs")
    (tmp_path / "bundle/models").mkdir()
    shutil.copy(weights, tmp_path / "bundle/models/model.pt")
    done = command(
        "--config_file", "bundle/configs/inference.yaml", "--bundle_root", "bundle", "--dataset_dir", "in",
        "--output_dir", "out", "--encoder_widths", str(SIZES["encoder_widths"]).replace(" ", ""),
        "--refine_widths", str(SIZES["refine_widths"]).replace(" ", ""), "--n_threads", "1",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/rec/rec_density.nii.gz").is_file()


@pytest.mark.parametrize("case", ["unknown option", "damaged samples"])
def test_a_mistake_is_one_line_without_traceback(case, tmp_path, weights):
    frames = blob_frames()
    frames[1, 2, 3, 4] = np.nan
    save_recording(tmp_path / "in/rec.npz", frames, GEOMETRY)
    options = ["--lerning_rate", "0.5"] if case == "unknown option" else []
    for key, value in SIZES.items():
        options += [f"--{key}", str(value).replace(" ", "")]
    done = command(
        "--config_file", ROOT / "configs/inference.yaml", "--dataset_dir", "in", "--output_dir", "out",
        "--weights", weights, *options, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert done.stderr.splitlines()[-1] == lines[0]
    assert ("--lerning_rate" if case == "unknown option" else "NaN") in lines[0]
    assert "Traceback" not in done.stdout + done.stderr
    assert "ERROR" not in done.stdout
    assert not (tmp_path / "out").exists()


def test_weights_of_2d_are_looked_for_under_their_own_name(tmp_path):
    workflow = ConfigWorkflow(
        str(ROOT / "configs/inference.yaml"), workflow_type="inference", logging_file=False, bundle_root=str(tmp_path)
    )
    workflow.parser["spatial_dims"] = 2
    workflow.initialize()
    assert workflow.parser.get_parsed_content("weights") == str(tmp_path / "models/model_2d.pt")
