"""Tables of sparsification.py: those it prints, one a concentration, and the one of docs/benchmarks.md over all."""

from typing import Any

from machine import markdown_table
from pooling import Table, table

NOISE_WAYS = ("faintest", "differences")
Result = dict[str, Any]
"""One concentration, as `sparsification.measure` gives it."""


def report(results: list[Result]) -> str:
    """Write one table a concentration, and how well the noise was measured."""
    parts = []
    for result in results:
        rows = [
            (name, f"{s['kept_share']:.2%}", f"{s['sites_per_bubble']:.3g}", f"{s['lost_own_voxel']:.1%}",
             f"{s['lost_3x3x3']:.1%}")
            for name, s in result["rules"].items()
        ]  # fmt: skip
        title = f"{result['bubbles_per_psf_volume']} bubbles per PSF volume ({result['true_bubbles']} true bubbles)"
        header = ("rule", "voxels kept", "sites per bubble", "lost: own voxel", "lost: 3x3x3")
        parts.append(f"### {title}\n\n{markdown_table(header, rows)}")
    noise = [(result["bubbles_per_psf_volume"], *(_span(result, way) for way in NOISE_WAYS)) for result in results]
    names = ("bubbles per PSF volume", "faintest voxels", "differences over frames")
    parts.append(f"### Noise rms, measured over true: least to most\n\n{markdown_table(names, noise)}")
    return "\n\n".join(parts)


def by_concentration(results: list[Result]) -> Table:
    """Set the concentrations side by side; `cell` says what stands in each cell of a rule."""
    rows = [(name, *(cell(result["rules"][name]) for result in results)) for name in results[0]["rules"]]
    rows.append(("true bubbles", *(str(result["true_bubbles"]) for result in results)))
    rows += [(f"noise over true noise, {way}", *(_span(result, way) for result in results)) for way in NOISE_WAYS]
    return table(("rule", *(str(result["bubbles_per_psf_volume"]) for result in results)), rows)


def cell(shares: dict[str, float]) -> str:
    """Write % of the voxels kept / kept sites per true bubble / % of them lost at their voxel / % lost around it.

    >>> cell({"kept_share": 0.0434, "sites_per_bubble": 117.2, "lost_own_voxel": 0.064, "lost_3x3x3": 0.028})
    '4.3 / 117 / 6.4 / 2.8'
    >>> cell({"kept_share": 6.6e-5, "sites_per_bubble": 0.1812, "lost_own_voxel": 0.913, "lost_3x3x3": 0.884})
    '0.0066 / 0.181 / 91.3 / 88.4'
    """
    kept = 100 * shares["kept_share"]
    lost = (f"{100 * shares[name]:.1f}" for name in ("lost_own_voxel", "lost_3x3x3"))
    return " / ".join([f"{kept:.1f}" if kept >= 0.1 else f"{kept:.2g}", f"{shares['sites_per_bubble']:.3g}", *lost])


def _span(result: Result, way: str) -> str:
    values = result[f"{way}_over_true_noise"]
    return f"{min(values):.2f} to {max(values):.2f}"
