"""Will a recording fit: memory and disk that configs/inference.yaml will ask for, told before it runs.

Factors were measured by benchmarks/long_recording.py and rounded up; what they leave out is a margin of a quarter.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from sparse_ulm.acquisition import BYTES_PER_SAMPLE, Acquisition, memory_runs
from sparse_ulm.sparsify import keep_by_noise, measure_noise_rms

RUN_COPIES = 6.0
"""Arrays as large as a run's samples that its preparation holds."""

WINDOW_COPIES = 6.0
"""Likewise of a clutter window: two that are kept, and the copies of one that is being filtered."""

BYTES_PER_SITE = 1000.0
"""Of a tile's sites in LocalisationNet; TrajectoryMapNet refines no more than `max_kept_sites` of them by 8."""

BYTES_PER_KEPT_SITE = 3000.0
"""Of those."""

BYTES_OF_BLOCK_SITE = 200.0
"""Of all sites of a block, which wait for their tile and for the summits among them."""

MAP_FACTOR = 8
"""Refinement of the maps."""

BYTES_PER_MAP_VOXEL = 0.02
"""Of the compressed maps together, nearly all of whose voxels are empty."""

MARGIN = 1.25


@dataclass(frozen=True)
class Fit:
    """What a recording needs and what there is, in bytes.

    Attributes:
        memory: That inference will take at its peak, by estimate.
        memory_available: That the system can give now, this process included.
        disk: Of the outputs, by estimate.
        disk_free: In the folder that was named.
        sites_per_frame: Kept voxels, measured on one run of frames.
        largest: What takes most of the memory.
    """

    memory: float
    memory_available: float
    disk: float
    disk_free: float
    sites_per_frame: float
    largest: str

    @property
    def problems(self) -> list[str]:
        """What will not fit, each with its cure."""
        found = []
        if self.memory > self.memory_available:
            cure = {
                "runs": "Lower max_run_megabytes",
                "tiles": "Lower max_tile_sites",
                "windows": "Lower clutter_window_frames, or filter before",
                "blocks": "Lower block_frames",
            }[self.largest]
            found.append(
                f"inference will take about {_gb(self.memory)}, {_gb(self.memory_available)} are available. {cure}."
            )
        if self.disk > self.disk_free:
            found.append(f"outputs will take about {_gb(self.disk)}, {_gb(self.disk_free)} are free. Free some space.")
        return found


def estimate_fit(acquisition: Acquisition, settings: Mapping[str, Any], *, output_dir: Path) -> Fit:
    """Estimate what inference on a recording needs; one run of its frames is read.

    Args:
        acquisition: The recording, without a filter.
        settings: Keys of configs/inference.yaml.
        output_dir: A folder on the disk of the outputs.

    Raises:
        RecordingError: If its frames cannot be read.
    """
    x, y, z, n_frames = acquisition.shape
    frame_bytes = BYTES_PER_SAMPLE * x * y * z
    read_frames = min(n_frames, settings["block_frames"] + 2 * settings["context_frames"])
    run_bytes = 1e6 * settings["max_run_megabytes"]
    first, last = memory_runs(0, read_frames, n_bytes=run_bytes, shape=acquisition.shape[:3])[0]
    sites_per_frame = count_sites(acquisition, settings, frames=(first, last)) / (last - first)
    block_sites = sites_per_frame * read_frames
    tile_sites = min(block_sites, settings["max_tile_sites"])
    filters = any(
        settings[key] for key in ("n_tissue_components", "tissue_energy_share", "tissue_below_hz", "band_pass_hz")
    )
    window_frames = min(n_frames, settings["clutter_window_frames"] + 2 * settings["clutter_overlap_frames"])
    parts = {
        "runs": RUN_COPIES * (last - first) * frame_bytes,
        "tiles": max(BYTES_PER_SITE * tile_sites, BYTES_PER_KEPT_SITE * min(tile_sites, settings["max_kept_sites"])),
        "windows": WINDOW_COPIES * window_frames * frame_bytes if filters else 0.0,
        "blocks": BYTES_OF_BLOCK_SITE * block_sites,
    }
    # Preparation and network follow each other, what they leave in between stays.
    used = psutil.Process().memory_info().rss
    memory = used + MARGIN * (max(parts["runs"], parts["tiles"]) + parts["windows"] + parts["blocks"])
    return Fit(
        memory=memory,
        memory_available=float(psutil.virtual_memory().available + used),
        disk=BYTES_PER_MAP_VOXEL * x * y * z * MAP_FACTOR ** (3 if y > 1 else 2),
        disk_free=float(shutil.disk_usage(output_dir).free),
        sites_per_frame=sites_per_frame,
        largest=max(parts, key=lambda name: parts[name]),
    )


def count_sites(acquisition: Acquisition, settings: Mapping[str, Any], *, frames: tuple[int, int]) -> int:
    """Count the voxels that the rule against noise keeps of some frames."""
    iq = torch.from_numpy(np.ascontiguousarray(acquisition.frames(*frames)))
    noise_rms = measure_noise_rms(iq, noise_measure=settings["localisation_noise_measure"])
    kept = keep_by_noise(iq, noise_factor=settings["noise_factor"], noise_rms=noise_rms, floor_db=settings["floor_db"])
    return int(kept.sum())


def _gb(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.1f} GB"
