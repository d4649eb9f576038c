"""MATLAB v7.3 files: HDF5 with the axes reversed and complex numbers as (real, imag) pairs, read frame by frame."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from sparse_ulm.conventions import Frames
from sparse_ulm.io.damage import reading
from sparse_ulm.io.layout import AxisOrder, ListedArray

COMPLEX_FIELDS = {"real", "imag"}

PAIR = np.dtype([("real", np.float32), ("imag", np.float32)])
"""The pairs that lie in memory as complex64 does."""


def list_arrays(path: Path) -> list[ListedArray]:
    """List the variables of a file without reading their samples; cells as NAME{1}, NAME{2}."""
    with h5py.File(path, "r") as file:
        groups = [name for name in file if isinstance(file[name], h5py.Group) and not name.startswith("#")]
        structs = [ListedArray(name, (1, 1), False, "struct") for name in groups]
        return [_describe(name, dataset) for name, dataset in _datasets(file)] + structs


def read_struct(path: Path, name: str) -> dict[str, Any]:
    """Read the fields of the struct `name` (of its first element, if it is an array of structs)."""
    with h5py.File(path, "r") as file:
        struct = file[name]  # an empty struct is a dataset
        return {field: _first(file, struct[field]) for field in struct} if isinstance(struct, h5py.Group) else {}


def read_field(path: Path, *names: str) -> Any:
    """Read a field of structs in one another, as "Resource", "Parameters", "speedOfSound"; None where there is none."""
    with h5py.File(path, "r") as file:
        item: Any = file
        for name in names:
            item = item.get(name) if isinstance(item, h5py.Group) else None
        return _first(file, item)


@dataclass(frozen=True)
class MatlabHdf5Frames:
    """Reads frames of a variable from where they lie; the file is opened at each call, so workers share nothing.

    Attributes:
        path: The file.
        name: The variable, as "IQ" or "IQData{1}".
        order: Its axes in MATLAB's order, the reverse of the order in the file.
    """

    path: Path
    name: str
    order: AxisOrder

    def __call__(self, start: int, stop: int) -> Frames:
        """Read frames start ... stop - 1."""
        stored_order = AxisOrder(self.order.axes[::-1])
        with reading(self.path, as_format="MATLAB v7.3"), h5py.File(self.path, "r") as file:
            dataset = dict(_datasets(file))[self.name]
            return stored_order.arrange(to_complex(dataset[stored_order.time_slice(start, stop)]))


def to_complex(stored: NDArray[Any]) -> NDArray[np.complex64]:
    """Turn (real, imag) pairs, or complex numbers, into complex64."""
    if stored.dtype.names is None:
        return stored.astype(np.complex64)
    if stored.dtype == PAIR:
        return stored.view(np.complex64)
    samples = np.empty(stored.shape, np.complex64)
    samples.real, samples.imag = stored["real"], stored["imag"]
    return samples


def _datasets(file: h5py.File) -> Iterator[tuple[str, h5py.Dataset]]:
    """Go through the arrays of a file by name, those in cells as NAME{1}, NAME{2}."""
    for name, item in file.items():
        if not isinstance(item, h5py.Dataset) or item.shape is None:
            continue
        if h5py.check_ref_dtype(item.dtype) is None:
            yield name, item
            continue
        for number, reference in enumerate(np.ravel(item[()]), start=1):
            target = file[reference]
            if isinstance(target, h5py.Dataset):
                yield f"{name}{{{number}}}", target


def _describe(name: str, dataset: h5py.Dataset) -> ListedArray:
    """Describe an array as MATLAB shows it."""
    is_complex = dataset.dtype.kind == "c" or set(dataset.dtype.names or ()) == COMPLEX_FIELDS
    class_name = dataset.attrs.get("MATLAB_class", str(dataset.dtype))
    text = class_name.decode() if isinstance(class_name, bytes) else str(class_name)
    return ListedArray(name, tuple(dataset.shape[::-1]), is_complex, text)


def _first(file: h5py.File, item: Any) -> Any:
    """Read a field; of an array of structs, whose fields are references, that of the first element."""
    if isinstance(item, h5py.Dataset) and h5py.check_ref_dtype(item.dtype) is not None:
        item = file[np.ravel(item[()])[0]]
    return item[()].T if isinstance(item, h5py.Dataset) else None
