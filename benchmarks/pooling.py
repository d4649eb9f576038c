"""From counts to the numbers in a table: counts of recordings are added, seeds give mean and standard deviation."""

import argparse
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from counting import TOLERANCES
from machine import machine_line, markdown_table, write_json
from referee import fingerprint

from sparse_ulm.metrics import scores_from_counts

Table = dict[str, Any]
"""`header` and `rows` of text: what the JSON files keep and `write_docs.py` lays out."""


def pool(rows: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Add the counts of recordings and give `dice_lambda_10`, `precision_exact` and so on for every tolerance."""
    counts = [row["counts"] for row in rows]
    scores: dict[str, float] = {}
    for tolerance in TOLERANCES:
        total = np.sum([count[tolerance] for count in counts], axis=0).tolist()
        scores |= {f"{name}_{tolerance}": value for name, value in scores_from_counts(*total).items()}
    return scores


def over_seeds(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Pool each seed's recordings, then give mean and spread over seeds of every score.

    Args:
        results: One per seed, as `referee.score` gives them.

    Returns:
        Per score `mean`, `sd` (None for one seed) and `seeds`; `seconds_per_recording`; `bubbles_per_mm3`.
    """
    pooled = [pool(result["recordings"]) for result in results]
    scores: dict[str, Any] = {name: spread([one[name] for one in pooled]) for name in pooled[0]}
    rows = [row for result in results for row in result["recordings"]]
    densities = [row["bubbles_per_mm3"] for row in rows if row["bubbles_per_mm3"] is not None]
    seconds = sum(result["seconds"] for result in results) / len(rows)
    return scores | {
        "seconds_per_recording": seconds,
        "bubbles_per_mm3": float(np.mean(densities)) if densities else None,
    }


def by_concentration(
    concentration: float | None, results: Sequence[dict[str, Any]]
) -> Iterator[tuple[float | None, list[dict[str, Any]]]]:
    """Split results of folders that hold several concentrations, thinnest first; None where a folder does not say them.

    Args:
        concentration: That of all recordings; None to ask the recordings.
        results: One per seed.
    """
    if concentration is not None:
        yield concentration, list(results)
        return
    labels = {row["concentration"] for result in results for row in result["recordings"]}
    for label in sorted(labels, key=lambda c: -1.0 if c is None else c):
        own = [[row for row in result["recordings"] if row["concentration"] == label] for result in results]
        shares = [len(rows) / len(result["recordings"]) for rows, result in zip(own, results, strict=True)]
        yield (
            label,
            [
                result | {"recordings": rows, "seconds": result["seconds"] * share}
                for result, rows, share in zip(results, own, shares, strict=True)
                if rows
            ],
        )


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Give mean, standard deviation (None for one value) and the values."""
    return {
        "mean": statistics.fmean(values),
        "sd": statistics.stdev(values) if len(values) > 1 else None,
        "seeds": list(values),
    }


def shown(value: dict[str, Any], digits: int = 3) -> str:
    """Write mean ± standard deviation.

    >>> shown({"mean": 0.51249, "sd": 0.01, "seeds": []}), shown({"mean": 2.0, "sd": None, "seeds": []}, 1)
    ('0.512 ± 0.010', '2.0')
    """
    if value["sd"] is None:
        return f"{value['mean']:.{digits}f}"
    return f"{value['mean']:.{digits}f} ± {value['sd']:.{digits}f}"


def best(candidates: dict[str, Any], score: str = "dice_lambda_10") -> str:
    """Name the candidate of the largest mean score; ties go to the first."""
    return max(candidates, key=lambda name: candidates[name][score]["mean"])


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """Keep a table as text."""
    return {"header": list(header), "rows": [[str(cell) for cell in row] for row in rows]}


def markdown(kept: Table) -> str:
    """Lay a kept table out."""
    return markdown_table(kept["header"], kept["rows"])


def publish(
    args: argparse.Namespace,
    results: Any,
    tables: dict[str, Table],
    *,
    record: dict[str, Any],
    started: float,
    without: Sequence[str] = (),
) -> None:
    """Print the tables, and with `--json` keep them with numbers, settings and machine.

    Args:
        args: Of the command line.
        results: The numbers.
        tables: By the names of their markers in docs/benchmarks.md.
        record: From `machine.describe_machine`, before the work.
        started: `time.monotonic()` then.
        without: Settings that are not told.
    """
    print(machine_line(record), *map(markdown, tables.values()), sep="\n\n")
    minutes, settings = (time.monotonic() - started) / 60, settings_of(args, without=without)
    write_json(args.json, record, minutes=minutes, settings=settings, results=results, tables=tables)


def settings_of(args: argparse.Namespace, *, without: Sequence[str] = ()) -> dict[str, Any]:
    """Tell the settings of a run without any path: files by name and hash, folders of this machine not at all."""
    dropped = {"work", "json", "figure", "jobs", "workers", *without}
    return {key: _without_path(value) for key, value in vars(args).items() if key not in dropped}


def _without_path(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_path(item) for item in value]
    if not isinstance(value, str | Path):
        return value
    name, _, rest = str(value).rpartition("=")
    file, _, threshold = rest.partition("@")
    if not file or not Path(file).exists():
        return str(value)
    told = f"{Path(file).name} ({fingerprint(Path(file))})"
    return "".join([f"{name}=" if name else "", told, f"@{threshold}" if threshold else ""])
