"""Tables between markers: replaced exactly there, and refused where one has no place."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (
    "before\n<!-- table: one -->\nold\n<!-- end -->\nbetween | not a table\n<!-- table: two -->\n<!-- end -->\nafter\n"
)


@pytest.fixture(autouse=True)
def benchmarks_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def record(**tables: Any) -> dict[str, Any]:
    """What a comparison writes."""
    git = {"commit": "0123456789abcdef", "dirty": True}
    return {
        "software": {"git": git},
        "finished_utc": "2026-11-23T01:02:03",
        "minutes": 12.4,
        "tables": {name: {"header": ["set", "Dice"], "rows": rows} for name, rows in tables.items()},
    }


def test_only_what_lies_between_markers_changes() -> None:
    from write_docs import fill

    assert fill(TEXT, {"one": "new\n"}) == TEXT.replace("old\n", "new\n")
    filled = fill(TEXT, {"one": r"\1 new" "\n", "two": "more\n"})
    assert filled == TEXT.replace("old\n", "\\1 new\n").replace("two -->\n", "two -->\nmore\n")
    assert fill(filled, {"one": "old\n", "two": ""}) == TEXT


def test_tables_without_a_place_are_refused() -> None:
    from machine import BenchmarkError
    from write_docs import fill

    with pytest.raises(BenchmarkError, match="no marker <!-- table: three -->"):
        fill(TEXT, {"one": "", "two": "", "three": ""})
    with pytest.raises(BenchmarkError, match="no <!-- end -->"):
        fill(TEXT.replace("old\n<!-- end -->", "old"), {"one": ""})
    with pytest.raises(BenchmarkError, match="one: filled, but no file"):
        fill(TEXT, {"two": ""})
    with pytest.raises(BenchmarkError, match="one: marked more than once"):
        fill(TEXT.replace("two", "one"), {"one": ""})


def test_files_of_results_become_the_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from write_docs import main

    docs, results = tmp_path / "benchmarks.md", tmp_path / "results"
    results.mkdir()
    docs.write_text(TEXT)
    (results / "first.json").write_text(json.dumps(record(one=[["a", "0.5"]])))
    drawn = record(two=[["b", "0.6"]]) | {"figures": {"two": "figures/two.png"}}
    (results / "second.json").write_text(json.dumps(drawn))
    (results / "old_benchmark.json").write_text("{}")
    options = ["--docs", str(docs), "--results", str(results)]
    assert main([*options, "--check"]) == 1
    assert docs.read_text() == TEXT
    assert main(options) == 0
    origin = "*benchmarks/results/first.json: 12 minutes, commit 0123456789 with changes, 2026-11-23.*"
    assert (
        f"<!-- table: one -->\n| set | Dice |\n| --- | ---: |\n| a | 0.5 |\n\n{origin}\n<!-- end -->\n"
        in docs.read_text()
    )
    assert "<!-- table: two -->\n![two](figures/two.png)\n\n| set | Dice |\n" in docs.read_text()
    assert main([*options, "--check"]) == 0
    (results / "third.json").write_text(json.dumps(record(two=[])))
    with pytest.raises(Exception, match=r"third.json: table two stands in another file"):
        main(options)
    assert "tables rewritten" in capsys.readouterr().out


def test_the_shipped_tables_are_those_of_the_shipped_results() -> None:
    from write_docs import main

    assert main(["--check"]) == 0


def test_every_table_of_the_page_is_filled_by_a_benchmark() -> None:
    from write_docs import DOCS, MARKED, OPENING

    text = DOCS.read_text(encoding="utf-8")
    by_hand = [line for line in MARKED.sub("", text).splitlines() if line.startswith(("|", "!["))]
    assert by_hand == []
    costs = {"sparsification", "sparsification_dice", "engines", "engine_targets", "threads", "training_step",
             "inference_block", "training_memory", "dense_memory", "dense_inference"}  # fmt: skip
    assert costs <= set(OPENING.findall(text))


def test_make_runs_every_benchmark_of_the_page() -> None:
    from write_docs import DOCS

    text = DOCS.read_text(encoding="utf-8").replace("\\\n", "")
    written = set(re.findall(r"benchmarks/(\w+)\.py [^#\n]*--json", text))
    made = set(re.findall(r"benchmarks/(\w+)\.py", (ROOT / "Makefile").read_text(encoding="utf-8")))
    assert {"domain_shift", "engines", "dense_memory"} < written
    assert written <= made


def test_minutes_of_a_whole_run_are_those_of_its_scripts(tmp_path: Path) -> None:
    import whole_run

    for name, minutes in (("short", 1.6), ("long", 61.2)):
        (tmp_path / f"{name}.json").write_text(json.dumps(record() | {"minutes": minutes}))
    file = tmp_path / "whole_run.json"
    started = (datetime.now(UTC) - timedelta(minutes=90)).strftime("%Y-%m-%dT%H:%M:%SZ")
    for _ in range(2):  # the second time its own file lies there too
        options = ["--results", str(tmp_path), "--jobs", "2", "--started", started, "--json", str(file)]
        found = whole_run.main(options)
    assert found == pytest.approx({"long": 61.2, "short": 1.6, "whole": 90.0}, abs=0.1)
    kept = json.loads(file.read_text())
    assert kept["tables"]["whole_run"]["rows"] == [["long", "61"], ["short", "2"], ["all, 2 at a time", "90"]]
    assert kept["minutes"] == pytest.approx(90.0, abs=0.1)
