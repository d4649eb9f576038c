"""Maps as DICOM Parametric Map Storage (PS3.3 A.75): header by highdicom, frames written one by one.

A frame is one x-z plane of the map: columns run along x, rows along depth, frames along y; a 2D map is one frame.
Scanner axes of NIfTI are right, anterior, superior and those of DICOM left, posterior, superior: x and y of positions
and directions change their sign, voxels stay where they are.
"""

import struct
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped
from pydicom import Dataset

from sparse_ulm.acquisition import Geometry
from sparse_ulm.errors import UserError
from sparse_ulm.io.atomic import atomic_path
from sparse_ulm.io.dicom_header import MapMeaning, is_mirrored, make_header, stored_dtype
from sparse_ulm.io.dicom_tags import DicomTags
from sparse_ulm.mapping.sparse_map import SparseMap

MAX_PIXEL_BYTES = 2**32 - 2
"""A length in DICOM has 32 bits, is even, and its largest value means "undefined" (PS3.5 7.1)."""

MAX_SIDE = 2**16 - 1
"""Rows and columns are uint16."""

ORTHOGONAL_TOLERANCE = 1.0e-4
"""Largest cosine between two axes of a grid: DICOM's orientation holds no shear (PS3.3 C.7.6.2.1.1)."""

FLOAT_BITS = 32
"""Bits of a float32, by which the two kinds of pixel data are told apart here."""

TRACK_DENSITY = MapMeaning("density", "Tracks of microbubbles through the voxel", "{tracks}", is_count=True)
BLOCK_DENSITY = MapMeaning("density", "Blocks of frames with a microbubble in the voxel", "{blocks}", is_count=True)
SPEED = MapMeaning("speed", "Mean speed of microbubbles; NaN where unknown", "mm/s")


def check_dicom_grid(name: str, shape: tuple[int, int, int], geometry: Geometry) -> None:
    """Refuse maps that DICOM cannot hold, before they are computed.

    Args:
        name: Of the recording, for the message.
        shape: (x, y, z) of the map.
        geometry: Of the recording or of the map.

    Raises:
        UserError: If a map of float32 is longer than 4 GiB or 65535 voxels, or its axes are not at right angles.
    """
    n_bytes = 4 * int(np.prod(shape, dtype=np.int64))
    if n_bytes > MAX_PIXEL_BYTES or max(shape) > MAX_SIDE:
        raise UserError(
            f"{name}: a map of {' x '.join(map(str, shape))} voxels has {n_bytes / 2**30:.1f} GiB; DICOM holds 4 GiB "
            "and 65535 voxels along an axis. Set dicom to false, or crop the recording; NIfTI holds it whole."
        )
    axes = geometry.matrix_m[:3, :3] / np.linalg.norm(geometry.matrix_m[:3, :3], axis=0)
    if np.abs(axes.T @ axes - np.eye(3)).max() > ORTHOGONAL_TOLERANCE:
        raise UserError(
            f"{name}: the axes of its grid are not at right angles; DICOM wants them so. Set dicom to false."
        )


def save_dicom_maps(
    folder: Path,
    name: str,
    maps: Mapping[MapMeaning, SparseMap],
    geometry: Geometry,
    tags: DicomTags,
) -> None:
    """Write `NAME_LABEL.dcm` of each map: one study, one series each, one frame of reference.

    Args:
        folder: Where; made if absent.
        name: Of the recording; it is part of the files' names and of nothing in them.
        maps: Maps of one number per voxel, on one grid.
        geometry: Of that grid, as `Geometry.refined` gives it.
        tags: What the user says of patient and study.

    Raises:
        UserError: If DICOM cannot hold the grid, or a file cannot be written.
    """
    import highdicom

    uids = {
        keyword: tags.given.get(keyword, highdicom.UID()) for keyword in ("StudyInstanceUID", "FrameOfReferenceUID")
    }
    for number, (meaning, found) in enumerate(maps.items(), start=1):
        check_dicom_grid(name, found.shape, geometry)
        header = make_header(found, geometry, meaning, DicomTags({**tags.given, **uids}), series_number=number)
        with atomic_path(folder / f"{name}_{meaning.label}.dcm") as temporary:
            _write(temporary, header, frames(found, stored_dtype(found, meaning), against_y=is_mirrored(geometry)))


def _write(path: Path, header: Dataset, pixels: Iterator[Shaped[np.ndarray, "z x"]]) -> None:
    """Write the header, and behind it the pixels frame by frame: they are the last element of a data set."""
    is_float = header.BitsAllocated == FLOAT_BITS
    tag, vr = ((0x7FE0, 0x0008), b"OF") if is_float else ((0x7FE0, 0x0010), b"OW")
    n_bytes = header.BitsAllocated // 8 * header.Rows * header.Columns * int(header.NumberOfFrames)
    with path.open("wb") as file:
        header.save_as(file, enforce_file_format=True)
        file.write(struct.pack("<HH2sHI", *tag, vr, 0, n_bytes))  # even, since samples are of 2 or 4 bytes
        for frame in pixels:
            file.write(frame.tobytes())


def frames(found: SparseMap, dtype: np.dtype[Any], *, against_y: bool = False) -> Iterator[Shaped[np.ndarray, "z x"]]:
    """Give the x-z planes of a map one after the other along y; memory holds one, and the visited voxels."""
    n_x, n_y, n_z = found.shape
    x, y, z = np.unravel_index(found.key, found.shape)
    order = np.argsort(y, kind="stable")
    x, z, values = x[order], z[order], found.values[order]
    bounds = np.searchsorted(y[order], np.arange(n_y + 1)).tolist()
    planes = list(pairwise(bounds))
    for first, last in reversed(planes) if against_y else planes:
        frame = np.full((n_z, n_x), found.elsewhere, dtype=dtype)
        frame[z[first:last], x[first:last]] = values[first:last]
        yield frame
