"""Tables of dense_memory.py, as it prints them and as docs/benchmarks.md shows them."""

from typing import Any

from machine import GIB, MIB
from pooling import Table, table


def memory_table(results: list[dict[str, Any]]) -> Table:
    """Lay out the blocks; ratios against what the paper claims and what we asked for."""
    rows = []
    for r in results:
        peak, saved = r["sparse"]["peak_bytes"], r["sparse"]["saved_bytes"]
        ratio = (r["dense_peak_bytes"] or r["dense_saved_bytes"]) / peak
        rows.append(
            (r["block"], r["sites"], f"{peak / MIB:.0f} MiB", f"{saved / MIB:.0f} MiB",
             f"{r['dense_saved_bytes'] / GIB:.2f} GiB",
             f"{r['dense_peak_bytes'] / GIB:.2f} GiB" if r["dense_peak_bytes"] else "counted only",
             f"{r['dense_saved_bytes'] / peak:.3g}", f"{r['dense_saved_bytes'] / saved:.3g}", f"{ratio:.3g}",
             _verdict(ratio, r["claim"]), _verdict(ratio, r["target"]))
        )  # fmt: skip
    header = ("block", "sites", "sparse, peak", "sparse, saved", "dense, saved", "dense, peak",
              "dense saved / sparse peak", "saved / saved", "ratio", "claim of the paper", "target")  # fmt: skip
    return table(header, rows)


def _verdict(ratio: float, least: float) -> str:
    return f"≥ {least:g}: {'reached' if ratio >= least else 'MISSED'}"


def inference_table(result: dict[str, Any]) -> Table:
    """Lay out what the dense 3D+t network needs in inference."""
    run = result["measured"]
    rows = [
        ("16x16x16x128, measured", f"{run['peak_bytes'] / GIB:.2f} GiB", f"{run['cpu_s']:.0f} s"),
        ("16x16x16x128, counted", f"{result['counted_bytes_small'] / GIB:.2f} GiB", "—"),
        ("32x32x32x512, counted, whole", f"{result['counted_bytes'] / GIB:.1f} GiB", "—"),
        ("32x32x32x512, counted, in slabs", f"{result['counted_bytes_in_slabs'] / GIB:.1f} GiB", "—"),
    ]
    return table(("block, float32", "memory", "CPU time"), rows)


def inference_line(result: dict[str, Any]) -> str:
    """Say the same in one line."""
    run = result["measured"]
    return (
        f"Dense 3D+t in inference, 16x16x16x128: {run['peak_bytes'] / GIB:.2f} GiB, {run['cpu_s']:.0f} s of one core "
        f"(counted: {result['counted_bytes_small'] / GIB:.2f} GiB). 32x32x32x512, float32, counted: "
        f"{result['counted_bytes'] / GIB:.1f} GiB whole, {result['counted_bytes_in_slabs'] / GIB:.1f} GiB refined in "
        "slabs of 4 voxels; half of either in bfloat16."
    )
