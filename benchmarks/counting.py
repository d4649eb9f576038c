"""Where maps and truth agree: counts per recording, tolerance and threshold, which may be added."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparse_ulm.blocks import truth_of, with_distinct_names
from sparse_ulm.evaluate import concentration, read_map, true_voxels
from sparse_ulm.evaluation_table import LABEL
from sparse_ulm.io import find_recordings, open_recordings
from sparse_ulm.metrics import overlap_counts
from sparse_ulm.simulation.generate import SUMMARY_NAME

TOLERANCES = {"exact": 0.0, "lambda_10": 0.1, "lambda_4": 0.25}
"""Distances within which voxels of two maps agree, in wavelengths."""


def count_agreement(
    maps: Path, recordings: Path, *, kind: str = "density", thresholds: Sequence[float] = (0.0,)
) -> list[dict[str, Any]]:
    """Count predicted and true voxels, and those of each that agree, per recording, threshold and tolerance.

    Args:
        maps: Folder with `NAME/NAME_density.nii.gz` of every recording.
        recordings: Folder of the recordings with their truth.
        kind: "density", or "probability" for the network's other map.
        thresholds: A voxel is predicted where the map exceeds it.

    Returns:
        One row per recording and threshold: `name`, `threshold`, `n_frames`, `bubbles_per_mm3`, `concentration` (per
        PSF volume, None where no simulation says it), and `counts`: per key of `TOLERANCES` the four of
        `metrics.overlap_counts`.
    """
    labels = labels_of(recordings)
    found = [one for path in find_recordings(recordings) for one in open_recordings(path)]
    rows = []
    for recording in with_distinct_names(found):
        name, truth = recording.name, truth_of(recording)
        values, grid = read_map(maps / name / f"{name}_{kind}.nii.gz", recording.geometry)
        x, y, z = values.shape
        true = true_voxels(truth, recording, grid, (x, y, z))
        row = {"name": name, "n_frames": recording.n_frames, "concentration": labels.get(name)}
        row["bubbles_per_mm3"] = concentration(truth, recording)["bubbles_per_mm3"]
        wavelength_m = recording.geometry.wavelength_m
        for threshold in thresholds:
            counts = agreement(np.argwhere(values > threshold), true, grid.voxel_size_m, wavelength_m)
            rows.append(row | {"threshold": threshold, "counts": counts})
    return rows


def agreement(
    predicted: np.ndarray, true: np.ndarray, voxel_size_m: tuple[float, float, float], wavelength_m: float
) -> dict[str, list[int]]:
    """Count what agrees within each of `TOLERANCES`."""
    return {
        name: list(overlap_counts(predicted, true, voxel_size_m=voxel_size_m, tolerance_m=share * wavelength_m))
        for name, share in TOLERANCES.items()
    }


def labels_of(recordings: Path) -> dict[str, float]:
    """Read the bubbles per PSF volume of a folder's recordings, by name, where a simulation left its summary."""
    path = recordings / SUMMARY_NAME
    if not path.is_file():
        return {}
    rows = json.loads(path.read_text(encoding="utf-8"))["recordings"]
    return {row["name"]: float(row[LABEL]) for row in rows if row.get(LABEL) is not None}
