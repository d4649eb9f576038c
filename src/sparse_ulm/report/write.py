"""Make the report of an output folder: gather, describe, render, write."""

import logging
from pathlib import Path

from sparse_ulm.errors import UserError
from sparse_ulm.io.atomic import atomic_path
from sparse_ulm.report.page import render
from sparse_ulm.report.sections import Section, describe
from sparse_ulm.run_facts import RunFacts, gather

REPORT = "report.html"

MAX_EMBEDDED_BYTES = 40 << 20
"""Of pictures, plots and maps: recordings beyond are listed without, so that browsers still open the page."""

logger = logging.getLogger(__name__)


def write_report(output_dir: str | Path) -> Path:
    """Write `OUTPUT_DIR/report.html`: one page that needs no other file and no network.

    Args:
        output_dir: Output folder of `inference.yaml`, `classical.yaml` or `redraw.yaml`; scores of `evaluate.yaml` are
            shown where they lie there too.

    Returns:
        Path of the page; it appears whole or not at all.

    Raises:
        UserError: If the folder holds no results of ours, or cannot be written to.
    """
    facts = gather(output_dir)
    page = render(facts, describe_all(facts))
    path = Path(output_dir) / REPORT
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def try_report(output_dir: str | Path) -> Path | None:
    """Write the report of a run that has just ended; where it fails, the run is none the worse: one line says so."""
    try:
        return write_report(output_dir)
    except UserError as error:
        logger.warning("No report was written: %s", error)
    except Exception as error:  # whatever is wrong with the page, the results are there
        logger.warning("No report was written (%s: %s); the results are not touched.", type(error).__name__, error)
    return None


def describe_all(facts: RunFacts) -> list[Section]:
    """Describe all recordings, in short once the page is full."""
    sections, n_bytes = [], 0
    for recording in facts.recordings:
        section = describe(recording, is_short=n_bytes >= MAX_EMBEDDED_BYTES)
        n_bytes += section.n_bytes
        sections.append(section)
    return sections
