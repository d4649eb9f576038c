"""The referee: what is done is not done again, counts and pooled scores by hand, tables as they are printed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from sparse_ulm.acquisition import Geometry
from sparse_ulm.io import save_map
from sparse_ulm.io.registry import save_recording
from sparse_ulm.simulation import draw_parameters, parameter_ranges

ROOT = Path(__file__).resolve().parents[1]
SIZES = {"encoder_widths": [4, 5, 6], "refine_widths": [5, 4, 3, 2]}
COARSE = Geometry.from_voxel_size(
    (0.1e-3, 0.1e-3, 0.1e-3), (0.0, 0.0, 5e-3), frame_rate_hz=500.0, transmit_frequency_hz=7.7e6, sound_speed_m_s=1540.0
)
"""Wavelength 0.2 mm, two voxels: a tenth is 1.6 refined voxels, a quarter is 4."""


@pytest.fixture(autouse=True)
def benchmarks_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """One recording of 5 x 6 x 7 voxels in which one bubble rests in voxel (2, 3, 4), refined voxel (20, 28, 36)."""
    frames = np.ones((5, 6, 7, 2), dtype=np.complex64)
    save_recording(tmp_path / "in" / "rec.nii", frames, COARSE)
    rows = [f"1,{frame},{frame / 500},0.206,0.306,5.406,1" for frame in range(2)]
    header = "track_id,frame,time_s,x_mm,y_mm,z_mm,amplitude"
    (tmp_path / "in" / "rec_truth.csv").write_text("\n".join([header, *rows]) + "\n")
    return tmp_path / "in"


def write_map(folder: Path, *voxels: tuple[int, int, int]) -> None:
    """Write a map of rec that is 1 at these voxels of the refined grid, 0.3 at the last."""
    density = np.zeros((40, 48, 56), dtype=np.float32)
    for voxel in voxels:
        density[voxel] = 1.0
    density[voxels[-1]] = 0.3
    (folder / "rec").mkdir(parents=True)
    save_map(folder / "rec" / "rec_density.nii.gz", density, COARSE.refined((8, 8, 8)), description="counts")


def test_counts_by_hand(recordings: Path, tmp_path: Path) -> None:
    from counting import count_agreement

    write_map(tmp_path / "out", (20, 28, 37), (20, 28, 39), (2, 2, 2), (20, 28, 36))
    every, few = count_agreement(tmp_path / "out", recordings, thresholds=(0.0, 0.5))
    assert every["counts"] == {"exact": [4, 1, 1, 1], "lambda_10": [4, 1, 2, 1], "lambda_4": [4, 1, 3, 1]}
    assert few["counts"] == {"exact": [3, 1, 0, 0], "lambda_10": [3, 1, 1, 1], "lambda_4": [3, 1, 2, 1]}
    assert (every["name"], every["n_frames"]) == ("rec", 2)
    assert every["bubbles_per_mm3"] == pytest.approx(1 / (0.5 * 0.6 * 0.7))


def test_a_finished_score_is_not_run_again(recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import referee

    runs: list[dict[str, Any]] = []

    def run(config: str, *, output_dir: str, **options: Any) -> None:
        runs.append(options)
        write_map(Path(output_dir), (20, 28, 36), (20, 28, 36))

    monkeypatch.setattr(referee, "run_config", run)
    method = referee.classical("pala_rat")
    first = referee.score(tmp_path, method, recordings)
    assert referee.score(tmp_path, method, recordings) == first
    assert len(runs) == 1
    assert runs[0]["preset"] == "pala_rat"
    referee.score(tmp_path, method, recordings, noise_factor=4.0)
    assert len(runs) == 2
    truth = recordings / "rec_truth.csv"
    truth.write_text(truth.read_text().replace("5.4", "5.5"))  # other recordings, though of the same name
    assert referee.score(tmp_path, method, recordings)["recordings"][0]["counts"]["exact"] == [1, 1, 0, 0]
    assert len(runs) == 3


def test_finished_recordings_are_not_simulated_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import referee

    options: dict[str, Any] = {"vessels": ["synthetic"], "n_recordings": 1, "grid_size": [6, 7, 8], "n_frames": 5}
    folder = referee.make_recordings(tmp_path, seed=3, **options)
    names = {path.name for path in folder.iterdir()}
    assert names == {"simulated_0000.nii", "simulated_0000.json", "simulated_0000_truth.csv", "simulation.json"}
    assert {path.name for path in folder.parent.iterdir()} == {folder.name}  # nothing partial stays
    monkeypatch.setattr(referee, "run_config", lambda *args, **options: pytest.fail("simulated again"))
    assert referee.make_recordings(tmp_path, seed=3, n_workers=2, **options) == folder
    with pytest.raises(pytest.fail.Exception):
        referee.make_recordings(tmp_path, seed=4, **options)


def test_names_follow_from_contents(tmp_path: Path) -> None:
    from referee import fingerprint, network

    weights = tmp_path / "model.pt"
    weights.write_bytes(b"one")
    first = fingerprint([{"b": 1, "a": 2}, weights])
    assert first == fingerprint([{"a": 2, "b": 1}, weights])
    weights.write_bytes(b"two")
    assert fingerprint([{"a": 2, "b": 1}, weights]) != first
    method = network(f"new={weights}@0.35", spatial_dims=2)
    assert (method.name, method.is_network) == ("new", True)
    assert method.options == {"weights": weights, "probability_threshold": 0.35, "spatial_dims": 2}
    assert network("models/model.pt").name == "network"


def scored(*exact: tuple[int, int, int, int], seconds: float = 1.0) -> dict[str, Any]:
    """One seed's result in which all tolerances count alike."""
    rows = [
        {"name": "r", "bubbles_per_mm3": 10.0, "counts": {key: list(c) for key in ("exact", "lambda_10", "lambda_4")}}
        for c in exact
    ]
    return {"seconds": seconds, "recordings": rows}


def test_counts_are_pooled_within_a_seed_and_spread_over_seeds() -> None:
    from pooling import over_seeds, shown

    # First seed: 4 + 2 predicted, 3 + 3 true, found 3 + 0 and 3 + 0: precision and recall 1/2. Second: all found.
    scores = over_seeds([scored((4, 3, 3, 3), (2, 3, 0, 0), seconds=4.0), scored((5, 6, 5, 6), seconds=2.0)])
    assert scores["dice_lambda_10"]["seeds"] == [0.5, 1.0]
    assert shown(scores["dice_lambda_10"]) == "0.750 ± 0.354"
    assert shown(over_seeds([scored((4, 4, 2, 2))])["recall_exact"], 2) == "0.50"
    assert scores["seconds_per_recording"] == 2.0


def test_folders_of_several_concentrations_are_split() -> None:
    from pooling import by_concentration

    first = scored((4, 3, 3, 3), (2, 3, 0, 0), (1, 1, 1, 1), seconds=6.0)
    for row, label in zip(first["recordings"], (0.2, 0.05, 0.2), strict=True):
        row["concentration"] = label
    (thin, few), (dense, many) = by_concentration(None, [first])
    assert (thin, dense) == (0.05, 0.2)
    assert [len(few[0]["recordings"]), len(many[0]["recordings"])] == [1, 2]
    assert [few[0]["seconds"], many[0]["seconds"]] == [2.0, 4.0]
    assert list(by_concentration(0.1, [first])) == [(0.1, [first])]


def rows_of(**dice: tuple[float, float]) -> list[dict[str, Any]]:
    """Rows of a comparison, Dice by method at 0.05 and 0.2; names in capitals are networks."""
    from pooling import spread

    names = ("dice", "precision", "recall")
    kinds = ("exact", "lambda_10", "lambda_4")
    return [
        {"set": "s", "concentration": c, "method": m, "is_network": m.isupper(), "bubbles_per_mm3": 7.6,
         "seconds_per_recording": 1.0} | {f"{n}_{k}": spread([values[i]]) for n in names for k in kinds}
        for i, c in enumerate((0.05, 0.2))
        for m, values in dice.items()
    ]  # fmt: skip


def test_the_network_stands_beside_the_best_preset_of_each_concentration() -> None:
    from concentration import against_best
    from pooling import markdown

    lines = markdown(against_best(rows_of(NET=(0.6, 0.4), rat=(0.3, 0.1), kalman=(0.2, 0.5)))).splitlines()
    assert lines[2] == "| 0.05 | 8 | NET | 0.600 | 0.600 | rat | 0.300 | 0.300 | 2.00 |"
    assert lines[3] == "| 0.2 | 8 | NET | 0.400 | 0.400 | kalman | 0.500 | 0.500 | 0.80 |"
    assert len(lines) == 4


def test_a_shifted_set_is_set_beside_the_trained_one() -> None:
    from domain_shift import against_best

    usual = [row | {"set": "in distribution"} for row in rows_of(NET=(0.6, 0.4), rat=(0.3, 0.1))]
    shifted = [row | {"set": "other"} for row in rows_of(NET=(0.3, 0.4), rat=(0.3, 0.0))]
    given = [row | {"set": "given", "concentration": None} for row in rows_of(NET=(0.5, 0.5))[:1]]
    lines = against_best(usual + shifted + given)["rows"]
    assert lines[2][-5:] == ["rat", "0.300", "1.00", "0.50", "1.00"]
    assert lines[3][-5:] == ["rat", "0.000", "—", "1.00", "0.00"]
    assert lines[4] == ["given", "all", "NET", "0.500", "0.500", "0.500", "—", "—", "—", "—", "—"]


def test_aberration_has_the_wanted_rms() -> None:
    from shifted_sets import ABERRATION_RAD, aberrate

    parameters = draw_parameters(np.random.default_rng(1), parameter_ranges())
    weights = np.asarray(aberrate(parameters, ABERRATION_RAD).aberration_rad)
    assert np.rad2deg(np.sqrt(0.35 * (weights**2).sum())) == pytest.approx(60.0)
    assert weights / np.asarray(parameters.aberration_rad) == pytest.approx(weights[0] / parameters.aberration_rad[0])


def test_aberrated_recordings_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shifted_sets

    options = {"grid_size": [6, 7, 8], "n_frames": 3, "side_lobe_share": 0.0, "psf_table_share": 0.0}
    folder = shifted_sets.make_aberrated(tmp_path, vessels=["synthetic"], seed=2, n_recordings=1, **options)
    assert len(list(folder.glob("*_truth.csv"))) == 1
    monkeypatch.setattr(shifted_sets, "simulate", lambda *args: pytest.fail("simulated again"))
    assert shifted_sets.make_aberrated(tmp_path, vessels=["synthetic"], seed=2, n_recordings=1, **options) == folder


def test_extra_sets_by_concentration_or_as_one(tmp_path: Path) -> None:
    from shifted_sets import extra_sets

    (tmp_path / "many" / "0.05").mkdir(parents=True)
    (tmp_path / "many" / "notes").mkdir()
    many, one = tmp_path / "many", tmp_path / "many" / "notes"
    found = extra_sets([f"a={many}", f"b={one}", f"b={many / '0.05'}"])
    assert found == {"a": {0.05: [many / "0.05"]}, "b": {None: [one, many / "0.05"]}}
    with pytest.raises(FileNotFoundError, match="none is no folder"):
        extra_sets([f"c={tmp_path / 'none'}"])


def test_calibration_marks_the_best_value() -> None:
    from calibration import calibration_table

    rows = [
        row | {"parameter": "probability_threshold", "value": value}
        for value, dice in {0.3: (0.2, 0.4), 0.4: (0.5, 0.2), 0.5: (0.1, 0.1)}.items()
        for row in rows_of(NET=dice)
    ]
    kept = calibration_table(rows)
    assert kept["header"][3:] == ["0.05 per PSF volume", "0.2 per PSF volume", "mean Dice λ/10"]
    assert kept["rows"][1] == ["NET", "probability_threshold", "**0.4**", "0.500", "0.200", "0.350"]
    assert kept["rows"][0][2] == "0.3"


def test_settings_tell_files_by_contents_and_no_path(tmp_path: Path) -> None:
    import argparse

    from pooling import settings_of

    (tmp_path / "seg4.swc").write_text("1 1 0 0 0 1 -1\n")
    args = argparse.Namespace(
        work=tmp_path, vessels=[str(tmp_path / "seg4.swc"), "synthetic"], weights=[f"new={tmp_path / 'seg4.swc'}@0.4"],
        n_recordings=3, calibrate="", json="x",
    )  # fmt: skip
    settings = settings_of(args)
    assert str(tmp_path) not in json.dumps(settings)
    assert settings.keys() == {"vessels", "weights", "n_recordings", "calibrate"}
    assert settings["calibrate"] == ""
    assert settings["vessels"][0].startswith("seg4.swc (")
    assert settings["weights"][0].endswith(")@0.4")


def test_concentration_runs_network_and_preset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import concentration

    config = ConfigParser()
    config.read_config(str(ROOT / "configs" / "inference.yaml"))
    for key, value in SIZES.items():
        config[key] = value
    torch.manual_seed(5)
    weights = tmp_path / "model.pt"
    torch.save({"model": config.get_parsed_content("network_def").state_dict()}, weights)
    file, figure = tmp_path / "c.json", tmp_path / "c.png"
    options = ["--work", tmp_path / "work", "--weights", f"{weights}@0.001", "--presets", "gaussian_kalman"]
    options += ["--n_recordings", 1, "--seeds", 3, "--concentrations", 0.2, "--n_frames", 32, "--grid_size", 8, 9, 10]
    options += ["--network", "keep_probability=0.001", *(f"{key}={value}" for key, value in SIZES.items())]
    rows = concentration.main([*map(str, options), "--json", str(file), "--figure", str(figure)])
    assert [row["method"] for row in rows] == ["network", "gaussian_kalman"]
    record = json.loads(file.read_text())
    assert record["tables"].keys() == {"concentration", "concentration_all"}
    assert str(tmp_path) not in file.read_text()
    assert "| 0.2 | " in capsys.readouterr().out
    assert figure.read_bytes().startswith(b"\x89PNG")
