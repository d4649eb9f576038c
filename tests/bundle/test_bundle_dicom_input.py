"""A clinical cine through the bundle: followed by the conventional pipeline, refused by networks, nobody named."""

import warnings

import jaxtyping
import nibabel
import numpy as np
import pytest
from bundle_runs import infer, run_config, save_untrained
from dicom_files import OPTIONS, SECRETS, region, write_cine

from sparse_ulm.workflow import find_user_error

pytest.importorskip("highdicom")

DYNAMIC_RANGE_DB = OPTIONS["dynamic_range_db"]
STEP_MM, RATE_HZ = (0.12, 0.08), 40.0  # of `dicom_files.region` and `write_cine`
MOVE_PX = (0.30, -0.45)  # of the bubble along x and z, per frame


def cine_pixels(n_frames=40, seed=2):
    """A bubble in Rayleigh noise, log-compressed to 8 bits, with white text around the region."""
    rng = np.random.default_rng(seed)
    row, column = np.indices((36, 40))
    frames = []
    for t in range(n_frames):
        x, z = 12.0 + MOVE_PX[0] * t, 27.0 + MOVE_PX[1] * t
        bubble = np.exp(-(((column - x) / 1.6) ** 2 + ((row - z) / 1.4) ** 2) / 2)
        noise = rng.normal(size=(2, *row.shape)) * 0.01
        amplitude = np.abs(bubble + noise[0] + 1j * noise[1])
        frames.append(np.clip(np.rint(255 * (1 + 20 * np.log10(amplitude) / DYNAMIC_RANGE_DB)), 0, 255))
    pixels = np.array(frames, dtype=np.uint8)
    pixels[:, :5] = pixels[:, 33:] = 255
    return pixels


@pytest.fixture(scope="module")
def cine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cine")
    write_cine(folder / "clip.dcm", cine_pixels(), regions=[region(2, 5, 37, 32)])
    return folder


def run_classical(cine, output_dir, **options):
    run_config("classical.yaml", dataset_dir=cine, output_dir=output_dir, n_threads=1, **(OPTIONS | options))


def test_a_bubble_is_followed_and_nobody_is_named(cine, tmp_path):
    with pytest.warns(UserWarning, match="clip: log-compressed envelope, no IQ: grey values are taken to be linear"):
        run_classical(cine, tmp_path, dicom=True)
    speed = nibabel.load(tmp_path / "clip/clip_speed.nii.gz")
    values = np.asarray(speed.dataobj)
    moved_mm = np.multiply(MOVE_PX, STEP_MM)
    assert np.nanmedian(values) == pytest.approx(np.hypot(*moved_mm) * RATE_HZ, rel=0.1)
    # Of the region, which begins at column 2 and row 5, pixel 2 lies at 0 mm and row 0 at 1 mm (`dicom_files.region`).
    x, _, z = np.nonzero(np.isfinite(values))
    centres_mm = nibabel.affines.apply_affine(speed.affine, np.column_stack([x, 0 * x, z]))
    half_way_mm = np.array([12 + 20 * MOVE_PX[0] - 2 - 2, 27 + 20 * MOVE_PX[1] - 5]) * STEP_MM + [0.0, 1.0]
    assert np.linalg.norm(centres_mm[:, [0, 2]] - half_way_mm, axis=1).min() < 0.05
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"provenance.json", "clip_speed.dcm", "clip_density.dcm", "manifest.json"} <= {path.name for path in files}
    for path in files:
        content = path.read_bytes()
        for keyword, secret in SECRETS.items():
            assert secret.encode() not in content, f"{keyword} in {path.name}"


def test_networks_refuse_it(cine, tmp_path, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    weights = save_untrained(tmp_path / "flat.pt", spatial_dims=2)
    with pytest.raises(Exception) as caught:
        infer(cine, tmp_path / "out", weights, spatial_dims=2, **OPTIONS)
    mistake = str(find_user_error(caught.value))
    assert mistake.startswith("clip.dcm is a log-compressed envelope; wanted IQ")
    assert "--method classical" in mistake


def test_noise_of_an_envelope_has_no_differences(cine, tmp_path):
    with pytest.raises(Exception) as caught, pytest.warns(UserWarning, match="log-compressed"):
        run_classical(cine, tmp_path / "out", noise_measure="differences")
    assert "noise_measure is differences, and clip is an envelope" in str(find_user_error(caught.value))
    assert not (tmp_path / "out/clip").exists()


def test_without_a_dynamic_range_it_is_refused(cine, tmp_path):
    with pytest.raises(Exception) as caught, warnings.catch_warnings():
        run_classical(cine, tmp_path / "out", dynamic_range_db=None)
    assert "Give dynamic_range_db" in str(find_user_error(caught.value))
