"""configs/redraw.yaml: tracks of an earlier run give the maps of that run, whichever format they are read from."""

import json
import re
import shutil

import jaxtyping
import nibabel
import numpy as np
import pytest
from bundle_runs import GEOMETRY, ROOT, blob_frames, run_config

from sparse_ulm.io import save_recording
from sparse_ulm.io.track_files import TRACK_FORMATS
from sparse_ulm.mapping.track_map_files import MAPS
from sparse_ulm.workflow import find_user_error

VECTORS = {"velocity": (5, "velocity mm/s"), "direction": (5, "direction")}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two recordings, one in 3D and one in 2D, and all maps and formats that classical.yaml makes of them."""
    folder = tmp_path_factory.mktemp("redraw")
    save_recording(folder / "in/rec.nii.gz", blob_frames(), GEOMETRY)
    save_recording(folder / "in/plane.npz", blob_frames((12, 1, 14, 17), noise=0.02), GEOMETRY)
    run_config(
        "classical.yaml", dataset_dir=folder / "in", output_dir=folder / "out", min_length=3, n_threads=1,
        maps=list(MAPS), track_formats=list(TRACK_FORMATS),
    )  # fmt: skip
    return folder


def redraw(folder, output_dir, **options):
    defaults = {"tracks": folder / "out", "recording": folder / "in"}
    return run_config("redraw.yaml", output_dir=output_dir, **(defaults | options))


def read(folder, name, kind):
    image = nibabel.load(folder / name / f"{name}_{kind}.nii.gz")
    return np.asarray(image.dataobj), image


@pytest.mark.parametrize("suffix", TRACK_FORMATS)
def test_maps_are_those_of_the_run_that_made_the_tracks(run, tmp_path, suffix):
    for name in ("rec", "plane"):
        (tmp_path / "tracks").mkdir(exist_ok=True)
        shutil.copy(run / f"out/{name}/{name}_tracks.{suffix}", tmp_path / "tracks")
    redraw(run, tmp_path / "maps", tracks=tmp_path / "tracks")
    for name in ("rec", "plane"):
        files = ["axial_velocity.png", "density.png", *(f"{kind}.nii.gz" for kind in MAPS)]
        assert sorted(path.name for path in (tmp_path / "maps" / name).iterdir()) == sorted(
            ["provenance.json", *(f"{name}_{file}" for file in files)]
        )
        for kind in MAPS:
            was, image = read(run / "out", name, kind)
            found, again = read(tmp_path / "maps", name, kind)
            if kind in ("density", "counts"):
                assert was.any()
                np.testing.assert_array_equal(found, was)
            # The nanometres of a table move the cut between two voxels, and with it their means; .trk has float32.
            tolerance = 5e-4 if suffix == "csv" else 1e-5
            np.testing.assert_allclose(found, was, rtol=1e-4, atol=tolerance, err_msg=kind)
            np.testing.assert_array_equal(again.affine, image.affine)
            assert again.header == image.header


def test_headers_say_where_in_which_units_and_what(run):
    for kind in MAPS:
        values, image = read(run / "out", "rec", kind)
        header = image.header
        assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)
        assert header.get_xyzt_units() == ("mm", "sec")
        np.testing.assert_allclose(image.affine, GEOMETRY.refined((8, 8, 8)).affine_mm, atol=1e-6)
        dims, name = VECTORS.get(kind, (3, ""))
        assert (values.ndim, values.dtype) == (dims, np.float32)
        assert header.get_intent()[0] == ("vector" if dims == 5 else "none")
        assert header.get_intent()[2] == name
        assert MAPS[kind].description == bytes(header["descrip"]).rstrip(b"\0").decode()


def test_maps_of_one_file_and_what_was_done(run, tmp_path):
    file = run / "out/rec/rec_tracks.vtp"
    redraw(run, tmp_path, tracks=file, recording=run / "in/rec.nii.gz", maps=["speed"])
    assert sorted(path.name for path in (tmp_path / "rec").iterdir()) == [
        "provenance.json", "rec_density.nii.gz", "rec_density.png", "rec_speed.nii.gz",
    ]  # fmt: skip
    provenance = json.loads((tmp_path / "rec/provenance.json").read_text())
    assert provenance["config"]["maps"] == ["density", "speed"]
    assert [entry["path"] for entry in provenance["inputs"]] == [str(file)]


def test_tracks_without_velocities_get_them_from_their_positions(run, tmp_path):
    lines = (run / "out/rec/rec_tracks.csv").read_text().splitlines()
    (tmp_path / "rec_tracks.csv").write_text("\n".join(",".join(line.split(",")[:6]) for line in lines) + "\n")
    redraw(run, tmp_path / "maps", tracks=tmp_path / "rec_tracks.csv", recording=run / "in/rec.nii.gz")
    for kind, tolerance in (("speed", 2e-3), ("direction", 2e-3)):  # nanometres over a frame of 2 ms
        np.testing.assert_allclose(
            read(tmp_path / "maps", "rec", kind)[0], read(run / "out", "rec", kind)[0], atol=tolerance
        )
    assert np.isnan(read(tmp_path / "maps", "rec", "uncertainty")[0]).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"maps": ["depth"]}, "maps names 'depth'"),
        ({"tracks": "in"}, "in holds no tracks of plane"),
        ({"tracks": "out/rec/rec_tracks.csv"}, "is one file, and recording"),
        ({"tracks": "out/rec/rec_density.png", "recording": "in/rec.nii.gz"}, "rec_density.png: no file of tracks"),
        ({"recording": "absent"}, "absent: no such file"),
        ({"output_dir": "out"}, "holds the tracks; its provenance.json would be lost"),
    ],
)
def test_a_mistake_is_one_line(run, tmp_path, options, words, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    before = (run / "out/rec/provenance.json").read_bytes()
    options = {key: value if key == "maps" else run / value for key, value in options.items()}
    with pytest.raises(Exception) as caught:  # MONAI wraps errors of configs in its own
        redraw(run, **({"output_dir": tmp_path / "maps"} | options))
    mistake = find_user_error(caught.value)
    assert mistake is not None, caught.value
    assert words in str(mistake)
    assert "\n" not in str(mistake)
    assert not (tmp_path / "maps").exists()
    assert (run / "out/rec/provenance.json").read_bytes() == before


def test_the_config_has_every_kind_of_map():
    assert f"maps: [{', '.join(MAPS)}]" in (ROOT / "configs/redraw.yaml").read_text()


def test_python_of_the_page_runs(run, tmp_path, monkeypatch):
    page = (ROOT / "docs/how-to/tracks.md").read_text(encoding="utf-8")
    [example] = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    for path in (*run.glob("in/rec.*"), run / "out/rec/rec_tracks.vtp"):
        shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    found: dict = {}
    exec(example, found)
    np.testing.assert_allclose(found["speed_m_s"] * 1e3, read(run / "out", "rec", "speed")[0], rtol=1e-5)
