"""The comparison of localisers: counts by hand, seeds pooled, tables, thresholds chosen, and the Cramér–Rao bound."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparse_ulm.acquisition import Acquisition, Geometry
from sparse_ulm.io import open_recordings, save_map
from sparse_ulm.io.registry import save_recording
from sparse_ulm.io.tables import write_localisations
from sparse_ulm.io.truth import read_truth
from sparse_ulm.localisations import Localisations
from sparse_ulm.metrics.matching import Matching

ROOT = Path(__file__).resolve().parents[1]
COARSE = Geometry.from_voxel_size(
    (0.1e-3, 0.1e-3, 0.1e-3), (0.0, 0.0, 5e-3), frame_rate_hz=500.0, transmit_frequency_hz=7.7e6, sound_speed_m_s=1540.0
)
"""Wavelength 0.2 mm: λ/4 is 50 µm, λ/2 is 100 µm; a refined voxel is 12.5 µm."""

RESTING, MOVING = (0.206, 0.306, 5.406), (0.306, 0.156, 5.206)
"""Millimetres at frame 0; the moving bubble goes 12.5 µm, one refined voxel, along x from frame to frame: 6.25 mm/s."""


@pytest.fixture(autouse=True)
def benchmarks_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """One recording of 5 x 6 x 7 voxels and 4 frames with one resting and one moving bubble."""
    save_recording(tmp_path / "in" / "rec.nii", np.ones((5, 6, 7, 4), dtype=np.complex64), COARSE)
    rows = [f"1,{f},{f / 500},{RESTING[0]},{RESTING[1]},{RESTING[2]},1" for f in range(4)]
    rows += [f"2,{f},{f / 500},{MOVING[0] + 0.0125 * f},{MOVING[1]},{MOVING[2]},1" for f in range(4)]
    header = "track_id,frame,time_s,x_mm,y_mm,z_mm,amplitude"
    (tmp_path / "in" / "rec_truth.csv").write_text("\n".join([header, *rows]) + "\n")
    widths = {"name": "rec", "bubbles_per_psf_volume": 0.05, "psf_fwhm_m": [4e-4, 4e-4, 2e-4]}
    (tmp_path / "in" / "simulation.json").write_text(json.dumps({"recordings": [widths]}))
    return tmp_path / "in"


def opened(recordings: Path) -> Acquisition:
    return open_recordings(recordings / "rec.nii")[0]


def write_outputs(
    folder: Path, *points_mm: tuple[float, float, float], speed: dict[tuple[int, int, int], float]
) -> None:
    """Write an empty map, bubbles of frame 0 at these places, and a map of speeds (mm/s) at these voxels."""
    (folder / "rec").mkdir(parents=True)
    grid = COARSE.refined((8, 8, 8))
    save_map(
        folder / "rec" / "rec_density.nii.gz", np.zeros((40, 48, 56), dtype=np.float32), grid, description="counts"
    )
    values = np.full((40, 48, 56), np.nan, dtype=np.float32)
    for voxel, one in speed.items():
        values[voxel] = one
    save_map(folder / "rec" / "rec_speed.nii.gz", values, grid, description="speed")
    n = len(points_mm)
    position = COARSE.to_voxel(1e-3 * np.reshape(points_mm, (n, 3)))
    found = Localisations(np.zeros(n, dtype=np.int64), position, np.ones(n), np.full((n, 3), np.nan))
    write_localisations(folder / "rec" / "rec_localisations.csv", found, COARSE)


def test_counts_by_hand(recordings: Path, tmp_path: Path) -> None:
    from counting_bubbles import count_bubbles

    # 30 µm beside the resting bubble; 80 µm beside the moving one, a pair within λ/2 alone; and one of no bubble.
    near, far = (RESTING[0] + 0.03, *RESTING[1:]), (MOVING[0], MOVING[1], MOVING[2] - 0.08)
    write_outputs(tmp_path / "out", near, far, (0.0, 0.5, 5.0), speed={})
    (row,) = count_bubbles(tmp_path / "out", recordings)
    quarter, half = row["bubbles"]["lambda_4"], row["bubbles"]["lambda_2"]
    assert [quarter[name] for name in ("n_predicted", "n_truth", "n_pairs")] == [3, 8, 1]
    assert [half[name] for name in ("n_predicted", "n_truth", "n_pairs")] == [3, 8, 2]
    assert quarter["error_um"] == pytest.approx([30.0, 0.0, 0.0], abs=0.01)
    assert half["error_um"] == pytest.approx([30.0, 0.0, -80.0], abs=0.01)
    assert half["squared_um2"] == pytest.approx([900.0, 0.0, 6400.0], rel=1e-3, abs=0.01)
    assert half["squared_wavelengths2"] == pytest.approx([0.15**2, 0.0, 0.4**2], rel=1e-3, abs=1e-6)
    # The bubbles are 0.1, 0.15 and 0.2 mm apart at first: (1/4, 3/8, 1) widths.
    assert row["neighbours"] == {"n_truth": [0, 0, 0, 0, 8], "n_found": [0, 0, 0, 0, 1]}
    assert (row["concentration"], row["n_frames"]) == (0.05, 4)


def test_a_method_of_maps_alone_has_no_bubbles(recordings: Path, tmp_path: Path) -> None:
    from counting_bubbles import count_bubbles
    from pooling_bubbles import bubbles_over_seeds

    write_outputs(tmp_path / "out", speed={})
    for name in ("localisations.csv", "speed.nii.gz"):
        (tmp_path / "out" / "rec" / f"rec_{name}").unlink()
    rows = count_bubbles(tmp_path / "out", recordings)
    assert [rows[0][name] for name in ("bubbles", "neighbours", "speed")] == [None] * 3
    scores = bubbles_over_seeds([{"seconds": 3.0, "recordings": rows}])
    assert scores.keys().isdisjoint({"bubble_jaccard_lambda_4", "speed_error_exact"})
    assert scores["dice_lambda_10"]["mean"] == 0.0
    assert set(scores["recall_by_neighbour"].values()) == {None}


def test_the_true_speed_is_that_of_the_bubbles(recordings: Path) -> None:
    from counting_bubbles import true_speed_and_radius

    recording = opened(recordings)
    truth = read_truth(recordings / "rec_truth.csv", recording.geometry)
    speed, radius = true_speed_and_radius(truth, recording, COARSE.refined((8, 8, 8)), (40, 48, 56))
    assert speed[20, 28, 36] == 0.0
    assert radius is None
    moving = np.argwhere(speed > 0)
    assert moving.tolist() == [[28 + i, 16, 20] for i in range(4)]
    assert speed[tuple(moving.T)] == pytest.approx(np.full(4, 6.25e-3))
    assert np.isfinite(speed).sum() == 5


def test_a_bubble_that_was_away_is_two_tracks(recordings: Path) -> None:
    from counting_bubbles import true_speed_and_radius

    recording = opened(recordings)
    path = recordings / "rec_truth.csv"
    lines = path.read_text().splitlines()
    moving = [line for line in lines if line.startswith("2,")]
    path.write_text("\n".join([lines[0], moving[0], moving[2], moving[3]]) + "\n")
    speed, _ = true_speed_and_radius(
        read_truth(path, recording.geometry), recording, COARSE.refined((8, 8, 8)), (40, 48, 56)
    )
    assert np.argwhere(np.isfinite(speed))[:, 0].tolist() == [30, 31]  # one frame has no speed; no path over the gap


def test_speeds_by_hand(recordings: Path, tmp_path: Path) -> None:
    from counting_bubbles import count_bubbles
    from pooling_bubbles import pool_bubbles

    # On the moving bubble's path; one voxel (0.06 λ) beside it; where the other rests; and far from both.
    speeds = {(28, 16, 20): 5.0, (30, 17, 20): 7.5, (20, 28, 36): 1.0, (5, 5, 5): 9.0}
    write_outputs(tmp_path / "out", speed=speeds)
    rows = count_bubbles(tmp_path / "out", recordings)
    assert rows[0]["speed"]["exact"] == pytest.approx(
        {"n_voxels": 1, "speed": 5.0, "true": 6.25, "error": 1.25, "share": 0.2}
    )
    assert rows[0]["speed"]["lambda_10"] == pytest.approx(
        {"n_voxels": 2, "speed": 12.5, "true": 12.5, "error": 2.5, "share": 0.4}
    )
    scores = pool_bubbles(rows)
    assert scores["speed_ratio_exact"] == pytest.approx(0.8)
    assert [scores[f"speed_{name}_lambda_10"] for name in ("error", "error_per_voxel", "ratio")] == pytest.approx(
        [0.2, 0.2, 1.0]
    )


def test_wide_vessels_are_counted_once_more(recordings: Path, tmp_path: Path) -> None:
    """The moving bubble's vessel is narrower than a voxel in its first frame, wider from then on."""
    from counting_bubbles import count_bubbles, true_speed_and_radius
    from pooling_bubbles import pool_bubbles

    path = recordings / "rec_truth.csv"
    lines = path.read_text().splitlines()
    radii = [1.0] * 5 + [9.0] * 3  # um; four rows rest
    path.write_text("\n".join([f"{lines[0]},vessel_radius_um", *map("{},{}".format, lines[1:], radii)]) + "\n")
    recording = opened(recordings)
    truth = read_truth(path, recording.geometry)
    _, radius = true_speed_and_radius(truth, recording, COARSE.refined((8, 8, 8)), (40, 48, 56))
    assert radius is not None
    assert radius[20, 28, 36] == pytest.approx(1e-6)
    assert radius[31, 16, 20] == pytest.approx(9e-6)
    write_outputs(tmp_path / "out", speed={(28, 16, 20): 9.0, (31, 16, 20): 5.0})
    rows = count_bubbles(tmp_path / "out", recordings)
    assert rows[0]["speed"]["wide"] == pytest.approx(
        {"n_voxels": 1, "speed": 5.0, "true": 6.25, "error": 1.25, "share": 0.2}
    )
    assert rows[0]["speed"]["exact"]["n_voxels"] == 2
    assert pool_bubbles(rows)["speed_error_wide"] == pytest.approx(0.2)


def counted(n_predicted: int, n_truth: int, error_um: list[list[float]], speed: tuple[float, float]) -> dict[str, Any]:
    """One recording's row in which both gates count alike, for a wavelength of 100 µm."""
    e = np.reshape(error_um, (-1, 3))
    gate = {"n_predicted": n_predicted, "n_truth": n_truth, "n_pairs": len(e), "error_um": e.sum(axis=0).tolist()}
    squared = (e**2).sum(axis=0)
    gate |= {"squared_um2": squared.tolist(), "squared_wavelengths2": (squared / 1e4).tolist()}
    sums = {"n_voxels": 1, "speed": speed[0], "true": speed[1], "error": abs(speed[0] - speed[1]), "share": 0.5}
    near = {"n_truth": [0, 0, n_truth, 0, 2], "n_found": [0, 0, len(e), 0, 1]}
    counts = {name: [1, 1, 1, 1] for name in ("exact", "lambda_10", "lambda_4")}
    return {
        "name": "r", "n_frames": 130, "bubbles_per_mm3": 1.0, "counts": counts, "neighbours": near,
        "bubbles": {"lambda_4": gate, "lambda_2": gate}, "speed": {"exact": sums, "lambda_10": sums},
    }  # fmt: skip


def test_recordings_are_added_and_seeds_are_spread() -> None:
    from pooling_bubbles import bubbles_over_seeds, pool_bubbles

    few = counted(3, 4, [[3.0, 0.0, 1.0], [-4.0, 0.0, 1.0]], (4.0, 2.0))
    many = counted(5, 3, [[0.0, 5.0, 1.0]], (6.0, 8.0))
    both = pool_bubbles([few, many])
    assert both["bubble_jaccard_lambda_4"] == 3 / (8 + 7 - 3)
    shares = [both[f"bubble_{name}_lambda_2"] for name in ("precision", "recall", "f1")]
    assert shares == pytest.approx([3 / 8, 3 / 7, 6 / 15])
    assert [both[f"rmse_{axis}_um_lambda_4"] for axis in "xyz"] == pytest.approx([(25 / 3) ** 0.5, (25 / 3) ** 0.5, 1])
    assert both["rmse_z_wavelengths_lambda_4"] == pytest.approx(0.01)
    assert both["bias_x_um_lambda_4"] == pytest.approx(-1 / 3)
    assert (both["speed_ratio_exact"], both["speed_error_exact"], both["speed_error_per_voxel_exact"]) == (
        1.0,
        0.4,
        0.5,
    )
    none = counted(0, 2, [], (1.0, 1.0))
    seeds = [{"seconds": 4.0, "recordings": [few, many]}, {"seconds": 1.0, "recordings": [none]}]
    scores = bubbles_over_seeds(seeds)
    assert scores["bubble_jaccard_lambda_4"]["seeds"] == [0.25, 0.0]
    assert scores["rmse_x_um_lambda_4"]["seeds"] == [both["rmse_x_um_lambda_4"]]  # no pair, no error
    assert scores["seconds_per_block"]["seeds"] == [1.0, 0.5]  # 130 frames are two blocks
    assert scores["recall_by_neighbour"] == {
        "<0.25": None,
        "0.25-0.5": None,
        "0.5-0.75": 3 / 9,
        "0.75-1": None,
        ">=1": 0.5,
    }


def row_of(method: str, kind: str, jaccard: float, *, dice: float = 0.5, seconds: float = 1.0) -> dict[str, Any]:
    """One row of the comparison."""
    from pooling import spread

    case = {"set": "s", "concentration": 0.05, "method": method, "kind": kind, "seconds_per_recording": seconds}
    scores = {"dice_lambda_10": spread([dice]), "seconds_per_block": spread([seconds])}
    case["recall_by_neighbour"] = dict.fromkeys(("<0.25", "0.25-0.5", "0.5-0.75", "0.75-1", ">=1"))
    if kind != "map":
        scores |= {"bubble_jaccard_lambda_4": spread([jaccard]), "speed_error_lambda_10": spread([0.071, 0.075])}
        scores |= {f"rmse_{axis}_um_lambda_4": spread([i + 1.0]) for i, axis in enumerate("xyz")}
    return case | scores


def test_the_network_stands_beside_the_best_of_the_others() -> None:
    from localisation_tables import against_others, all_scores, by_neighbour, errors

    rows = [row_of("NET", "localisation", 0.6, dice=0.4), row_of("MAP", "map", 0.0, seconds=3.5),
            row_of("rat", "preset", 0.2, dice=0.3), row_of("kalman", "preset", 0.4, dice=0.2)]  # fmt: skip
    (line,) = against_others(rows)["rows"]
    assert line[:7] == ["s", "0.05", "NET", "0.600", "kalman", "0.400", "1.50"]
    assert line[7:] == ["1.0, 2.0, 3.0"] * 2 + ["0.400", "0.500", "0.80", "0.300", "7.3 ± 0.3 %", "—", "—"]
    assert [line[2] for line in all_scores(rows)["rows"]] == ["NET", "MAP", "rat", "kalman"]
    assert [line[2] for line in errors(rows)["rows"]] == ["NET", "kalman"]
    assert by_neighbour(rows)["rows"][1][2:] == ["kalman", *["—"] * 5]


def test_costs_stand_beside_the_reference() -> None:
    from method_costs import cost_table

    costs = {
        "NET": {"seconds_per_block": 1.0, "peak_bytes": 3 << 20},
        "MAP": {"seconds_per_block": 3.5, "peak_bytes": 7 << 20},
    }
    assert cost_table(costs, "MAP")["rows"] == [["NET", "1.00", "3.50", "3"], ["MAP", "3.50", "1.00", "7"]]
    assert cost_table(costs, None)["rows"][0] == ["NET", "1.00", "—", "3"]


def test_the_values_of_the_best_mean_are_chosen() -> None:
    from localisation_comparison import choose
    from localisation_tables import calibration_table

    rows = [
        row_of("NET", "localisation", jaccard) | {"values": {"bubble_threshold": value}, "concentration": c}
        for value, by_concentration in {0.2: (0.3, 0.3), 0.4: (0.6, 0.2), 0.6: (0.1, 0.5)}.items()
        for c, jaccard in zip((0.05, 0.2), by_concentration, strict=True)
    ]
    assert choose(rows) == {"NET": {"bubble_threshold": 0.4}}
    lines = calibration_table(rows, choose(rows))["rows"]
    assert lines[1] == ["NET", "**bubble_threshold 0.4**", "0.600", "0.200", "0.400"]
    assert lines[0][1] == "bubble_threshold 0.2"


def test_every_way_of_smoothing_is_scored_and_the_shipped_one_is_bold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import track_smoothing

    from sparse_ulm.classical.presets import GAUSSIAN_KALMAN, changed

    asked: list[Any] = []

    def scored(_work: Path, method: Any, folder: Path) -> dict[str, Any]:
        asked.append((method.config, folder.name))
        options = method.options.get("linking", method.options)
        changed(GAUSSIAN_KALMAN, **{key: value for key, value in options.items() if key not in ("preset", "weights")})
        speed = {"exact": counts, "lambda_10": counts}
        row = {"n_frames": 128, "bubbles": None, "neighbours": None, "speed": speed, "bubbles_per_mm3": 1.0}
        return {"seconds": 1.0, "recordings": [row | {"counts": {key: [4, 6, 3, 5] for key in OVERLAP}}]}

    from counting import TOLERANCES as OVERLAP

    counts = {"n_voxels": 2, "speed": 3.0, "true": 2.0, "error": 1.5, "share": 1.0}
    monkeypatch.setattr(track_smoothing, "score_bubbles", scored)
    monkeypatch.setattr(
        track_smoothing,
        "make_recordings",
        lambda work, *, bubbles_per_psf_volume, **_: work / str(bubbles_per_psf_volume[0]),
    )
    file = tmp_path / "smoothing.json"
    track_smoothing.main(["--work", str(tmp_path), "--seeds", "1", "--concentrations", "0.05", "--json", str(file)])
    capsys.readouterr()
    n_ways = len(track_smoothing.WAYS)
    assert asked == [("inference.yaml", "0.05")] * n_ways + [("classical.yaml", "0.05")] * n_ways
    rows = json.loads(file.read_text())["tables"]["track_smoothing"]["rows"]
    assert [row[:2] for row in rows if row[1].startswith("**")] == [
        ["LocalisationNet", "**bend_radius_m 0.0001**"],
        ["gaussian_kalman", "**bend_radius_m 0.0001**"],
    ]
    assert {tuple(row[3:]) for row in rows} == {("1.50", "0.75")}


def test_every_form_of_the_phase_is_trained_and_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import phase_study

    trained, asked = [], []

    def train(_work: Path, training: Any, _data: Path) -> dict[str, Any]:
        trained.append((training.options["phase"], training.seed))
        return {"folder": tmp_path / f"{training.options['phase']}-{training.seed}", "n_steps": 9, "cpu_minutes": 1.0}

    def scored(_work: Path, method: Any, folder: Path) -> dict[str, Any]:
        asked.append((method.options["phase"], method.options["weights"].parent.name, folder.name))
        n_pairs = {"as_given": 2, "steps": 4, "none": 0}[method.options["phase"]]
        errors = np.full((n_pairs, 3), 1e-5)
        from counting_bubbles import gate_counts

        pairs = np.tile(np.arange(n_pairs)[:, None], 2)
        matching = Matching(pairs=pairs, error_m=errors, n_predicted=4, n_truth=4)
        gates = dict.fromkeys(("lambda_4", "lambda_2"), gate_counts(matching, 1e-4))
        return {"recordings": [{"bubbles": gates, "speed": None}]}

    monkeypatch.setattr(phase_study, "train", train)
    monkeypatch.setattr(phase_study, "score_bubbles", scored)
    monkeypatch.setattr(phase_study, "make_recordings", lambda work, *, seed, **_: work / str(seed))
    monkeypatch.setattr(phase_study, "data_folder", lambda work, **_: work)
    file = tmp_path / "phase.json"
    phase_study.main(["--work", str(tmp_path), "--seeds", "1", "2", "--concentrations", "0.05", "--json", str(file)])
    capsys.readouterr()
    assert trained == [(phase, seed) for phase in ("as_given", "steps", "none") for seed in (1, 2)]
    assert asked[2] == ("steps", "steps-1", str(phase_study.DATA_SEED + 2))
    rows = json.loads(file.read_text())["tables"]["phase_2d"]["rows"]
    assert [row[:4] for row in rows] == [
        ["as_given", "0.333 ± 0.000", "0.333 ± 0.000", "0.100 ± 0.000"],
        ["steps", "1.000 ± 0.000", "1.000 ± 0.000", "0.100 ± 0.000"],
        ["none", "0.000 ± 0.000", "0.000 ± 0.000", "—"],
    ]


def test_the_bound_follows_the_closed_form() -> None:
    from cramer_rao import bound_m, geometry, grid_shape, image_of, psf_of

    from sparse_ulm.simulation.imaging import FWHM_PER_SIGMA

    place, shape = geometry(), grid_shape((2, 2, 3))
    psf, at = psf_of(place), np.array([12.1, 13.3, 14.7])
    found = bound_m(psf, place, shape, at, 1.0)
    # Sums over a fine grid are integrals: the image has energy prod(sqrt(pi) s / d), its slope 1 / (2 s²) of it.
    sigma, step = psf.fwhm_m / FWHM_PER_SIGMA, np.asarray(place.voxel_size_m)
    assert found == pytest.approx(sigma / np.sqrt(np.prod(np.sqrt(np.pi) * sigma / step)), rel=1e-3)
    assert bound_m(psf, place, shape, at, 0.1) == pytest.approx(0.1 * found)  # 20 dB more signal, a tenth of the error
    assert bound_m(psf, place, shape, np.array([-0.4, 13.3, 14.7]), 1.0)[0] > 1.2 * found[0]  # half of it is cut off
    # The derivative of the image, against differences of what the simulation renders.
    shift = np.array([0.0, 0.0, 0.02])
    columns = [(image_of(psf, place, shape, at + shift) - image_of(psf, place, shape, at - shift)) / (0.04 * step[2])]
    image = image_of(psf, place, shape, at)
    jacobian = np.stack([*columns, image, 1j * image], axis=-1).reshape(-1, 3)
    by_differences = np.linalg.inv(2.0 * (jacobian.conj().T @ jacobian).real)[0, 0] ** 0.5
    assert by_differences == pytest.approx(found[2], rel=1e-2)


def test_isolated_bubbles_stay_apart_and_inside() -> None:
    from cramer_rao import FWHM_WAVELENGTHS, draw_bubbles, geometry, grid_shape

    place, per_axis = geometry(), (3, 2, 4)
    tracks = draw_bubbles(np.random.default_rng(5), place, per_axis=per_axis, n_frames=32, speed_voxel=0.05)
    position = tracks.position_m[tracks.frame == 31]
    assert len(position) == 24
    apart = np.abs(position[:, None] - position[None]) / (np.asarray(FWHM_WAVELENGTHS) * place.wavelength_m)
    np.fill_diagonal(apart[..., 0], np.inf)
    assert (apart.max(axis=2) >= 2.99).all()
    voxel = place.to_voxel(tracks.position_m)
    assert (voxel > 2).all()
    assert (voxel < np.asarray(grid_shape(per_axis)) - 3).all()
    one = place.to_voxel(tracks.position_m[tracks.track_id == 3])
    assert np.linalg.norm(np.diff(one, axis=0), axis=1) == pytest.approx(np.full(31, 0.05))


def test_isolated_bubbles_through_our_preset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import cramer_rao

    options = ["--work", tmp_path, "--per_axis", 2, 1, 1, "--n_frames", 6, "--n_recordings", 1, "--snrs_db", 30]
    rows = cramer_rao.main([*map(str, options), "--localisation_weights", "--json", str(tmp_path / "c.json")])
    assert [row["motion"] for row in rows] == ["resting", "drifting"]
    assert all(row["scores"]["bubble_recall_lambda_2"] == 1.0 for row in rows)
    assert all(0.3 < over < 3.0 for row in rows for over in row["over"])
    assert "| resting | 30 | gaussian_kalman |" in capsys.readouterr().out
    assert json.loads((tmp_path / "c.json").read_text())["tables"].keys() == {"cramer_rao"}


@pytest.mark.filterwarnings("ignore:.*no track among")
def test_the_comparison_runs_with_a_preset_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import localisation_comparison as comparison
    import method_costs

    monkeypatch.setitem(comparison.GRIDS, "gaussian_kalman", {"noise_factor": (4.0, 1000.0)})
    monkeypatch.setattr(method_costs, "peak_bytes", lambda method, folder: 7 << 20)  # a process costs seconds
    shared = ["--work", tmp_path / "work", "--localisation_weights", "--weights", "--presets", "gaussian_kalman"]
    shared += ["--n_recordings", 1, "--seeds", 3, "--concentrations", 0.05, "--n_frames", 12, "--grid_size", 8, 9, 10]
    shared += ["--sets", "in distribution", "--training", "side_lobe_share=0", "snr_db=30"]
    (row,) = comparison.main([*map(str, shared), "--json", str(tmp_path / "c.json")])
    assert (row["method"], row["kind"], row["concentration"]) == ("gaussian_kalman", "preset", 0.05)
    assert 0.0 < row["bubble_recall_lambda_2"]["mean"] <= 1.0
    record = json.loads((tmp_path / "c.json").read_text())
    assert record["tables"]["localisation_costs"]["rows"][0][-1] == "7"
    assert str(tmp_path) not in json.dumps(record["settings"])
    (folder,) = (tmp_path / "work" / "recordings").iterdir()
    options = ["--calibrate", folder, "--json", tmp_path / "chosen.json"]
    comparison.main([*map(str, shared + options)])
    chosen = json.loads((tmp_path / "chosen.json").read_text())["chosen"]
    assert chosen == {"gaussian_kalman": {"noise_factor": 4.0}}
    assert "**noise_factor 4**" in capsys.readouterr().out
    args = comparison.parse([*map(str, shared), "--calibration", str(tmp_path / "chosen.json")])
    assert comparison.compared_methods(args)[0].options == {"preset": "gaussian_kalman", "noise_factor": 4.0}


def test_kinds_of_methods(tmp_path: Path) -> None:
    from localisation_comparison import compared_methods, kind_of, parse

    weights = ["--localisation_weights", "models/a.pt", "wide=models/b.pt", "--weights", "old=models/c.pt@0.4"]
    methods = compared_methods(parse(["--work", str(tmp_path), *weights, "--presets", "pala_rat"]))
    assert [m.name for m in methods] == ["LocalisationNet", "wide", "old", "pala_rat"]
    assert [kind_of(m) for m in methods] == ["localisation", "localisation", "map", "preset"]
    assert methods[1].options == {"weights": Path("models/b.pt"), "method": "localisation"}
