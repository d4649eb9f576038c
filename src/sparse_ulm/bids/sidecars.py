"""The JSON file beside each file of a derivative dataset: what it holds, in which unit, and how it was made."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel

from sparse_ulm.io.statements import FRAME_RATE, FREQUENCY, SOUND_SPEED
from sparse_ulm.run_facts import RecordingFacts

TABLES = {
    "localisations": "Bubbles: one row per bubble and frame. Positions along the scanner's axes.",
    "tracks": "Tracks of bubbles: one row per sample. Positions and velocities along the scanner's axes.",
    "motion": "Motion of tissue: one row per frame. Displacement from the reference, which was taken out of positions.",
}
UNITS = {"_mm_s": "mm/s", "_mm": "mm", "_s": "s"}
"""By the ending of a column's name, the longest first."""

COLUMNS = {
    "frame": "Frame of the recording, from 0; fractions where a track was interpolated",
    "track_id": "Number of the track",
    "amplitude": "Magnitude of the bubble, in the recording's units",
    "largest_mm": "Largest displacement of any place",
    "rejected": "1 where the frame was left out",
}
"""Of columns whose names do not say it; deviations run along the axes of the recording's grid."""


def map_sidecar(path: Path) -> dict[str, Any]:
    """Describe a map from its own header.

    Args:
        path: NIfTI of `io.nifti.save_sparse_map`, whose `descrip` is "text, unit" or "text" of a number without unit.
    """
    header: Any = nibabel.load(path).header
    text, _, unit = bytes(header["descrip"]).rstrip(b"\0").decode("ascii", "replace").partition(", ")
    x, y, z = (float(f"{size:.6g}") for size in header.get_zooms()[:3])
    return {
        "Description": text[:1].upper() + text[1:],
        "Units": {"": "1", "unit vector": "1"}.get(unit, unit),
        "SpatialReference": "orig",
        "Resolution": f"super-resolved, voxels of {x} x {y} x {z} mm",
    }


def table_sidecar(kind: str, columns: Sequence[str]) -> dict[str, Any]:
    """Describe a table and its columns."""
    described: dict[str, Any] = {"Description": TABLES[kind]}
    for column in columns:
        unit = next((unit for ending, unit in UNITS.items() if column.endswith(ending)), None)
        facts = {"Description": COLUMNS.get(column), "Units": unit}
        described[column] = {key: value for key, value in facts.items() if value is not None}
    return described


def origin_sidecar(recording: RecordingFacts, sources: Sequence[str]) -> dict[str, Any]:
    """Tell how all files of a recording were made: fUSI-BIDS names (BEP040), ours with `SparseULM` in front.

    Paths are cut down to names of files, for data sets are passed on.

    Args:
        recording: Of a run.
        sources: The recording's files, as BIDS URIs or names.
    """
    acquisition = recording.open()
    geometry = acquisition.geometry if acquisition else None
    made = {
        "Sources": list(sources),
        FRAME_RATE.key: geometry.frame_rate_hz if geometry else None,
        FREQUENCY.key: geometry.transmit_frequency_hz if geometry else None,
        SOUND_SPEED.key: geometry.sound_speed_m_s if geometry else None,
        "SparseULMMethod": recording.method,
        "SparseULMProvenance": names_only(recording.provenance),
        "SparseULMUse": "research use only; not for diagnosis",
    }
    return {key: value for key, value in made.items() if value is not None}


def names_only(value: Any, key: str = "") -> Any:
    """Cut paths down to the names of their files.

    >>> names_only({"inputs": [{"path": "/data/Smith/rec.mat", "bytes": 7}]})
    {'inputs': [{'path': 'rec.mat', 'bytes': 7}]}
    """
    if isinstance(value, dict):
        return {name: names_only(one, name) for name, one in value.items()}
    if isinstance(value, list):
        return [names_only(one, key) for one in value]
    is_path = isinstance(value, str) and (key in ("path", "recording", "tracks") or Path(value).is_absolute())
    return Path(value).name if is_path else value


def dump(path: Path, content: dict[str, Any]) -> None:
    """Write one."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
