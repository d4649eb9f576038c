"""The JSON file beside a recording: fUSI-BIDS names for how it was made, and the grid where the format holds none."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from sparse_ulm.acquisition import Geometry
from sparse_ulm.errors import RecordingError
from sparse_ulm.io.atomic import atomic_path
from sparse_ulm.io.names import sidecar_path
from sparse_ulm.io.statements import (
    AXES_KEY,
    FRAME_RATE,
    FREQUENCY,
    ORIGIN_KEY,
    SCALARS,
    SOUND_SPEED,
    VOXEL_SIZE,
    Statement,
    millimetres,
    state_values,
    three_numbers,
)

MAX_SIDECAR_BYTES = 1 << 24


def read_sidecar(path: Path) -> Statement:
    """Read what `STEM.json` beside a recording states; a silent statement if there is no such file.

    Args:
        path: The recording, as "rec.nii.gz" for the sidecar "rec.json".

    Raises:
        RecordingError: If the sidecar is no JSON object, or a value in it is not what its key says.
    """
    sidecar = sidecar_path(path)
    if not sidecar.is_file():
        return Statement(sidecar.name)
    content = _load(sidecar)
    origin = content.get(ORIGIN_KEY)
    return state_values(
        content,
        {quantity: quantity.key for quantity in (VOXEL_SIZE, *SCALARS)},
        sidecar.name,
        origin_mm=None if origin is None else three_numbers(origin, ORIGIN_KEY, sidecar.name),
        axes=_axes(content.get(AXES_KEY), sidecar.name),
    )


def write_sidecar(path: Path, geometry: Geometry) -> None:
    """Write `STEM.json` beside a recording: rate, frequency and sound speed, voxel size and origin, in full precision.

    Args:
        path: The recording.
        geometry: Its geometry; the direction of its axes is the recording file's to hold.
    """
    content = {
        FRAME_RATE.key: geometry.frame_rate_hz,
        FREQUENCY.key: geometry.transmit_frequency_hz,
        SOUND_SPEED.key: geometry.sound_speed_m_s,
        VOXEL_SIZE.key: millimetres(geometry.voxel_size_m),
        ORIGIN_KEY: millimetres(geometry.matrix_m[:3, 3].tolist()),
    }
    with atomic_path(sidecar_path(path)) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def require_aligned(path: Path, geometry: Geometry) -> None:
    """Refuse a grid that is not along the scanner's axes, for formats that hold no more than voxel size and origin.

    Raises:
        RecordingError: If the affine rotates, shears or mirrors.
    """
    if not np.allclose(geometry.matrix_m[:3, :3], np.diag(geometry.voxel_size_m), rtol=0.0, atol=1.0e-12):
        raise RecordingError(
            f"{path.name}: the grid is rotated, sheared or mirrored, and this format holds voxel size and origin only. "
            "Save it as .nii.gz."
        )


def _load(sidecar: Path) -> dict[str, Any]:
    """Parse the JSON file."""
    try:
        if sidecar.stat().st_size > MAX_SIDECAR_BYTES:
            raise ValueError(f"it holds more than {MAX_SIDECAR_BYTES} bytes")
        content = json.loads(sidecar.read_text(encoding="utf-8-sig"))  # editors on Windows put a byte-order mark first
    except (OSError, ValueError, RecursionError) as error:
        raise RecordingError(
            f"{sidecar.name}: not readable as JSON ({error}); wanted one object. Correct it."
        ) from error
    if not isinstance(content, dict):
        raise RecordingError(f"{sidecar.name}: holds a JSON {type(content).__name__}; wanted one object. Correct it.")
    return content


def _axes(value: object, source: str) -> tuple[str, ...] | None:
    """Check the order of axes: x, z and t once each, y at most once."""
    if value is None:
        return None
    if not isinstance(value, list) or sorted(map(str, value)) not in (["t", "x", "y", "z"], ["t", "x", "z"]):
        raise RecordingError(
            f"{source}: {AXES_KEY} is {value!r}; wanted the array's axes in their order, "
            'as ["x", "y", "z", "t"] or ["x", "z", "t"]. Correct it.'
        )
    return tuple(value)
