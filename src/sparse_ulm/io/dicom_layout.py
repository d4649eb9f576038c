"""What the readers of DICOM's two kinds of ultrasound have in common: where the image lies in the stored frames."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sparse_ulm.io.statements import Statement

PERIOD_TOLERANCE = 0.01
"""Frames whose periods differ by more have no frame rate (as for zea)."""


@dataclass(frozen=True)
class DicomLayout:
    """Where the image of each time and plane lies.

    Attributes:
        format_name: For reports.
        frames: Number of the stored frame, by time and by plane along y.
        first: (row, column) of the image's first pixel.
        size: Its rows (z) and columns (x).
        statements: What the file says of its geometry.
        by_definition: What holds where nobody says anything.
        notes: What the user should know.
    """

    format_name: str
    frames: tuple[tuple[int, ...], ...]
    first: tuple[int, int]
    size: tuple[int, int]
    statements: tuple[Statement, ...]
    by_definition: Statement | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(x, y, z, t) of the recording."""
        return self.size[1], len(self.frames[0]), self.size[0], len(self.frames)

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of a stored frame that are image; burned-in text around it is never read."""
        (row, column), (rows, columns) = self.first, self.size
        return slice(row, row + rows), slice(column, column + columns)


def rate_hz(periods_s: Sequence[float] | np.ndarray) -> float | None:
    """Give one over the mean period; None where there is none, or frames are not evenly spaced."""
    periods = np.asarray(periods_s, dtype=np.float64)
    mean_s = float(periods.mean()) if periods.size else 0.0
    if not mean_s > 0 or np.abs(periods - mean_s).max() > PERIOD_TOLERANCE * mean_s:
        return None
    return float(f"{1.0 / mean_s:.7g}")


def numbers(value: Any) -> list[float]:
    """Give an element's numbers; none where it is absent or empty."""
    if value is None or value == "":
        return []
    return [float(v) for v in value] if isinstance(value, list) or hasattr(value, "__iter__") else [float(value)]
