"""From the axis order of a file to (x, y, z, t): which stored axis is which, and how to slice along time only."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparse_ulm.conventions import AXES, Frames
from sparse_ulm.errors import RecordingError
from sparse_ulm.io.statements import Statement


@dataclass(frozen=True)
class ListedArray:
    """An array in a file, before its samples are read: its shape is the one its own software shows."""

    name: str
    shape: tuple[int, ...]
    is_complex: bool
    class_name: str


@dataclass(frozen=True)
class AxisOrder:
    """The order in which a file stores its axes.

    Attributes:
        axes: The stored axes, as ("z", "x", "t"); without "y" the recording is 2D.
    """

    axes: tuple[str, ...]

    @property
    def time_axis(self) -> int:
        """Which stored axis is time."""
        return self.axes.index("t")

    def shape(self, stored: Sequence[int]) -> tuple[int, int, int, int]:
        """Give (x, y, z, t) of a stored shape; y is 1 in 2D."""
        size = dict(zip(self.axes, map(int, stored), strict=True))
        return size["x"], size.get("y", 1), size["z"], size["t"]

    def time_slice(self, start: int, stop: int) -> tuple[slice, ...]:
        """Give the index of frames start ... stop - 1 in the stored array."""
        return tuple(slice(start, stop) if axis == "t" else slice(None) for axis in self.axes)

    def arrange(self, stored: NDArray[np.generic]) -> Frames:
        """Turn a stored complex array into complex64 (x, y, z, t).

        >>> AxisOrder(("z", "x", "t")).arrange(np.zeros((5, 6, 7), complex)).shape
        (6, 1, 5, 7)
        """
        present = [axis for axis in AXES if axis in self.axes]
        arranged = stored.transpose([self.axes.index(axis) for axis in present])
        if "y" not in self.axes:
            arranged = arranged[:, np.newaxis]
        return arranged.astype(np.complex64, copy=False)


def require_axes(
    path: Path, stored: Sequence[int], axes: tuple[str, ...] | None, default: Sequence[AxisOrder]
) -> AxisOrder:
    """Choose the axis order of a stored array: what the sidecar says, else the format's for that rank.

    Args:
        path: The recording, for messages.
        stored: Shape of the stored array.
        axes: `Axes` of the sidecar, if given.
        default: The format's axis orders, one per rank it may have.

    Raises:
        RecordingError: If the rank fits none, or an axis has length 0.
    """
    orders = [AxisOrder(axes)] if axes is not None else default
    fitting = [order for order in orders if len(order.axes) == len(stored)]
    if not fitting:
        wanted = " or ".join(f"({', '.join(order.axes)})" for order in orders)
        raise RecordingError(
            f"{path.name}: wrong rank, an array of shape {tuple(map(int, stored))} found and {wanted} wanted. "
            'Store one recording in one array, or name its axes in the sidecar, as "Axes": ["x", "z", "t"] for 2D.'
        )
    if min(stored) < 1:
        raise RecordingError(f"{path.name}: empty array of shape {tuple(map(int, stored))}; wanted at least one frame.")
    return fitting[0]


def require_complex(path: Path, array: ListedArray) -> None:
    """Refuse samples that are not complex.

    Raises:
        RecordingError: If they are real; envelopes and log-compressed images cannot be used.
    """
    if not array.is_complex:
        raise RecordingError(
            f"{path.name}: {array.name} holds real-valued {array.class_name}; wanted complex IQ, as phase is used. "
            "Export beamformed IQ instead of envelopes or B-mode images."
        )


def refuse_other_axes(path: Path, sidecar: Statement, order: AxisOrder) -> None:
    """Refuse `Axes` in the sidecar of a format whose axis order is fixed.

    Raises:
        RecordingError: If the sidecar names another order.
    """
    if sidecar.axes not in (None, order.axes):
        raise RecordingError(
            f"{path.name}: contradictory axes, {list(sidecar.axes or ())} in {sidecar.source}, but this format stores "
            f"{list(order.axes)}. Remove Axes from the sidecar."
        )


def choose_variable(path: Path, listed: Sequence[ListedArray], usual_names: Sequence[str], variable: str | None) -> str:
    """Choose which array of a file is the recording: the one asked for, a usual name, or the only complex one.

    Args:
        path: The file, for messages.
        listed: All its arrays.
        usual_names: Names that a recording has in this format.
        variable: The caller's choice.

    Raises:
        RecordingError: If `variable` is absent, or none or several fit.
    """
    names = [array.name for array in listed]
    found = ", ".join(f"{a.name} {'x'.join(map(str, a.shape))} {a.class_name}" for a in listed) or "no arrays at all"
    if variable is not None:
        if variable not in names:
            raise RecordingError(f"{path.name}: holds no {variable!r} but {found}; set variable to one of them.")
        return variable
    candidates = [array.name for array in listed if array.is_complex and len(array.shape) in (3, 4)]
    usual = [name for name in usual_names if name in names]
    fitting = [name for name in usual if name in candidates] or usual or candidates
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise RecordingError(f"{path.name}: several recordings, {', '.join(fitting)}; set variable to one of them.")
    raise RecordingError(
        f"{path.name}: no complex array of rank 3 or 4, but {found}; wanted beamformed IQ. "
        "Export IQ instead of envelopes."
    )
