"""Maps for the report: read slab by slab, and for the viewer no larger than a page can carry."""

import base64
import gzip
from dataclasses import dataclass, replace
from itertools import count
from math import prod
from pathlib import Path

import nibabel
import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from sparse_ulm.acquisition import Geometry, as_rows
from sparse_ulm.conventions import METRES_PER_MM
from sparse_ulm.mapping.sparse_map import SLAB_BYTES, SparseMap

MAX_VIEWER_VOXELS = 1 << 23
"""Voxels of the largest map that the viewer shows as it is; a browser holds several copies of 4 bytes each."""

MAX_VIEWER_LENGTH = 1024
"""Voxels along an axis, which every graphics card takes as a 3D texture."""

HALF_TURN = np.diag([1.0, -1.0, -1.0, 1.0])
"""About x: the viewer draws z upwards, and depth belongs downwards, as in the pictures. A turn mirrors nothing."""


@dataclass(frozen=True)
class ReadMap:
    """A map as it lies in its file.

    Attributes:
        values: Voxels that are neither 0 nor NaN.
        affine_mm: Voxels to scanner millimetres.
    """

    values: SparseMap
    affine_mm: Float[np.ndarray, "4 4"]

    @property
    def grid(self) -> Geometry:
        """Where its voxels lie, for pictures, which ask for nothing else: its rates mean nothing."""
        affine_m = self.affine_mm.copy()
        affine_m[:3] *= METRES_PER_MM
        return Geometry(as_rows(affine_m), frame_rate_hz=1.0, transmit_frequency_hz=1.0, sound_speed_m_s=1.0)


@dataclass(frozen=True)
class ViewerVolume:
    """A density map as the page carries it.

    Attributes:
        base64: A NIfTI file, compressed; its values are cube roots of the density, as colours are in the pictures.
        shape: Of that file.
        factor: Voxels of the map along each axis that were joined to one, by their largest value.
        largest: Of the cube roots.
        is_turned: Whether y and z have the other sign in that file (`HALF_TURN`).
        busiest_mm: Centre of a voxel of largest density, in the coordinates of that file.
    """

    base64: str
    shape: tuple[int, int, int]
    factor: tuple[int, int, int]
    largest: float
    is_turned: bool
    busiest_mm: tuple[float, float, float]


def read_map(path: Path) -> ReadMap:
    """Read a map of one number per voxel; memory follows what it holds and not its size.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is no such map.
    """
    # Open all the way: nibabel would unpack the file from its start for every slab.
    image = nibabel.load(path, keep_file_open=True)
    if not isinstance(image, nibabel.Nifti1Pair) or image.ndim != 3:
        raise ValueError(f"{path.name} is no 3D NIfTI map")
    x, y, z = image.shape
    depth = max(1, SLAB_BYTES // (4 * x * y))
    keys, values = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.float32)]
    for first in range(0, z, depth):
        slab = np.asarray(image.dataobj[:, :, first : first + depth], dtype=np.float32)
        i, j, k = np.nonzero((slab != 0) & np.isfinite(slab))
        keys.append(np.ravel_multi_index((i, j, k + first), (x, y, z)).astype(np.int64))
        values.append(slab[i, j, k])
    return ReadMap(SparseMap((x, y, z), np.concatenate(keys), np.concatenate(values)), np.asarray(image.affine))


def viewer_volume(density: ReadMap) -> ViewerVolume:
    """Prepare a density map for the viewer: joined voxels where it is too large, cube roots, half a turn.

    Args:
        density: With at least one visited voxel.
    """
    factor = joining_factor(density.values.shape)
    joined = join_voxels(density, factor)
    roots = joined.values.with_values(np.cbrt(joined.values.values))
    is_turned = bool(density.affine_mm[2, 2] > 0)
    affine = HALF_TURN @ joined.affine_mm if is_turned else joined.affine_mm
    image = nibabel.Nifti1Image(roots.dense(), affine)
    busiest = np.array(np.unravel_index(roots.key[roots.values.argmax()], roots.shape))
    x_mm, y_mm, z_mm = (affine[:3, :3] @ busiest + affine[:3, 3]).tolist()
    image.header.set_xyzt_units("mm", "sec")
    return ViewerVolume(
        base64.b64encode(_compressed(image)).decode("ascii"),
        roots.shape,
        factor,
        float(roots.values.max()),
        is_turned,
        (x_mm, y_mm, z_mm),
    )


def joining_factor(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Choose the least number of voxels to join along each axis, the same for all but one that is a voxel thick.

    >>> joining_factor((192, 193, 194)), joining_factor((1024, 1024, 1024)), joining_factor((4096, 1, 512))
    ((1, 1, 1), (6, 6, 6), (4, 1, 4))
    """
    for step in count(1):
        x, y, z = (min(step, size) for size in shape)
        joined = [-(-size // one) for size, one in zip(shape, (x, y, z), strict=True)]
        if prod(joined) <= MAX_VIEWER_VOXELS and max(joined) <= MAX_VIEWER_LENGTH:
            return x, y, z
    raise AssertionError("never reached: one voxel always fits")


def join_voxels(found: ReadMap, factor: tuple[int, int, int]) -> ReadMap:
    """Join voxels by their largest value, which keeps thin vessels; the new ones' centres lie amid the joined."""
    sparse, step = found.values, np.asarray(factor)
    x, y, z = (-(-size // one) for size, one in zip(sparse.shape, factor, strict=True))
    index: NDArray[np.int64] = np.stack(np.unravel_index(sparse.key, sparse.shape)) // step[:, None]
    key = np.ravel_multi_index(tuple(index), (x, y, z)).astype(np.int64)
    places, inverse = np.unique(key, return_inverse=True)
    largest = np.zeros(len(places), dtype=np.float32)
    np.maximum.at(largest, inverse, sparse.values)
    affine = found.affine_mm.copy()
    affine[:3, 3] += affine[:3, :3] @ ((step - 1) / 2)
    affine[:3, :3] *= step
    return ReadMap(replace(sparse, shape=(x, y, z), key=places, values=largest), affine)


def _compressed(image: nibabel.Nifti1Image) -> bytes:
    """Give the bytes of a .nii.gz, the same for the same map."""
    return gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)
