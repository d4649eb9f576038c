"""Write a recording in the PALA layout, as MATLAB v5 (scipy) or v7.3 (h5py)."""

from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import scipy.io
from jaxtyping import Complex
from numpy.typing import NDArray

from sparse_ulm.acquisition import Geometry
from sparse_ulm.errors import RecordingError
from sparse_ulm.io.atomic import atomic_path
from sparse_ulm.io.matlab import LAYOUT_SOUND_SPEED_M_S
from sparse_ulm.io.sidecar import require_aligned
from sparse_ulm.io.statements import millimetres

MatlabVersion = Literal["5", "7.3"]
Struct = dict[str, NDArray[np.float64]]

MAX_V5_BYTES = 2**31 - 1
USERBLOCK_BYTES = 512
HEADER_TEXT = b"MATLAB 7.3 MAT-file, Platform: sparse-ulm, HDF5 schema 1.00 ."
COMPLEX_SINGLE = np.dtype([("real", "<f4"), ("imag", "<f4")])


def save_matlab(
    path: Path, frames: Complex[np.ndarray, "x y z t"], geometry: Geometry, *, version: MatlabVersion
) -> None:
    """Write `IQ` [z, x, t] or [z, x, y, t] in single precision, with `UF` and `PData`.

    In 2D `PDelta` is 0 along y, as in PALA, unless the step along y is another than along x.

    Args:
        path: The .mat to write.
        frames: Complex samples; y is 1 for 2D.
        geometry: Along the scanner's axes, beamformed at 1540 m/s: the layout holds nothing else.
        version: "5" (at most 2 GB) or "7.3".

    Raises:
        RecordingError: If the layout cannot hold the geometry, or v5 the size.
    """
    require_aligned(path, geometry)
    if geometry.sound_speed_m_s != LAYOUT_SOUND_SPEED_M_S:
        raise RecordingError(
            f"{path.name}: sound speed is {geometry.sound_speed_m_s:g} m/s, and the PALA layout means "
            f"{LAYOUT_SOUND_SPEED_M_S:g} m/s by definition. Save it as .nii.gz or .npz."
        )
    iq = np.asarray(frames, np.complex64).transpose(2, 0, 1, 3)  # (x, y, z, t) -> (z, x, y, t)
    pulse, grid = describe_pulse(geometry, iq.shape[3]), describe_grid(geometry, iq.shape[:3])
    if iq.shape[2] == 1:
        iq = iq[:, :, 0]
    if version == "5" and iq.nbytes > MAX_V5_BYTES:
        raise RecordingError(f"{path.name}: {iq.nbytes} bytes, and MATLAB v5 holds 2 GB. Save it as version 7.3.")
    write = _write_v5 if version == "5" else _write_hdf5
    with atomic_path(path) as temporary:
        write(temporary, iq, {"UF": pulse, "PData": grid})


def describe_pulse(geometry: Geometry, n_frames: int) -> Struct:
    """Give the fields of `UF`: TwFreq [MHz], FrameRateUF [Hz] and NbFrames."""
    frequency_mhz = float(f"{geometry.transmit_frequency_hz / 1.0e6:.12g}")
    return {
        "TwFreq": np.array([[frequency_mhz]]),
        "FrameRateUF": np.array([[geometry.frame_rate_hz]]),
        "NbFrames": np.array([[float(n_frames)]]),
    }


def describe_grid(geometry: Geometry, shape: tuple[int, ...]) -> Struct:
    """Give the fields of `PData`: Size [nz nx ny], PDelta [dx dy dz] and Origin [x y z], both in wavelengths.

    Args:
        geometry: The recording's.
        shape: (z, x, y).
    """
    wavelength_mm = LAYOUT_SOUND_SPEED_M_S / (geometry.transmit_frequency_hz * 1.0e-3)
    step = np.array([millimetres(geometry.voxel_size_m)]) / wavelength_mm
    if shape[2] == 1 and step[0, 1] == step[0, 0]:
        step[0, 1] = 0.0
    origin = np.array([millimetres(geometry.matrix_m[:3, 3].tolist())]) / wavelength_mm
    return {"Size": np.array([shape], dtype=float), "PDelta": step, "Origin": origin}


def _write_v5(path: Path, iq: NDArray[np.complex64], structs: dict[str, Struct]) -> None:
    """Write with scipy."""
    scipy.io.savemat(path, {"IQ": iq, **structs}, appendmat=False)


def _write_hdf5(path: Path, iq: NDArray[np.complex64], structs: dict[str, Struct]) -> None:
    """Write HDF5 as MATLAB lays it out: reversed axes, (real, imag) pairs, class names, and a header in front."""
    with h5py.File(path, "w", userblock_size=USERBLOCK_BYTES) as file:
        samples = np.ascontiguousarray(iq.T).view(COMPLEX_SINGLE)
        _label(file.create_dataset("IQ", data=samples), "single")
        for name, fields in structs.items():
            group = file.create_group(name)
            _label(group, "struct")
            group.attrs.create("MATLAB_fields", _field_names(fields), dtype=h5py.vlen_dtype(np.dtype("S1")))
            for field, value in fields.items():
                _label(group.create_dataset(field, data=value.T), "double")
    with path.open("r+b") as file:
        # Text, an empty subsystem offset, version 2.0, and the mark that tells the byte order.
        file.write(HEADER_TEXT.ljust(116) + bytes(8) + b"\x00\x02IM")


def _label(item: h5py.Dataset | h5py.Group, class_name: str) -> None:
    """Name the MATLAB class of a variable or field."""
    item.attrs["MATLAB_class"] = np.bytes_(class_name)


def _field_names(fields: Struct) -> NDArray[np.object_]:
    """Give field names as MATLAB keeps them: each an array of letters."""
    names = np.empty(len(fields), dtype=object)
    for index, field in enumerate(fields):
        names[index] = np.array(list(field), dtype="S1")
    return names
