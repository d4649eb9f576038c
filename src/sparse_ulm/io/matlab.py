"""PALA-style MATLAB files: `IQ` [z, x, t] or [z, x, y, t], `UF` and `PData`, lengths in wavelengths of 1540 m/s.

Verasonics workspaces, which hold `Resource` and `Trans`, say themselves what a wavelength is.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from sparse_ulm.acquisition import Acquisition
from sparse_ulm.errors import RecordingError
from sparse_ulm.io import matlab_hdf5, matlab_v5
from sparse_ulm.io.combine import combine
from sparse_ulm.io.damage import reading
from sparse_ulm.io.layout import AxisOrder, ListedArray, choose_variable, require_axes, require_complex
from sparse_ulm.io.names import recording_stem
from sparse_ulm.io.sidecar import read_sidecar
from sparse_ulm.io.statements import Statement, positive_number, three_numbers
from sparse_ulm.io.verasonics import Workspace, read_workspace

USUAL_NAMES = ("IQ", "iq", "IQData{1}", "IQData", "iqSvdFiltered")
"""PALA, Verasonics and Provost-lab names of an IQ array."""

MATLAB_AXES = [AxisOrder(("z", "x", "t")), AxisOrder(("z", "x", "y", "t"))]
LAYOUT_SOUND_SPEED_M_S = 1540.0
"""The layout states lengths in wavelengths at this speed by definition: 1540 / (TwFreq * 1e3) mm in PALA's code."""

LAYOUT_NAME = "the PALA layout"

Fields = dict[str, Any]


def open_matlab(path: Path, options: Statement, *, variable: str | None = None) -> Acquisition:
    """Open a .mat: `variable`, else the usual name, else the only complex array of rank 3 or 4.

    v7.3 is read frame by frame; v5 (`save -v7` and older) is read whole, which is at most 2 GB a variable.

    Raises:
        RecordingError: If the file is damaged, the array is not clear, real or of the wrong rank, or the geometry is
            missing or contradictory.
    """
    is_hdf5 = h5py.is_hdf5(path)
    version = "7.3" if is_hdf5 else "5"
    with reading(path, as_format=f"MATLAB v{version}"):
        if not is_hdf5:
            _require_v5(path)
        reader = matlab_hdf5 if is_hdf5 else matlab_v5
        listed = {array.name: array for array in reader.list_arrays(path)}
        chosen = listed[_choose(path, listed, variable)]
        require_complex(path, chosen)
        sidecar = read_sidecar(path)
        order = require_axes(path, chosen.shape, sidecar.axes, MATLAB_AXES)
        structs = [name for name, array in listed.items() if array.class_name == "struct"]
        pulse, grid = (reader.read_struct(path, name) if name in structs else {} for name in ("UF", "PData"))
        shape = order.shape(chosen.shape)
        stated_pulse = _state_pulse(path, pulse)
        workspace = read_workspace(path, structs, reader.read_field)
        others = [*stated_pulse, sidecar, options]
        stated, layout = _state_grid(path, grid, workspace, others, is_flat=shape[1] == 1)
        geometry, sources = combine(path, [sidecar, *stated_pulse, workspace.stated, stated, options], layout=layout)
    frames = matlab_hdf5.MatlabHdf5Frames if is_hdf5 else matlab_v5.MatlabV5Frames
    return Acquisition(
        name=recording_stem(path),
        path=path,
        shape=shape,
        geometry=geometry,
        content="iq",
        read=frames(path, chosen.name, order),
        details={
            "format": f"MATLAB v{version}",
            "dtype": f"complex {chosen.class_name}",
            "stored_shape": list(chosen.shape),
            "variable": chosen.name,
            "sources": sources,
            "notes": _notes(grid, chosen.shape, sources),
        },
    )


def _require_v5(path: Path) -> None:
    """Refuse what is neither v7.3 nor v5: the version stands in the last four bytes of the first 128."""
    with path.open("rb") as file:
        header = file.read(matlab_v5.FILE_HEADER_BYTES)
    if header[126:128] not in (b"IM", b"MI"):
        raise RecordingError(
            f"{path.name}: is no MATLAB v5 or v7.3 file; wanted one saved by MATLAB with -v6, -v7 or -v7.3. "
            "Check the suffix, or save it again."
        )


def _choose(path: Path, listed: dict[str, ListedArray], variable: str | None) -> str:
    """Choose the recording's variable; a cell's name alone is its first element."""
    if variable is not None and variable not in listed and f"{variable}{{1}}" in listed:
        variable = f"{variable}{{1}}"
    return choose_variable(path, list(listed.values()), USUAL_NAMES, variable)


def _state_pulse(path: Path, fields: Fields) -> list[Statement]:
    """State `UF.TwFreq` [MHz] and `UF.FrameRateUF` or `UF.FrameRate` [Hz]."""
    source = f"UF of {path.name}"
    rates = [_scalar(fields[name], name, source) for name in ("FrameRateUF", "FrameRate") if name in fields]
    frequency = _scalar(fields["TwFreq"], "TwFreq", source) if "TwFreq" in fields else None
    frequency_hz = None if frequency is None else float(f"{frequency * 1.0e6:.12g}")
    return [Statement(source, transmit_frequency_hz=frequency_hz)] + [
        Statement(source, frame_rate_hz=frame_rate_hz) for frame_rate_hz in rates
    ]


def _state_grid(
    path: Path, fields: Fields, workspace: Workspace, others: Sequence[Statement], *, is_flat: bool
) -> tuple[Statement, Statement | None]:
    """State `PData.PDelta` and `PData.Origin`, and what the layout fixes where they are given.

    A 2D recording has no step along y (PDelta is 0 there). Its thickness is unknown and shown as the step along x.
    """
    source = f"PData of {path.name}"
    stated_hz = (workspace.probe_frequency_hz, *(statement.transmit_frequency_hz for statement in others))
    frequency_hz = next((value for value in stated_hz if value is not None), None)
    if "PDelta" not in fields:
        return Statement(source), None
    sound_speed_m_s = workspace.stated.sound_speed_m_s or LAYOUT_SOUND_SPEED_M_S
    wavelength_mm = sound_speed_m_s / (frequency_hz * 1.0e-3) if frequency_hz else 1.0
    dx, dy, dz = (length * wavelength_mm or None for length in _triple(fields["PDelta"], "PDelta", source))
    if frequency_hz is None:
        # Lengths follow from the frequency, so that it alone is reported missing: these stand in for them until then.
        return Statement(source), Statement(
            LAYOUT_NAME, (dx, dx if is_flat else dy, dz), sound_speed_m_s=sound_speed_m_s
        )
    origin_mm = None
    if "Origin" in fields:
        x, y, z = _triple(fields["Origin"], "Origin", source)
        origin_mm = (x * wavelength_mm, y * wavelength_mm, z * wavelength_mm)
    layout = Statement(LAYOUT_NAME, (None, dx if is_flat else None, None), sound_speed_m_s=sound_speed_m_s)
    return Statement(source, (dx, dy, dz), origin_mm), layout


def _notes(grid: Fields, shape: Sequence[int], sources: dict[str, str]) -> list[str]:
    """Say what a reader of the maps should know about this grid."""
    notes = []
    if sources["voxel size along y"] == LAYOUT_NAME:
        notes.append("2D without an elevation extent: y is shown as thick as the step along x, for display only")
    size = np.ravel(grid.get("Size", [])).tolist()
    if size and any(a != b for a, b in zip(size, shape[:-1], strict=False)):
        notes.append(f"PData.Size is {size}, but the array is {list(shape)}: check that PData describes this array")
    return notes


def _scalar(value: Any, name: str, source: str) -> float:
    """Read a 1x1 field."""
    numbers = np.ravel(value)
    return positive_number(numbers.item() if numbers.size == 1 else numbers.tolist(), name, source)


def _triple(value: Any, name: str, source: str) -> tuple[float, float, float]:
    """Read a field of three wavelengths, x, y and z."""
    return three_numbers(np.ravel(value).tolist(), name, source, unit="wavelengths")
