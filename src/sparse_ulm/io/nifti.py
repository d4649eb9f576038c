"""NIfTI-1 and NIfTI-2: complex recordings (x, y, z, t) in and out, and maps (x, y, z) out."""

import gzip
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from jaxtyping import Complex, Float
from nibabel.arrayproxy import ArrayProxy

from sparse_ulm.acquisition import Acquisition, Geometry, as_rows
from sparse_ulm.conventions import AXES, Frames
from sparse_ulm.errors import RecordingError
from sparse_ulm.io.atomic import atomic_path
from sparse_ulm.io.combine import combine
from sparse_ulm.io.damage import reading, require_bytes
from sparse_ulm.io.layout import AxisOrder, ListedArray, refuse_other_axes, require_axes, require_complex
from sparse_ulm.io.names import recording_stem
from sparse_ulm.io.sidecar import read_sidecar, write_sidecar
from sparse_ulm.io.statements import Statement
from sparse_ulm.mapping.sparse_map import SparseMap

Header = nibabel.Nifti1Header | nibabel.Nifti2Header

STORED_AXES = AxisOrder(AXES)
MAX_NIFTI1_LENGTH = 32767
"""NIfTI-1 counts voxels along an axis in int16; longer recordings are written as NIfTI-2."""

MM_PER_UNIT = {"meter": 1.0e3, "mm": 1.0, "micron": 1.0e-3, "unknown": 1.0}
"""Unknown spatial units are millimetres, as nibabel, ITK and FSL read them."""

SECONDS_PER_UNIT = {"sec": 1.0, "msec": 1.0e-3, "usec": 1.0e-6}
UNSET_INTERVAL_S = 1.0
"""What nibabel and ITK put in pixdim[4] when nobody sets it, so it states nothing; no bubbles are imaged at 1 Hz."""

GZIP_LEVEL = 1
"""nibabel's: maps are mostly empty, and higher levels take longer for little."""

MAX_DESCRIPTION = 79
"""The `descrip` field has 80 bytes with its closing zero."""


def open_nifti(path: Path, options: Statement) -> Acquisition:
    """Open a 4D complex NIfTI file and its sidecar.

    Args:
        path: .nii or .nii.gz.
        options: What the caller states.

    Returns:
        The acquisition. Frames of a .nii are read from where they lie; a .nii.gz is decompressed up to the frames
        asked for, and from where the last reading stopped, so that blocks in order cost one pass.

    Raises:
        RecordingError: If the file is damaged, not 4D, not complex, or its geometry is missing or contradictory.
    """
    with reading(path, as_format="NIfTI"):
        header, version = _read_header(path)
        stored, dtype = header.get_data_shape(), np.dtype(header.get_data_dtype())
        sidecar = read_sidecar(path)
        require_complex(path, ListedArray("the image", stored, dtype.kind == "c", str(dtype)))
        require_axes(path, stored, None, [STORED_AXES])
        if path.name.lower().endswith(".nii"):
            n_bytes = int(header.get_data_offset()) + dtype.itemsize * int(np.prod(stored, dtype=np.int64))
            require_bytes(path, as_format="NIfTI", n_bytes=n_bytes)
        refuse_other_axes(path, sidecar, STORED_AXES)
        geometry, sources = combine(path, [sidecar, *_state_header(path, header), options])
    return Acquisition(
        name=recording_stem(path),
        path=path,
        shape=STORED_AXES.shape(stored),
        geometry=geometry,
        content="iq",
        read=_NiftiFrames(path, header),
        details={"format": f"NIfTI-{version}", "dtype": str(dtype), "stored_shape": list(stored), "sources": sources},
    )


def save_nifti(path: Path, frames: Complex[np.ndarray, "x y z t"], geometry: Geometry) -> None:
    """Write a recording as complex64 NIfTI (NIfTI-2 where an axis is longer than 32767) with its sidecar."""
    image = _image(np.asarray(frames, dtype=np.complex64), geometry)
    image.header.set_zooms((*image.header.get_zooms()[:3], 1.0 / geometry.frame_rate_hz))
    with atomic_path(path) as temporary:
        nibabel.save(image, temporary)
    write_sidecar(path, geometry)


def save_map(
    path: str | Path, density: Float[np.ndarray, "x y z"], geometry: Geometry, *, description: str = ""
) -> None:
    """Write a map as float32 NIfTI with sform and qform of code 1 (scanner), in mm and seconds.

    Args:
        path: .nii or .nii.gz to write; its folder is made if absent.
        density: The map; written as float32.
        geometry: Of the map's own grid, as `Geometry.refined` gives it.
        description: At most 79 ASCII characters for the header's `descrip`; longer is cut.
    """
    image = _image(np.asarray(density, dtype=np.float32), geometry)
    image.header["descrip"] = description.encode("ascii", "replace")[:MAX_DESCRIPTION]
    with atomic_path(path) as temporary:
        nibabel.save(image, temporary)


def save_sparse_map(
    path: str | Path, found: SparseMap, geometry: Geometry, *, vector_name: str | None = None, description: str = ""
) -> None:
    """Write a map as `save_map` does, but slab by slab, so that memory follows the visited voxels.

    Vectors are written as (x, y, z, 1, 3) of intent "vector" (1007), as ITK and Slicer read them.

    Args:
        path: .nii or .nii.gz to write; its folder is made if absent.
        found: The map.
        geometry: Of the map's own grid.
        vector_name: What vectors are, with their unit, for the header, at most 15 ASCII characters; None for numbers.
        description: As for `save_map`.
    """
    components = list(range(found.values.shape[1])) if found.values.ndim > 1 else [None]
    shape = found.shape if components == [None] else (*found.shape, 1, len(components))
    image = _image(np.broadcast_to(np.float32(0), shape), geometry)
    if vector_name is not None:
        image.header.set_intent("vector", (), name=vector_name)
    image.header["descrip"] = description.encode("ascii", "replace")[:MAX_DESCRIPTION]
    image.update_header()
    with atomic_path(path) as temporary, _opened(temporary) as file:
        image.header.set_slope_inter(1.0, 0.0)
        image.header["vox_offset"] = image.header.single_vox_offset
        image.header.write_to(file)
        file.write(bytes(image.header.single_vox_offset - file.tell()))
        for component in components:
            for slab in found.slabs(component):
                file.write(slab.tobytes(order="F"))


@contextmanager
def _opened(path: Path) -> Iterator[io.BufferedIOBase]:
    """Open a file for writing, packed where its name ends in .gz; without name and time: equal maps are equal files."""
    with path.open("wb") as file:
        if path.name.endswith(".gz"):
            with gzip.GzipFile(filename="", mode="wb", compresslevel=GZIP_LEVEL, fileobj=file, mtime=0) as packed:
                yield packed
        else:
            yield file


def _image(samples: np.ndarray, geometry: Geometry) -> nibabel.Nifti1Image | nibabel.Nifti2Image:
    """Make an image with the affine in both forms; a qform cannot hold shear, so a sheared grid has the sform alone."""
    image_class = nibabel.Nifti1Image if max(samples.shape) <= MAX_NIFTI1_LENGTH else nibabel.Nifti2Image
    image = image_class(samples, geometry.affine_mm)
    image.set_sform(geometry.affine_mm, code=1)
    image.set_qform(geometry.affine_mm, code=1, strip_shears=True)
    if not np.allclose(image.get_qform(), geometry.affine_mm, rtol=1.0e-4, atol=1.0e-5):
        image.set_qform(None, code=0)
    image.header.set_xyzt_units("mm", "sec")
    return image


CHECKED_BYTES = 1 << 24
"""Unpacked at a time where a sum is checked."""


@dataclass
class _NiftiFrames:
    """Reads frames through nibabel's array proxy, which applies the header's scaling and keeps complex numbers."""

    path: Path
    header: Header
    _proxy: ArrayProxy | None = field(default=None, repr=False)
    _process: int = 0

    def __call__(self, start: int, stop: int) -> Frames:
        with reading(self.path, as_format="NIfTI"):
            samples = np.asanyarray(self._open()[STORED_AXES.time_slice(start, stop)])
            if self._is_compressed and stop == self.header.get_data_shape()[-1]:
                self._check_sum()
            # nibabel gives read-only views of the bytes it read; torch wants memory of its own
            return np.require(STORED_AXES.arrange(samples), requirements="W")

    def _open(self) -> ArrayProxy:
        """Give this process's proxy: a handle inherited by fork would share its position with the parent's."""
        if self._proxy is None or self._process != os.getpid():
            keep = self._is_compressed
            self._proxy = ArrayProxy(os.fspath(self.path), self.header, mmap=False, keep_file_open=keep)
            self._process = os.getpid()
        return self._proxy

    def _check_sum(self) -> None:
        """Unpack what is behind the last frame: at its end the sum of all content is compared. nibabel stops before.

        Raises:
            gzip.BadGzipFile: If sum or length differ.
        """
        with self._open()._get_fileobj() as stream:
            while stream.read(CHECKED_BYTES):
                pass

    @property
    def _is_compressed(self) -> bool:
        return self.path.name.lower().endswith(".gz")

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open handle behind when a data loader sends the reader to a worker."""
        return {**self.__dict__, "_proxy": None}


def _read_header(path: Path) -> tuple[Header, int]:
    """Read the header as it is: nibabel's own checks would turn a voxel size of 0 into 1 mm."""
    with gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb") as file:
        start = file.read(540)
    if start[4:7] == b"n+2":
        header: Header = nibabel.Nifti2Header.from_fileobj(io.BytesIO(start[:540]), check=False)
        return header, 2
    if start[344:347] != b"n+1":
        raise RecordingError(
            f"{path.name}: is no single-file NIfTI (its magic is {start[344:348]!r}); wanted 'n+1' or 'n+2'. "
            "Check the suffix, or convert the .hdr/.img pair to .nii."
        )
    return nibabel.Nifti1Header.from_fileobj(io.BytesIO(start[:348]), check=False), 1


def _state_header(path: Path, header: Header) -> list[Statement]:
    """State voxel size and frame rate (pixdim), then position and direction (sform, else qform, else neither)."""
    space_unit, time_unit = header.get_xyzt_units()
    mm_per_unit = MM_PER_UNIT[space_unit]
    size = [shortest(length) * mm_per_unit or None for length in np.abs(header["pixdim"][1:4])]
    interval_s = shortest(header["pixdim"][4]) * SECONDS_PER_UNIT.get(time_unit, 0.0)
    is_stated = interval_s not in (0.0, UNSET_INTERVAL_S)
    frame_rate_hz = float(f"{1.0 / interval_s:.7g}") if is_stated else None
    pixdim = Statement(f"pixdim of {path.name}", (size[0], size[1], size[2]), frame_rate_hz=frame_rate_hz)
    form = "sform" if header["sform_code"] > 0 else "qform"
    if header[f"{form}_code"] <= 0:
        return [pixdim]
    affine_mm = np.vectorize(shortest)(header.get_sform() if form == "sform" else header.get_qform())
    affine_mm[:3] *= mm_per_unit
    x, y, z = np.linalg.norm(affine_mm[:3, :3], axis=0).tolist()
    directions = affine_mm[:3, :3] / np.maximum([x, y, z], np.finfo(float).tiny)
    origin_mm = tuple(affine_mm[:3, 3].tolist())
    return [pixdim, Statement(f"{form} of {path.name}", (x, y, z), origin_mm, as_rows(directions))]


def shortest(value: np.floating | float) -> float:
    """Give the decimal that a float32 stands for: 0.1 and not 0.10000000149.

    >>> shortest(np.float32(0.1))
    0.1
    """
    return float(str(np.float32(value)))
