"""Tables of docs/benchmarks.md from the JSON files of benchmarks/results/, so that they never differ.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; NAME is a key of `tables` in one of the files, which
every comparison writes with `--json`. Above it stands its figure, where `figures` names one, below it how long the run
took, and of which commit. Every table of the files needs its markers, and every marker a table or nothing between it
and its end.

Run:  python benchmarks/write_docs.py [--check]
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from machine import ROOT, BenchmarkError
from pooling import markdown

from sparse_ulm.io.atomic import atomic_path

DOCS = ROOT / "docs" / "benchmarks.md"
RESULTS = ROOT / "benchmarks" / "results"
MARKED = re.compile(r"(<!-- table: (?P<name>\S+) -->\n)(?P<body>.*?)(<!-- end -->)", re.DOTALL)
OPENING = re.compile(r"<!-- table: (\S+) -->")


def read_tables(folder: Path) -> dict[str, str]:
    """Read all results and give the text of every table.

    Raises:
        BenchmarkError: If two files hold a table of the same name.
    """
    texts: dict[str, str] = {}
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        for name, kept in record.get("tables", {}).items():
            if name in texts:
                raise BenchmarkError(f"{path.name}: table {name} stands in another file too; remove one of them.")
            figure = record.get("figures", {}).get(name)
            picture = f"![{name.replace('_', ' ')}]({figure})\n\n" if figure else ""
            texts[name] = f"{picture}{markdown(kept)}\n\n{origin(path.stem, record)}\n"
    return texts


def origin(stem: str, record: dict[str, Any]) -> str:
    """Say in one line where a table comes from."""
    git = record["software"]["git"] or {"commit": "no checkout", "dirty": False}
    changed = " with changes" if git["dirty"] else ""
    when = f"{record['minutes']:.0f} minutes, commit {git['commit'][:10]}{changed}, {record['finished_utc'][:10]}"
    return f"*benchmarks/results/{stem}.json: {when}.*"


def fill(text: str, tables: dict[str, str]) -> str:
    """Put every table between its markers; what stands outside of markers stays to the letter.

    Raises:
        BenchmarkError: If a table has no marker, a marker no end, or a filled marker no table.
    """
    names = [match["name"] for match in MARKED.finditer(text)]
    opened = OPENING.findall(text)
    if opened != names:
        raise BenchmarkError(f"a table among {', '.join(opened)} has no <!-- end --> of its own; write it.")
    if twice := {name for name in names if names.count(name) > 1}:
        raise BenchmarkError(f"{', '.join(sorted(twice))}: marked more than once; remove one marker.")
    if missing := tables.keys() - set(names):
        raise BenchmarkError(f"no marker <!-- table: {min(missing)} --> in the text; write it and its <!-- end -->.")

    def replacement(match: re.Match[str]) -> str:
        name, body = match["name"], match["body"]
        if name not in tables and body.strip():
            raise BenchmarkError(f"{name}: filled, but no file of results holds it; run its benchmark or empty it.")
        return f"{match[1]}{tables.get(name, '')}{match[4]}"

    return MARKED.sub(replacement, text)


def main(arguments: list[str] | None = None) -> int:
    """Rewrite the file, or with `--check` tell whether it is up to date; gives the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 where something would")
    parser.add_argument("--docs", type=Path, default=DOCS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args(arguments)
    before = args.docs.read_text(encoding="utf-8")
    after = fill(before, read_tables(args.results))
    if args.check:
        return int(before != after)
    if before != after:
        with atomic_path(args.docs) as temporary:
            temporary.write_text(after, encoding="utf-8")
    print(f"{args.docs.name}: {'tables rewritten' if before != after else 'up to date'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
