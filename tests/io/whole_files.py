"""One small recording in every format that is one file, for tests that damage them."""

from pathlib import Path

import h5py
import numpy as np
import scipy.io
from tell_tale import tell_tale

from sparse_ulm.acquisition import Geometry
from sparse_ulm.io import save_recording
from sparse_ulm.io.sidecar import write_sidecar

TARGETS = ["a.nii", "a.nii.gz", "a.npy", "a.npz", "small.npz", "v5.mat", "v7.mat", "v73.mat", "a.h5"]
FOREIGN = ["a.uff", "ultratrace.h5", "zea.hdf5"]
"""Of formats that we do not write. .zarr and .hraw, of several files each, have tests of their own."""

SAMPLES = tell_tale(5, 6, 7, 8)


def write_all(folder: Path) -> None:
    """Write the recording as all of `TARGETS` and `FOREIGN`."""
    samples = SAMPLES
    geometry = Geometry.from_voxel_size(
        (1e-4, 2e-4, 5e-5), (0.0, 0.0, 0.0), frame_rate_hz=800.0, transmit_frequency_hz=7.7e6, sound_speed_m_s=1540.0
    )
    for name in TARGETS:
        save_recording(folder / name, samples, geometry, matlab_version="7.3" if name == "v73.mat" else "5")
    np.savez_compressed(folder / "small.npz", iq=samples)
    compress_matlab(folder / "v7.mat")
    for name in FOREIGN:
        write_foreign(folder / name, samples, geometry)


def write_foreign(path: Path, samples: np.ndarray, geometry: Geometry) -> None:
    points = np.stack(np.meshgrid(*map(np.arange, samples.shape[:3]), indexing="ij"), axis=-1) * geometry.voxel_size_m
    with h5py.File(path, "w") as file:
        if path.suffix == ".uff":
            file.create_group("b_data").attrs["class"] = "uff.beamformed_data"
            for part in ("real", "imag"):
                file[f"b_data/data/{part}"] = getattr(samples, part).reshape(-1, 1, 1, samples.shape[3])
            for axis, name in enumerate("xyz"):
                file[f"b_data/scan/{name}"] = points[..., axis].ravel()
        elif path.suffix == ".h5":
            file["acquisitions/0/meta/compound_image"] = samples.transpose(3, 1, 2, 0)
            for axis, name in enumerate("xyz"):
                file[f"acquisitions/0/meta/grid/{name}"] = points[..., axis].transpose(2, 1, 0)
        else:
            group = "tracks/track_0/data/beamformed_data"
            parts = np.stack([samples.real, samples.imag], axis=-1)
            file[f"{group}/values"] = parts.transpose(3, 2, 0, 1, 4)
            file[f"{group}/coordinates"] = points.transpose(2, 0, 1, 3)
    write_sidecar(path, geometry)


def compress_matlab(path: Path) -> None:
    content = {name: value for name, value in scipy.io.loadmat(path).items() if not name.startswith("__")}
    scipy.io.savemat(path, content, do_compression=True)
