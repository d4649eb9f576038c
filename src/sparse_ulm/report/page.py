"""The page itself: a Jinja template that escapes every text, and a policy under which nothing leaves the page.

The policy names the SHA-256 of the page's own scripts and style, so that no other script runs, whatever a name of a
file or a text of an error may hold, and no request is made at all.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sparse_ulm import __version__
from sparse_ulm.report.scores import all_of_total, flatten, main_table, number_text
from sparse_ulm.report.sections import Section
from sparse_ulm.run_facts import RunFacts

HERE = Path(__file__).parent
NIIVUE = HERE / "niivue"

POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; script-src {scripts}; style-src {styles}"
)


def render(facts: RunFacts, sections: Sequence[Section]) -> str:
    """Give the page as HTML.

    Args:
        facts: Of the run.
        sections: Of its recordings.
    """
    texts = {name: _read(HERE / name) for name in ("page.css", "viewer.js")}
    has_viewer = any(section.volume is not None for section in sections)
    niivue = _read(NIIVUE / "niivue.umd.js") if has_viewer else ""
    headings, rows = main_table(facts.scores)
    return (
        _environment()
        .get_template("page.html")
        .render(
            policy=POLICY.format(
                scripts=" ".join(_source(text) for text in (niivue, texts["viewer.js"])),
                styles=_source(texts["page.css"]),
            ),
            style=texts["page.css"],
            niivue=niivue,
            viewer=texts["viewer.js"],
            licences=[_read(NIIVUE / name) for name in ("LICENSE", "THIRD_PARTY_LICENSES")] if has_viewer else [],
            folder=facts.folder.resolve().name,
            written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            version=__version__,
            sections=sections,
            statuses=_count_statuses(sections),
            count_labels=_count_labels(sections),
            notes=[*facts.notes, *_notes(sections)],
            score_headings=headings,
            score_rows=rows,
            all_scores=all_of_total(facts.scores),
            groups=_group_settings(sections),
            shown=[(i, section) for i, section in enumerate(sections) if section.volume is not None],
        )
    )


@cache
def _environment() -> Environment:
    """Make the templates' environment: everything is escaped, and a name that is not given is an error."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode("ascii")
    environment.filters["number"] = lambda value: "–" if value is None else f"{value:,}".replace(",", " ")
    environment.filters["value"] = number_text
    return environment


@cache
def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _source(text: str) -> str:
    """Name a script or style in the policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"


def _count_statuses(sections: Sequence[Section]) -> dict[str, int]:
    """Count recordings by status."""
    statuses = [section.recording.entry.status for section in sections]
    return {status: statuses.count(status) for status in dict.fromkeys(statuses)}


def _count_labels(sections: Sequence[Section]) -> list[str]:
    """List the counts that any recording has."""
    return list(dict.fromkeys(key for one in sections for key, n in one.counts.items() if n is not None))


def _notes(sections: Sequence[Section]) -> list[str]:
    """List what a reader must know of the recordings."""
    notes = [note for section in sections for note in section.notes]
    n_short = sum(section.is_short and section.recording.is_done for section in sections)
    if n_short:
        notes.append(
            f"The page is full: pictures, plots and 3D maps of the last {n_short} recordings are left out. They lie in "
            "the recordings' folders."
        )
    return notes


def _group_settings(sections: Sequence[Section]) -> list[dict[str, Any]]:
    """Put recordings of the same settings, software, weights and machine together: their names, and tables."""
    groups: dict[str, dict[str, Any]] = {}
    for section in sections:
        provenance = section.recording.provenance
        parts = {key: provenance.get(key) for key in ("config", "software", "weights", "machine", "seeds", "threads")}
        if not provenance:
            continue
        group = groups.setdefault(json.dumps(parts, sort_keys=True), {"names": [], "tables": _tables(parts)})
        group["names"].append(section.recording.name)
    return list(groups.values())


def _tables(parts: dict[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Give the tables of a group, each with its title."""
    machine = {"machine": parts["machine"], "threads": parts["threads"], "seeds": parts["seeds"]}
    named = {
        "Parameters": parts["config"],
        "Weights": parts["weights"],
        "Software": parts["software"],
        "Machine": machine,
    }
    return [(title, list(flatten(value))) for title, value in named.items() if value]
