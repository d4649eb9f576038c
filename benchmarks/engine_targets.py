"""What the rows of benchmarks/engines.py must reach, as ratios; each check only where its measurements are there."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

Row = dict[str, Any]

SITES = 200_000
MOST_SITES = 3_200_000
STEP_OF = {"spconv": 0.5, "minkowski": 0.25}
MAP_OF_SPCONV = 0.25
SHARE_OF_FLOOR = {16: 0.4, 32: 0.5}
TWO_THREADS = 1.6
PER_SITE = 1.5


class Check(NamedTuple):
    """One target against one measurement.

    Attributes:
        target: What is asked.
        case: Kind, sites, channels, threads.
        measured: The ratio.
        limit: What it is held against.
        at_least: Whether the ratio must not be smaller than the limit; else not larger.
    """

    target: str
    case: str
    measured: float
    limit: float
    at_least: bool

    @property
    def reached(self) -> bool:
        """Compare."""
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit


def check_targets(rows: Sequence[Row]) -> list[Check]:
    """Hold the rows of `native` against the rivals', the floor, and each other."""
    table = {(r["engine"], r["kind"], r["sites"], r["channels"], r["threads"]): r for r in rows}
    checks = []
    for row in rows:
        if row["engine"] == "native":
            case = f"{row['kind']}, {row['sites']} sites, C{row['channels']}, {threads(row['threads'])}"
            found = (*_against_rivals(row, table), *_against_floor(row), *_against_itself(row, table))
            checks += [Check(target, case, *rest) for target, *rest in found if rest[0] is not None]
    return sorted(checks, key=lambda check: check.target)


def threads(n: int) -> str:
    """Name a number of threads."""
    return "1 thread" if n == 1 else f"{n} threads"


def _against_rivals(row: Row, table: dict[Any, Row]) -> Iterator[tuple[Any, ...]]:
    """Compare with other engines on the same case."""
    rivals = {name: table.get((name, *_case(row)), {}) for name in STEP_OF}
    if row["sites"] == SITES:
        for name, limit in STEP_OF.items():
            step = _ratio(row["forward_backward_ms"], rivals[name].get("forward_backward_ms"))
            yield f"forward + backward over {name}'s", step, limit, False
    yield "map over spconv's", _ratio(row["map_ms"], rivals["spconv"].get("map_ms")), MAP_OF_SPCONV, False
    yield "peak memory over spconv's", _ratio(row["peak_mb"], rivals["spconv"].get("peak_mb")), 1.0, False


def _against_floor(row: Row) -> Iterator[tuple[Any, ...]]:
    """Compare with what the machine could do."""
    if row["sites"] == SITES and row["channels"] in SHARE_OF_FLOOR:
        yield "floor over forward", _ratio(row["floor_ms"], row["forward_ms"]), SHARE_OF_FLOOR[row["channels"]], True


def _against_itself(row: Row, table: dict[Any, Row]) -> Iterator[tuple[Any, ...]]:
    """Compare with the same engine on one thread, and on fewer sites."""
    kind, sites, channels, n_threads = _case(row)
    if n_threads == 2:
        single = table.get(("native", kind, sites, channels, 1), {})
        gain = _ratio(single.get("forward_backward_ms"), row["forward_backward_ms"])
        yield "forward + backward, 1 thread over 2", gain, TWO_THREADS, True
    if sites == MOST_SITES:
        fewer = table.get(("native", kind, SITES, channels, n_threads), {})
        growth = _ratio(_whole(row), _whole(fewer))
        growth = growth and growth * SITES / MOST_SITES
        yield "map + forward + backward per site over that at 200000", growth, PER_SITE, False


def _case(row: Row) -> tuple[str, int, int, int]:
    """Give what identifies a case."""
    return row["kind"], row["sites"], row["channels"], row["threads"]


def _whole(row: Row) -> float | None:
    """Give map, forward and backward together."""
    parts = (row.get("map_ms"), row.get("forward_backward_ms"))
    return None if None in parts else sum(parts)


def _ratio(a: float | None, b: float | None) -> float | None:
    """Divide, where both are known."""
    return a / b if a is not None and b else None
