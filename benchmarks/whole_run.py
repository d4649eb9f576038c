"""How long `make benchmark` took: minutes of every script of it, and from its first call to the end.

The kernels and the exact recordings that several scripts share are in the whole alone. A run that was stopped counts
the pause too.

Run:  python benchmarks/whole_run.py --results FOLDER --jobs 2 --started 2026-11-28T04:30:00Z [--json FILE]
"""

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from machine import describe_machine, machine_line, write_json
from pooling import markdown, table


def minutes_of(results: Path) -> dict[str, float]:
    """Read the minutes of every script from its JSON, longest first."""
    found = {path.stem: json.loads(path.read_text(encoding="utf-8"))["minutes"] for path in results.glob("*.json")}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Print the table; gives the minutes by script and `whole`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="folder of the JSON files of the other scripts")
    parser.add_argument("--jobs", type=int, required=True, help="scripts at a time")
    parser.add_argument("--started", type=datetime.fromisoformat, required=True, help="when `make benchmark` began")
    parser.add_argument("--json", type=Path, help="also write machine, settings, numbers and table there")
    args = parser.parse_args(arguments)
    record = describe_machine()
    whole = (datetime.now(UTC) - args.started).total_seconds() / 60
    own = {name: minutes for name, minutes in minutes_of(args.results).items() if name != "whole_run"}
    rows = [(name, f"{minutes:.0f}") for name, minutes in own.items()]
    tables = {"whole_run": table(("script", "minutes"), [*rows, (f"all, {args.jobs} at a time", f"{whole:.0f}")])}
    print(machine_line(record), *map(markdown, tables.values()), sep="\n\n")
    results = own | {"whole": whole}
    write_json(args.json, record, minutes=whole, settings={"jobs": args.jobs}, results=results, tables=tables)
    return results


if __name__ == "__main__":
    main()
