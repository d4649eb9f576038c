"""MATLAB v5 files (`save -v6` and `-v7`): what they hold, read from the element headers, and their values."""

import functools
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from numpy.typing import NDArray

from sparse_ulm.conventions import Frames
from sparse_ulm.io.damage import reading, require_bytes
from sparse_ulm.io.layout import AxisOrder, ListedArray
from sparse_ulm.io.matlab_v5_elements import COMPLEX_FLAG, FILE_HEADER_BYTES, MI_COMPRESSED, check_variable

CLASS_NAMES = {1: "cell", 2: "struct", 6: "double", 7: "single", 8: "int8", 9: "uint8", 10: "int16", 11: "uint16"} | {
    12: "int32",
    13: "uint32",
    14: "int64",
    15: "uint64",
}
ARRAY_HEADER_BYTES = 1024
"""More than tag, flags, dimensions (rank 4) and the longest name (63) take."""


def list_arrays(path: Path) -> list[ListedArray]:
    """List the variables of a file without reading their samples; cells as NAME{1}, NAME{2}.

    Raises:
        RecordingError: If the file ends before an element does.

    Source: element tags, array flags and names as in MathWorks' "MAT-File Format"; scipy.io.whosmat gives
        the same but not whether an array is complex.
    """
    listed: list[ListedArray] = []
    with path.open("rb") as file:
        for array in _scan(path, file):
            listed += _list_cells(path, array) if array.class_name == "cell" else [array]
    return listed


def read_struct(path: Path, name: str) -> dict[str, Any]:
    """Read the fields of the struct `name` (of its first element, if it is an array of structs)."""
    elements = np.asarray(_load_variable(path, name)).ravel()
    return {field: elements[0][field] for field in elements.dtype.names or ()} if elements.size else {}


def read_field(path: Path, *names: str) -> Any:
    """Read a field of structs in one another, as "Resource", "Parameters", "speedOfSound"; None where there is none."""
    value = _load_variable(path, names[0])
    for name in names[1:]:
        elements = np.asarray(value).ravel()
        if not elements.size or name not in (elements.dtype.names or ()):
            return None
        value = elements[0][name]
    return value


@dataclass(frozen=True)
class MatlabV5Frames:
    """Gives frames of a variable; the format has no access to single frames, so it is read whole and the last one kept.

    Attributes:
        path: The file.
        name: The variable, as "IQ" or "IQData{1}".
        order: Its axes in MATLAB's order.
    """

    path: Path
    name: str
    order: AxisOrder

    def __call__(self, start: int, stop: int) -> Frames:
        """Give frames start ... stop - 1."""
        with reading(self.path, as_format="MATLAB v5"):
            samples = _load(self.path, self.name, self.path.stat().st_mtime_ns)
            return np.array(self.order.arrange(samples[self.order.time_slice(start, stop)]))


def _scan(path: Path, file: BufferedIOBase) -> Iterator[ListedArray]:
    """Go from element to element, unpacking no more than the header of each."""
    header = file.read(FILE_HEADER_BYTES)
    order = "<" if header[126:128] == b"IM" else ">"
    end = path.stat().st_size
    position = FILE_HEADER_BYTES
    while position < end:
        file.seek(position)
        kind, n_bytes = struct.unpack(f"{order}II", file.read(8))
        require_bytes(path, as_format="MATLAB v5", n_bytes=position + 8 + n_bytes)
        start = file.read(min(n_bytes, ARRAY_HEADER_BYTES))
        if kind == MI_COMPRESSED:
            start = zlib.decompressobj().decompress(start, ARRAY_HEADER_BYTES)[8:]
        array = _parse_array_header(start, order)
        if array.name:
            yield array
        position += 8 + n_bytes


def _parse_array_header(content: bytes, order: str) -> ListedArray:
    """Read flags, dimensions and name, the first three parts of a matrix element."""
    flags = struct.unpack_from(f"{order}I", content, 8)[0]
    n_bytes = struct.unpack_from(f"{order}I", content, 20)[0]
    shape = struct.unpack_from(f"{order}{n_bytes // 4}i", content, 24)
    position = 24 + -(-n_bytes // 8) * 8
    first, second = struct.unpack_from(f"{order}II", content, position)
    # A name of up to 4 letters is packed into its tag: its length in the upper half of the first word.
    length, position = (first >> 16, position + 4) if first >> 16 else (second, position + 8)
    name = content[position : position + length].decode("latin-1")
    return ListedArray(name, tuple(shape), bool(flags & COMPLEX_FLAG), CLASS_NAMES.get(flags & 0xFF, "other"))


def _list_cells(path: Path, cell: ListedArray) -> list[ListedArray]:
    """List the arrays in a cell, which must be read for that."""
    cells = np.asarray(_load_variable(path, cell.name)).ravel(order="F")
    arrays = [np.asarray(value) for value in cells]
    return [
        ListedArray(f"{cell.name}{{{number}}}", array.shape, array.dtype.kind == "c", str(array.dtype))
        for number, array in enumerate(arrays, start=1)
    ]


def _load_variable(path: Path, name: str) -> Any:
    """Load one variable. `mat_dtype` is never passed: it casts complex numbers to real ones."""
    check_variable(path, name)
    return scipy.io.loadmat(path, variable_names=[name], appendmat=False)[name]


@functools.lru_cache(maxsize=1)
def _load(path: Path, name: str, changed: int) -> NDArray[np.generic]:
    """Load an array or NAME{k} as complex64; the last one is kept, until the file changes."""
    variable, _, number = name.partition("{")
    value = _load_variable(path, variable)
    if number:
        value = np.asarray(value).ravel(order="F")[int(number.rstrip("}")) - 1]
    return np.asarray(value).astype(np.complex64)
