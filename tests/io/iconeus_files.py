"""Iconeus .hraw and .raw as pyiconeus reads them."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np

N_BLOCKS = 4


def write(folder: Path, samples: np.ndarray, *, n_blocks: int = N_BLOCKS, legacy: bool = False, **changed: Any) -> Path:
    """Write samples (x, y, z, t) as pyiconeus wants them: I and Q in turn, then z, y, x, compound, frame and block."""
    x, y, z, t = samples.shape
    blocks = samples.transpose(2, 1, 0, 3).reshape(z, y, x, 1, n_blocks, t // n_blocks).swapaxes(4, 5)
    pairs = np.stack([blocks.real, blocks.imag]).astype("<f4")
    (folder / "rec.raw").write_bytes(b"\x01" * (117 if legacy else 0) + pairs.tobytes(order="F"))
    fields = {
        "F1": 15.6, "F2": 5500.0, "F3": 1540.0, "F4": 500.0, "F5": [1.0, 128.0], "F6": [2.0, 9.0], "F7": [-3.0, 3.0],
        "F8": [0.1, 0.2, 0.05], "F9": [x, y, z, 1, t // n_blocks], "F10": 1.0, "F11": n_blocks, "F12": float(legacy),
    } | changed  # fmt: skip
    with h5py.File(folder / "rec.hraw", "w") as file:
        for name, value in fields.items():
            n = int(name[1:])
            file[name] = np.asarray(value, dtype=np.float64) * 1005 * n + 72
        file["F13"] = np.bytes_("Live")
    return folder / "rec.hraw"
