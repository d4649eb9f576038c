"""What a method costs: CPU time per block, and peak memory, where it writes no more than its map of density.

A map is what all methods write, so that it is what they are compared by (`referee.maps_alone`).
"""

import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from counting_bubbles import timed_run
from machine import MIB, ROOT, run_measured
from pooling import Table, table
from pooling_bubbles import BLOCK_FRAMES
from referee import Method, config_values, fingerprint, load_json, maps_alone, save_json

from sparse_ulm.acquisition import block_ranges
from sparse_ulm.io import find_recordings, open_recordings


def method_cost(work: Path, method: Method, folders: list[Path]) -> dict[str, float]:
    """Measure a method on folders of recordings, or find that done.

    Args:
        work: Where the result is kept.
        method: The method.
        folders: Of recordings.

    Returns:
        `seconds_per_block`: CPU time per block of `BLOCK_FRAMES` frames in a process that has run before, reading and
        writing included, mean over the folders; `peak_bytes`: resident memory of a fresh process on the first
        recording of the last folder.
    """
    path = (
        work / "costs" / f"{fingerprint([method.config, method.options, config_values(method.config), folders])}.json"
    )
    if path.is_file():
        return load_json(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    seconds = []
    for folder in folders:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".maps.") as name:
            seconds.append(timed_run(method, folder, Path(name), **maps_alone()) / n_blocks(folder))
    found = {"seconds_per_block": statistics.fmean(seconds), "peak_bytes": peak_bytes(method, folders[-1])}
    save_json(path, found)
    return found


def n_blocks(folder: Path) -> int:
    """Count the blocks of all recordings of a folder."""
    opened = [one for path in find_recordings(folder) for one in open_recordings(path)]
    return sum(len(block_ranges(one.n_frames, BLOCK_FRAMES)) for one in opened)


def peak_bytes(method: Method, folder: Path) -> int:
    """Give the peak resident memory of a process that runs a method on the first recording of a folder."""
    with tempfile.TemporaryDirectory() as maps:
        options: dict[str, Any] = {"config_file": ROOT / "configs" / method.config, "bundle_root": ROOT}
        options |= {"dataset_dir": find_recordings(folder)[0], "output_dir": maps} | method.options | maps_alone()
        texts = [text for key, value in options.items() for text in (f"--{key}", str(value))]
        return run_measured([sys.executable, "-m", "monai.bundle", "run", *texts]).peak_bytes


def cost_table(costs: dict[str, dict[str, float]], reference: str | None) -> Table:
    """Lay costs out by method, beside those of the reference."""
    header = ("method", "CPU s per block of 128 frames", f"{reference} / method (target: 3)",
              "peak memory (MiB; target: less)")  # fmt: skip
    of_reference = costs[reference]["seconds_per_block"] if reference else None
    return table(
        header if reference else (*header[:2], "—", header[3]),
        (
            (name, f"{cost['seconds_per_block']:.2f}",
             f"{of_reference / cost['seconds_per_block']:.2f}" if of_reference else "—",
             f"{cost['peak_bytes'] / MIB:.0f}")
            for name, cost in costs.items()
        ),
    )  # fmt: skip
