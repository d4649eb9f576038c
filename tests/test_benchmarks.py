"""The benchmarks run, at sizes that take a moment, and their counts are right where they can be counted by hand."""

import json
import sys
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from sparse_ulm.networks.candidate import CandidateNet
from sparse_ulm.networks.deep_stulm import DeepStulm

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(autouse=True)
def benchmarks_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def read_config(name: str) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(str(ROOT / "configs" / name))
    return parser


def test_lost_bubbles_are_counted() -> None:
    from sparsification import Count

    mask = torch.zeros(5, 6, 7, 2, dtype=torch.bool)
    mask[1, 1, 1, 0] = mask[4, 5, 6, 1] = True
    count = Count()
    # At the kept voxel; beside it; two voxels off; beside it but in the other frame.
    count.add(mask, torch.tensor([[1, 1, 1, 0], [4, 5, 5, 1], [3, 1, 1, 0], [1, 1, 1, 1]]).numpy())
    assert count.shares() == {
        "kept_share": 2 / 420,
        "sites_per_bubble": 0.5,
        "lost_own_voxel": 0.75,
        "lost_3x3x3": 0.5,
    }


def test_sparsification_tells_rules_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import sparsification

    file, weights = tmp_path / "sparsification.json", tmp_path / "candidate.pt"
    torch.manual_seed(1)
    torch.save({"model": CandidateNet(spatial_dims=3).state_dict()}, weights)
    options = f"--recordings 1 --grid_size 9 10 11 --frames 6 --concentrations 0.05 --candidate_weights {weights}"
    results = sparsification.main([*options.split(), "--json", str(file)])
    rules = results[0]["rules"]
    loose, tight = rules["iq_over_noise 2.0, faintest"], rules["iq_over_noise 3.0, faintest"]
    assert loose["kept_share"] > tight["kept_share"] > 0
    assert loose["lost_own_voxel"] <= tight["lost_own_voxel"]
    shares = [rules[f"learned, p > {p}"]["kept_share"] for p in (0.1, 0.5, 0.9)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0
    assert rules["top_k 10k of 524k"]["kept_share"] == pytest.approx(10_000 / 524_288, abs=1e-3)
    assert all(share["lost_3x3x3"] <= share["lost_own_voxel"] for share in rules.values())
    record = json.loads(file.read_text())
    assert record["results"][0]["true_bubbles"] == results[0]["true_bubbles"] > 0
    assert "| iq_over_noise 2.5, faintest |" in capsys.readouterr().out
    assert set(record["tables"]) == {"sparsification"}
    assert str(tmp_path) not in file.read_text()


def test_dice_per_rule_differs_by_the_rule_alone(tmp_path: Path) -> None:
    from sparsification_dice import report_dice, trainings_of_rules

    trainings = trainings_of_rules(tmp_path, 3, tmp_path / "candidate.pt")
    own = {"site_rule", "noise_factor", "noise_measure", "correlation_threshold", "max_sites"}
    rest = [{k: v for k, v in t.options.items() if k not in own} | {"seed": t.seed} for t in trainings.values()]
    assert rest == [rest[0]] * len(trainings)
    # The learned rule's overlay reaches the transform, which tells by its error that it read the weights' path.
    config = ConfigParser()
    config.read_config([str(ROOT / "configs" / name) for name in trainings["learned, p > 0.5"].configs])
    config["bundle_root"] = str(ROOT)
    (step,) = (s for s in config.get_parsed_content("preprocessing").transforms if hasattr(s, "candidate_weights"))
    assert step.selection["rule"] == "learned"
    assert step.candidate_weights == str(tmp_path / "candidate.pt")
    row = {"rule": "r", "cpu_minutes": 2.0, "dice_lambda_10": {0.05: 0.5, 0.2: 0.25}}
    assert "| r | 0.500 | 0.250 | 2.0 |" in report_dice([row])


def test_rules_and_their_dice_are_two_tables_of_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sparsification

    shares = {"kept_share": 0.0434, "sites_per_bubble": 117.2, "lost_own_voxel": 0.064, "lost_3x3x3": 0.028}
    result = {"rules": {"a rule": shares}, "true_bubbles": 576, "faintest_over_true_noise": [1.06, 1.01],
              "differences_over_true_noise": [1.0, 0.99]}  # fmt: skip
    monkeypatch.setattr(sparsification, "measure", lambda c, *_: result | {"bubbles_per_psf_volume": c})
    rows = [{"rule": "a rule", "cpu_minutes": 2.0, "dice_lambda_10": {0.05: 0.5, 0.2: 0.25}}]
    monkeypatch.setattr(sparsification, "dice_of_rules", lambda *_, **__: rows)
    file = tmp_path / "sparsification.json"
    sparsification.main(["--concentrations", "0.01", "0.2", "--dice", str(tmp_path), "--json", str(file)])
    tables = json.loads(file.read_text())["tables"]
    cell = "4.3 / 117 / 6.4 / 2.8"
    assert tables["sparsification"] == {
        "header": ["rule", "0.01", "0.2"],
        "rows": [
            ["a rule", cell, cell],
            ["true bubbles", "576", "576"],
            ["noise over true noise, faintest", "1.01 to 1.06", "1.01 to 1.06"],
            ["noise over true noise, differences", "0.99 to 1.00", "0.99 to 1.00"],
        ],
    }
    assert tables["sparsification_dice"]["rows"] == [["a rule", "0.500", "0.250", "2.0"]]


def test_saved_bytes_by_hand() -> None:
    from dense_counterpart import SavedBytes

    x, weight = torch.ones(5, 6), torch.ones(6, 7, requires_grad=True)
    saved = SavedBytes()
    with saved.counting():
        y = (x @ weight).sigmoid()  # saves x (5 x 6) and its own result (5 x 7), and a weight, which does not count
        (y * y).sum()  # saves the result again, which counts once
    assert saved.total == 4 * (5 * 6 + 5 * 7)


def test_dense_counterpart_has_the_layers_of_the_sparse_network() -> None:
    from dense_counterpart import DenseCounterpart

    config = read_config("train.yaml")
    network = config.get_parsed_content("network_def")
    sizes = {key: config[key] for key in ("encoder_widths", "refine_widths", "temporal_strides")}
    shapes = []

    class Listing(DenseCounterpart):
        def _parameter(self, *shape: int) -> torch.Tensor:
            shapes.append(shape)
            return super()._parameter(*shape)

    Listing(sizes | {"in_channels": 4}, with_heads=True).step((8, 8, 8), 32, enter=lambda stage: None)
    weights = sum(torch.Size(shape).numel() for shape in shapes)
    assert weights == sum(p.numel() for p in network.parameters()) - 4  # the biases of three heads and the last layer


def test_meta_and_real_tensors_save_alike() -> None:
    from dense_counterpart import count_dense

    sizes = {
        "in_channels": 2,
        "encoder_widths": [3, 4, 5],
        "refine_widths": [6, 5, 4, 3],
        "temporal_strides": [2, 2, 1],
    }
    meta, real = (count_dense(sizes, (4, 8, 4), 8, with_heads=True, device=device) for device in ("meta", "cpu"))
    assert meta == real
    slots = 2
    cells = 32 * 64 * 32
    # Refined by 8: 6 tensors over the slots (after upsampling, two convolutions, two ReLU, the sum), then the pooled
    # one, two of the last block, its sum, and the probability with a one-byte target; statistics are a few bytes.
    by_hand = 4 * cells * (6 * 3 * slots + 4 * 3 + 1) + cells
    assert meta["grid refined by 8"] == pytest.approx(by_hand, abs=1000)


def test_training_memory_measures_and_counts(tmp_path: Path) -> None:
    import training_memory

    file = tmp_path / "memory.json"
    options = "--frames 64 --grid 16 --bubbles 12 --json"
    (result,) = training_memory.main([*options.split(), str(file)])
    sparse = result["sparse"]
    assert 0 < sparse["saved_bytes"] < sparse["peak_bytes"] < 1e9
    assert len(sparse["sites_of_heads"]) == 4
    assert 0 < result["block"]["sites"] <= result["block"]["sites_before_budget"]
    record = json.loads(file.read_text())
    assert record["results"][0]["dense_saved_bytes"] == result["dense_saved_bytes"]
    assert record["tables"]["training_memory"]["rows"][0][0] == "16x16x16x64"
    assert record["minutes"] > 0


def test_bytes_alive_by_hand() -> None:
    from dense_memory import LiveBytes

    with LiveBytes() as live:
        x = torch.ones(5, 6)
        y = x + 1  # 2 x 30 numbers alive
        del x
        (y.view(6, 5) * 2).sum()  # again 2 x 30, and a sum beside them
    assert live.peak == 4 * 61
    assert live.live == 4 * 30


def test_slabs_of_the_dense_network_add_up_to_the_whole() -> None:
    from dense_memory import refine_in_slabs

    torch.manual_seed(1)
    net = DeepStulm(spatial_dims=3, encoder_widths=(4, 4, 4), refine_width=3, temporal_strides=(2, 2, 2, 1)).eval()
    x = torch.randn(1, 1, 3, 12, 1, 2)
    with torch.no_grad():
        torch.testing.assert_close(refine_in_slabs(net, x, width=5), net.refine(x), atol=1e-5, rtol=1e-5)


def test_dense_memory_compares_both_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dense_memory

    block = dense_memory.Block((16, 1, 20), 64, 4, (4, 4, 4, 1), target=4.0)
    monkeypatch.setitem(dense_memory.BLOCKS, "2d_ours", block)
    monkeypatch.setattr(dense_memory, "child", lambda *options: {"peak_bytes": 1 << 30})
    sparse = {"peak_bytes": 1 << 20, "saved_bytes": 1 << 19}
    monkeypatch.setattr(dense_memory, "measure_apart", lambda *options: sparse)
    file = tmp_path / "memory.json"
    (result,) = dense_memory.main(["--blocks", "2d_ours", "--json", str(file)])
    assert result["block"] == "16x20x64"
    # On the finest grid and on one slot: four convolutions with their norms, and the sums, of 16 channels.
    finest = 128 * 160 * 16 * 4
    assert 10 * finest < result["dense_saved_bytes"] < 40 * finest
    assert 0 < result["sites"] < 16 * 20 * 64
    record = json.loads(file.read_text())
    assert record["results"][0]["dense_peak_bytes"] == 1 << 30
    (row,) = record["tables"]["dense_memory"]["rows"]
    assert row[-3:] == ["1.02e+03", "≥ 2: reached", "≥ 4: reached"]


def test_dense_memory_misses_are_told() -> None:
    from dense_memory_tables import inference_table, memory_table

    sparse = {"peak_bytes": 4 << 20, "saved_bytes": 1 << 20}
    row = {"block": "b", "sites": 5, "sparse": sparse, "dense_saved_bytes": 12 << 20, "claim": 2.0, "target": 4.0}
    rows = memory_table([row | {"dense_peak_bytes": 16 << 20}, row | {"dense_peak_bytes": None}])["rows"]
    assert [r[-3:] for r in rows] == [["4", "≥ 2: reached", "≥ 4: reached"], ["3", "≥ 2: reached", "≥ 4: MISSED"]]
    assert rows[1][5] == "counted only"
    measured = {"peak_bytes": 1 << 30, "cpu_s": 12.4}
    counted = {"counted_bytes_small": 2 << 30, "counted_bytes": 3 << 30, "counted_bytes_in_slabs": 1 << 29}
    table = inference_table({"measured": measured} | counted)
    assert table["rows"][0] == ["16x16x16x128, measured", "1.00 GiB", "12 s"]
    assert [r[1] for r in table["rows"][1:]] == ["2.00 GiB", "3.0 GiB", "0.5 GiB"]


def test_threads_are_timed_in_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threads

    calls = []
    monkeypatch.setattr(threads, "network_work", lambda *_: (lambda: calls.append("step"), lambda: calls.append("map")))
    monkeypatch.setattr(threads, "keep_freed_memory", lambda: None)
    file, before = tmp_path / "threads.json", torch.get_num_threads()
    options = "--threads 2 1 --busy 0 --rounds 2 --sites 300 --json"
    results = threads.main([*options.split(), str(file)])
    torch.set_num_threads(before)
    assert calls == ["step"] * 2 + ["map"] * 2 + (["step"] * 2 + ["map"] * 2) * 2
    assert [r["work"] for r in results] == ["layer", "step", "map"]
    table = json.loads(file.read_text())["tables"]["threads"]
    assert table["header"] == ["work", "busy processes", "2 threads, ms", "1 threads, ms", "2 over 1"]
    by_hand = threads.time_table([{"work": "w", "busy": 1, "ms": {1: 30.0, 2: 20.0}}], [1, 2])
    assert by_hand["rows"] == [["w", "1", "30", "20", "1.50"]]


def test_training_step_is_told_with_and_without_another_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import training_step

    def child(checkout: Path, path: Path, args: object) -> dict[str, float]:
        return dict.fromkeys(training_step.PARTS, 10.0 if checkout == ROOT else 25.0)

    monkeypatch.setattr(training_step, "prepare_block", lambda *_: {"sites": 7})
    monkeypatch.setattr(training_step, "run_child", child)
    file = tmp_path / "step.json"
    training_step.main(["--rounds", "1", "--json", str(file)])
    table = json.loads(file.read_text())["tables"]["training_step"]
    assert table["header"] == ["part, ms", "this checkout"]
    assert ["optimiser", "10"] in table["rows"]
    (tmp_path / "before").mkdir()
    training_step.main(["--rounds", "1", "--against", str(tmp_path / "before"), "--json", str(file)])
    assert "| part, ms | this checkout | before | ratio |" in capsys.readouterr().out
    assert ["step", "10", "25", "2.50"] in json.loads(file.read_text())["tables"]["training_step"]["rows"]
    assert str(tmp_path) not in file.read_text()


def test_inference_costs_are_held_against_the_targets() -> None:
    from inference_block import cost_table

    result = {"wall_s": 61.0, "work_s": 5.0, "cpu_s": 6.0, "peak_bytes": 2.5e9, "threads": 1, "sites_per_block": [5, 8]}
    rows = cost_table(result, with_targets=True)["rows"]
    assert ["wall time of the process", "61.0 s", "< 60 s: MISSED"] in rows
    assert ["peak memory", "2.50 GB", "< 3 GB: reached"] in rows
    assert ["peak memory", "2.50 GB", "-"] in cost_table(result, with_targets=False)["rows"]


@pytest.mark.slow  # a fresh process imports everything; tests/bundle runs the same config in this one
def test_inference_block_runs_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import inference_block

    torch.manual_seed(5)
    weights = tmp_path / "model.pt"
    torch.save({"model": read_config("inference.yaml").get_parsed_content("network_def").state_dict()}, weights)
    monkeypatch.setattr(inference_block, "QUICK", (8, 32))
    result = inference_block.main(["--quick", "--threads", "1", "--bubbles", "2", "--weights", str(weights)])
    assert result["wall_s"] > result["work_s"] > 0
    assert 1e8 < result["peak_bytes"] < 3e9
    assert len(result["sites_per_block"]) == 1


def test_missing_weights_and_failing_commands_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import inference_block
    import machine

    with pytest.raises(SystemExit):
        inference_block.main(["--weights", str(tmp_path / "none.pt")])
    assert "none.pt does not exist" in capsys.readouterr().err
    with pytest.raises(machine.BenchmarkError, match="no such thing"):
        machine.run_measured([sys.executable, "-c", "raise SystemExit('no such thing')"])


def test_peak_memory_is_the_childs_own() -> None:
    import machine

    ballast = bytearray(b"1" * (200 << 20))
    run = machine.run_measured([sys.executable, "-I", "-S", "-c", "x = b'1' * (50 << 20)"])
    assert 50 << 20 < run.peak_bytes < len(ballast)
    assert run.cpu_s <= run.wall_s * 1.5


def test_ranks_are_timed_in_turns_and_compared_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ranks as benchmark

    calls: list[tuple[str, int]] = []

    def run(data: Path, output: Path, method: str, n_ranks: int, block_frames: int) -> dict[str, float]:
        calls.append((method, n_ranks))
        (output / "rec").mkdir(parents=True)
        (output / "rec" / "provenance.json").write_text(str(len(calls)))  # tells the time: may differ
        (output / "rec" / "map").write_text("a" if method == "classical" else str(n_ranks))
        late = 0.5 * (len(calls) < 5)  # of the first round
        return {"work_s": 30.0 / n_ranks + late, "whole_s": 10.0 + 30.0 / n_ranks + late}

    monkeypatch.setattr(benchmark, "run", run)
    monkeypatch.setattr(benchmark, "simulate", lambda *_: None)
    file = tmp_path / "ranks.json"
    options = "--ranks 1 3 --rounds 2 --methods classical localisation --json"
    benchmark.main([*options.split(), str(file)])
    assert calls == [("classical", 1), ("classical", 3), ("localisation", 1), ("localisation", 3)] * 2
    kept = json.loads(file.read_text())["tables"]["ranks"]
    assert kept["header"] == [
        "method", "work, 1 processes, s", "work, 3 processes, s", "1 over 3", "command, 1 processes, s",
        "command, 3 processes, s", "1 over 3", "same bits",
    ]  # fmt: skip
    assert kept["rows"] == [
        ["classical", "30.0", "10.0", "3.00", "40.0", "20.0", "2.00", "yes"],
        ["localisation", "30.0", "10.0", "3.00", "40.0", "20.0", "2.00", "NO"],
    ]
