"""One offline page about a run, `OUTPUT_DIR/report.html`: what went in, what came out, and how far to trust it."""

from sparse_ulm.report.write import REPORT, try_report, write_report

__all__ = ["REPORT", "try_report", "write_report"]
