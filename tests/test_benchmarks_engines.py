"""The engines' benchmark: its sites are what it says, its checks hold the right numbers against each other, it runs."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sparse_ulm.sparse import SparseTensor
from sparse_ulm.sparse import tap_offsets as native_offsets

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
KEYS = ["engine", "kind", "sites", "channels", "threads", "map_ms", "forward_ms", "forward_backward_ms", "peak_mb",
        "floor_ms"]  # fmt: skip


@pytest.fixture(autouse=True)
def benchmarks_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def row(engine: str, **changes: Any) -> dict[str, Any]:
    usual = {"kind": "factorised", "sites": 200_000, "channels": 16, "threads": 1, "map_ms": 20.0, "forward_ms": 40.0,
             "forward_backward_ms": 100.0, "peak_mb": 80.0, "floor_ms": 20.0}  # fmt: skip
    return {"engine": engine} | usual | changes


def outcomes(rows: list[dict[str, Any]]) -> dict[str, tuple[float, bool]]:
    from engine_targets import check_targets

    return {check.target: (check.measured, check.reached) for check in check_targets(rows)}


@pytest.mark.parametrize("n_sites", [1, 999, 20_000])
def test_sites_are_counted_sorted_and_inside(n_sites: int) -> None:
    from workload import moving_blobs

    coords, extent = moving_blobs(n_sites, seed=3)
    assert coords.shape == (n_sites, 5)
    assert coords.dtype == torch.int32
    assert coords.is_contiguous()
    # The public constructor refuses what is outside or there twice, and would sort.
    x = SparseTensor(coords, torch.zeros(n_sites, 1), spatial_range=extent)
    assert torch.equal(x.coords, coords)
    assert not torch.equal(moving_blobs(n_sites, seed=4)[0], coords)


def test_sites_have_the_neighbours_of_moving_cubes() -> None:
    from workload import SPATIAL, TEMPORAL, count_pairs, grid_for, moving_blobs

    coords, extent = moving_blobs(50_000, seed=1)
    assert 15 < count_pairs(coords, extent, SPATIAL) / 50_000 < 17
    assert 2.3 < count_pairs(coords, extent, TEMPORAL) / 50_000 < 2.6
    occupancy = {n: n / torch.Size(grid_for(n)).numel() for n in (200_000, 800_000, 3_200_000)}
    assert set(occupancy.values()) == {200_000 / (32**3 * 512)}


def test_pairs_by_hand() -> None:
    from workload import count_pairs, neighbour_pairs, tap_offsets

    # Neighbours along x and t; the third is the second's neighbour only across the grid's border.
    coords = torch.tensor([[0, 0, 0, 1, 6], [0, 1, 0, 1, 6], [0, 1, 0, 2, 0]], dtype=torch.int32)
    extent = (1, 2, 3, 4, 7)
    assert count_pairs(coords, extent, (3, 3, 3, 3)) == 5
    assert count_pairs(coords, extent, (1, 1, 1, 3)) == 3
    offsets = tap_offsets((3, 1, 1, 1))
    assert [(i.tolist(), o.tolist()) for i, o in neighbour_pairs(coords, extent, offsets)] == [
        ([0], [1]), ([0, 1, 2], [0, 1, 2]), ([1], [0]),
    ]  # fmt: skip
    assert torch.equal(tap_offsets((3, 3, 3, 3)), native_offsets((3, 3, 3, 3)))
    assert torch.equal(tap_offsets((5, 3, 1, 3)), native_offsets((5, 3, 1, 3)))


def test_floor_by_hand() -> None:
    from engines import floor_ms
    from workload import KINDS

    rates = {"gemm_flops": 1e9, "copy_bytes_s": 1e9}
    # 2 * 1000 * 8^2 operations against 4 * (2 * 100 * 8 + 27 * 8^2) bytes; 2 * 10 * 8^2 against 4 * (... + 3 * 8^2).
    assert floor_ms(KINDS["factorised"], [1000, 10], 100, 8, rates) == pytest.approx((128_000 + 7168) / 1e6)


def test_targets_reached_and_missed() -> None:
    rivals = [
        row("spconv", map_ms=100.0, forward_backward_ms=180.0, peak_mb=90.0),
        row("minkowski", forward_backward_ms=500.0),
    ]
    assert outcomes([row("native"), *rivals]) == {
        "forward + backward over spconv's": (pytest.approx(100 / 180), False),
        "forward + backward over minkowski's": (pytest.approx(0.2), True),
        "map over spconv's": (pytest.approx(0.2), True),
        "peak memory over spconv's": (pytest.approx(80 / 90), True),
        "floor over forward": (0.5, True),
    }
    found = outcomes([row("native", peak_mb=91.0, map_ms=30.0, forward_ms=51.0), *rivals])
    assert [found[name][1] for name in ("peak memory over spconv's", "map over spconv's", "floor over forward")] == [
        False, False, False,
    ]  # fmt: skip


def test_targets_between_threads_and_sizes() -> None:
    rows = [row("native"), row("native", threads=2, forward_backward_ms=60.0),
            row("native", sites=3_200_000, map_ms=320.0, forward_backward_ms=16 * 161.0)]  # fmt: skip
    found = outcomes(rows)
    assert found["forward + backward, 1 thread over 2"] == (pytest.approx(100 / 60), True)
    assert found["map + forward + backward per site over that at 200000"] == (pytest.approx(181 / 120), False)


def test_targets_need_their_measurements() -> None:
    assert outcomes([row("native-torch"), row("spconv")]) == {}
    assert set(outcomes([row("native", sites=50_000, peak_mb=None), row("spconv", sites=50_000, channels=32)])) == set()
    assert set(outcomes([row("native", channels=32, forward_ms=41.0)])) == {"floor over forward"}
    assert outcomes([row("native", channels=32, forward_ms=41.0)])["floor over forward"][1] is False


def test_tables_tell_what_is_unknown_and_missed() -> None:
    import engines

    rows = [row("native", forward_ms=80.0), row("torchsparse", map_ms=None, forward_ms=2000.4)]
    assert "| native | factorised | 200000 | 16 | 1 | 20.0 | 80.0 | 100 | 80.0 | 20.0 | 25% |" in engines.table(rows)
    assert "| — | 2000 | 100 | 80.0 | 20.0 | 1% |" in engines.table(rows)
    assert (
        "| floor over forward | factorised, 200000 sites, C16, 1 thread | 0.25 | ≥ 0.4 | MISSED |"
        in engines.targets(rows)
    )


def test_kept_tables_leave_out_what_all_rows_share() -> None:
    import engines

    rows = [row("native"), row("native", channels=32, forward_ms=41.0), row("dense", map_ms=None)]
    tables = engines.kept_tables(rows)
    header = ["engine", "channels", "map ms", "forward ms", "fwd+bwd ms", "peak MB", "floor ms", "floor / forward"]
    assert tables["engines"]["header"] == header
    assert tables["engines"]["rows"][2] == ["dense", "16", "—", "40.0", "100", "80.0", "20.0", "50%"]
    assert [line[2:] for line in tables["engine_targets"]["rows"]] == [
        ["0.50", "≥ 0.4", "reached"],
        ["0.49", "≥ 0.5", "MISSED"],
    ]
    assert engines.kept_tables([row("dense")])["engine_targets"]["rows"] == []


def test_a_wrong_engine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import engine_runs
    from rivals import RIVALS, NativeTorch

    class Wrong(NativeTorch):
        def __call__(self, feats: torch.Tensor) -> torch.Tensor:
            return super().__call__(feats * 1.001)

    class Failing(NativeTorch):
        def build_maps(self) -> None:
            raise RuntimeError("no map")

    monkeypatch.setitem(RIVALS, "spconv", Wrong)
    monkeypatch.setitem(RIVALS, "minkowski", Failing)
    case = engine_runs.make_case(*engine_runs.moving_blobs(50, seed=1), engine_runs.KINDS["factorised"], 2, seed=1)
    job = {"threads": 1, "seed": 1, "rounds": 1, "kinds": ["factorised"]}
    found = engine_runs._times(["native-torch", "spconv", "minkowski", "dense"], {("factorised", 2): case}, job)
    assert [result["engine"] for result in found["times"]] == ["native-torch", "dense"]
    assert found["refused"] == {
        "spconv, factorised, 2 channels": "differs from native-torch by 1.0e-03",
        "minkowski, factorised, 2 channels": "fails with RuntimeError: no map",
    }


@pytest.mark.parametrize("kind", ["factorised", "hypercubic"])
def test_compiled_native_and_dense_pass_the_check(kind: str) -> None:
    import engine_runs
    from rivals import RIVALS, why_missing

    names = [name for name in ("native", "dense") if kind in RIVALS[name].kinds and why_missing(name) is None]
    assert {name: engine_runs.why_refused(RIVALS[name], kind, 3, seed=2) for name in names} == dict.fromkeys(names)


def test_missing_engines_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import rivals

    def fail() -> None:
        raise AssertionError("Torch not compiled\n with CUDA enabled")

    monkeypatch.setattr(rivals.RIVALS["torchsparse"], "load", fail)
    reason = rivals.why_missing("torchsparse")
    assert reason is not None
    assert reason.startswith("torchsparse is missing (AssertionError: Torch not compiled with CUDA enabled); to get it")


@pytest.mark.slow
def test_runs_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import engines
    from rivals import why_missing

    file = tmp_path / "engines.json"
    # MinkowskiEngine is missing here, as a rule; where it is not, it has a row.
    names = ["native-torch", "minkowski"]
    present = [name for name in names if why_missing(name) is None]
    options = "--sites 2000 --channels 3 --rounds 1 --threads 1 --kinds factorised --engines"
    rows = engines.main([*options.split(), *names, "--json", str(file)])
    assert [r["engine"] for r in rows] == present
    for r in rows:
        assert list(r) == KEYS
        assert 0 < r["forward_ms"] < r["forward_backward_ms"] < 1e4
        assert r["map_ms"] > 0
        assert 0 < r["floor_ms"] < r["forward_ms"]
        assert 0.05 < r["peak_mb"] < 100
    record = json.loads(file.read_text())
    assert record["rows"] == rows
    assert record["machine"]["logical_cores"] > 0
    assert set(record["missing"]) == set(names) - set(present)
    assert [line[0] for line in record["tables"]["engines"]["rows"]] == present
    assert record["minutes"] > 0
    assert "pairs per site factorised" in capsys.readouterr().out
