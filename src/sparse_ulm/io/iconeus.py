"""Iconeus One IQ, `rec.hraw` and `rec.raw`, through Iconeus' own reader pyiconeus (BSD-3), where it is installed.

The recording is the header, rec.hraw; the samples lie beside it in blocks of frames of one length. pyiconeus gives a
block as (z, y, x, compound, frame) without the axes of length 1.

The header has voxel sizes, rates, frequency and sound speed, but neither the format nor pyiconeus says in which units.
They are shown and not used: they must be given. That z runs away from the probe is our reading of pyiconeus' names.
Source: pyiconeus 1.0, models/Raw.py and io/base.py.
"""

import functools
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_ulm.acquisition import Acquisition, Geometry
from sparse_ulm.conventions import Frames
from sparse_ulm.errors import RecordingError
from sparse_ulm.io.combine import combine
from sparse_ulm.io.damage import reading, require_bytes
from sparse_ulm.io.layout import AxisOrder, refuse_other_axes
from sparse_ulm.io.names import recording_stem
from sparse_ulm.io.sidecar import read_sidecar
from sparse_ulm.io.statements import Statement
from sparse_ulm.io.stored import iconeus_samples

FORMAT = "Iconeus .raw"
STORED_AXES = AxisOrder(("z", "y", "x", "t"))
BYTES_PER_SAMPLE, LEGACY_BYTES = 8, 117
"""I and Q in float32, and what files of the legacy format have in front of them."""


def open_iconeus(path: Path, options: Statement) -> Acquisition:
    """Open the recording of a .hraw header and the .raw beside it.

    Raises:
        RecordingError: If pyiconeus is not installed, a file is missing, damaged or not compounded, or the geometry is
            not given; the message then shows what the header says without units.
    """
    pyiconeus = _require_pyiconeus(path)
    samples = iconeus_samples(path)
    if not samples.is_file():
        raise RecordingError(
            f"{path.name}: {samples.name} is not beside it; wanted the samples of this header. Copy both."
        )
    with reading(path, as_format=FORMAT):
        header = pyiconeus.Raw.MetaData(path)
        x, y, z, n_compound, n_frames = (int(n) for n in np.rint(np.ravel(header.blockDim)[:5]))
        if n_compound != 1:
            raise RecordingError(
                f"{path.name}: holds {n_compound} images per frame, one for each plane wave; wanted compounded IQ. "
                "Sum them and save the result as .npy."
            )
        n_bytes = BYTES_PER_SAMPLE * x * y * z * n_frames * header.numberOfBlock
        in_front = LEGACY_BYTES if header.isLegacyFormat else 0
        require_bytes(samples, as_format=FORMAT, n_bytes=in_front + n_bytes)
        sidecar = read_sidecar(path)
        refuse_other_axes(path, sidecar, STORED_AXES)
        geometry, sources = _combine(path, sidecar, options, header)
    return Acquisition(
        name=recording_stem(path),
        path=path,
        shape=(x, y, z, n_frames * header.numberOfBlock),
        geometry=geometry,
        content="iq",
        read=IconeusFrames(path, (z, y, x, n_frames)),
        details={
            "format": f"{FORMAT} ({header.acquisitionMode})",
            "dtype": "float32 I and Q",
            "stored_shape": [z, y, x, n_frames, header.numberOfBlock],
            "sources": sources,
            "notes": _notes(header),
        },
    )


@dataclass(frozen=True)
class IconeusFrames:
    """Reads the blocks that frames lie in; the last block is kept.

    Attributes:
        path: The header.
        block: Sizes of a block, (z, y, x, t).
    """

    path: Path
    block: tuple[int, int, int, int]

    def __call__(self, start: int, stop: int) -> Frames:
        """Read frames start ... stop - 1."""
        n = self.block[3]
        parts = []
        with reading(self.path, as_format=FORMAT):
            changed = iconeus_samples(self.path).stat().st_mtime_ns
            for number in range(start // n, (stop - 1) // n + 1):
                block = _read_block(self.path, self.block, number, changed)
                parts.append(block[..., max(0, start - number * n) : stop - number * n])
        return STORED_AXES.arrange(np.concatenate(parts, axis=-1))


def _require_pyiconeus(path: Path) -> ModuleType:
    """Import the reader.

    Raises:
        RecordingError: If it is not installed.
    """
    try:
        import pyiconeus
    except ImportError as error:
        raise RecordingError(
            f"{path.name}: pyiconeus is not installed; wanted it, which is Iconeus' own reader. "
            'Install it: pip install "sparse-ulm[iconeus]"'
        ) from error
    return pyiconeus  # type: ignore[no-any-return]


@functools.lru_cache(maxsize=1)
def _read_block(path: Path, shape: tuple[int, ...], number: int, changed: int) -> NDArray[np.complex64]:
    """Read one block, counted from 0; the last one is kept, until the file changes."""
    pyiconeus = _require_pyiconeus(path)
    raw = pyiconeus.open_path(iconeus_samples(path), path, blockStart=number + 1, blockEnd=number + 1)
    return np.asarray(raw.data, dtype=np.complex64).reshape(shape)


def _combine(path: Path, sidecar: Statement, options: Statement, header: Any) -> tuple[Geometry, dict[str, str]]:
    """Make the geometry of what the user gives; where that is not enough, show what the header says."""
    try:
        return combine(path, [sidecar, options])
    except RecordingError as error:
        raise RecordingError(f"{error} {_header_says(header)}.") from error


def _header_says(header: Any) -> str:
    """Write the header's numbers, whose units are not documented."""
    size = header.voxDim
    return (
        f"Its header says, in units that Iconeus does not document: voxDim {size.dx:g} {size.dy:g} {size.dz:g}, "
        f"frameRate {header.frameRate:g}, transmitFrequency {header.transmitFrequency:g}, "
        f"speedOfSound {header.speedOfSound:g}"
    )


def _notes(header: Any) -> list[str]:
    """Say what to check, and where frames may be missing."""
    blocks = f"{header.numberOfBlock} blocks are laid end to end: tracks must not cross them if there were gaps"
    return [_header_says(header)] + ([blocks] if header.numberOfBlock > 1 else [])
