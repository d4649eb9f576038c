"""Write the two zea files of this folder with zea's own writer (zea 0.1.8, KERAS_BACKEND=torch); not run by the tests.

Run:  python make_zea_files.py FOLDER      (in an environment with `pip install zea==0.1.8 torch`)
"""

import sys
from pathlib import Path

import numpy as np
from zea.data.file import File

N_FRAMES, NZ, NX, NY, N_TRANSMITS, N_ELEMENTS = 6, 7, 5, 4, 3, 8


def main(folder: Path) -> None:
    """Write a 3D recording packed by gzip, and its first plane packed by Blosc."""
    values = np.random.default_rng(3).normal(size=(N_FRAMES, NZ, NX, NY, 2)).astype(np.float32)
    z, x, y = 5e-3 + np.arange(NZ) * 0.1e-3, -1e-3 + np.arange(NX) * 0.2e-3, 0.5e-3 + np.arange(NY) * 0.3e-3
    depth, lateral, elevation = np.meshgrid(z, x, y, indexing="ij")
    coordinates = np.stack([lateral, elevation, depth], axis=-1).astype(np.float32)
    zeros = np.zeros(N_TRANSMITS, np.float32)
    scan = {
        "sampling_frequency": np.float32(31.25e6),
        "center_frequency": np.float32(15.625e6),
        "demodulation_frequency": np.float32(15.625e6),
        "initial_times": zeros,
        "t0_delays": np.zeros((N_TRANSMITS, N_ELEMENTS), np.float32),
        "tx_apodizations": np.ones((N_TRANSMITS, N_ELEMENTS), np.float32),
        "focus_distances": zeros,
        "transmit_origins": np.zeros((N_TRANSMITS, 3), np.float32),
        "polar_angles": zeros,
        "time_to_next_transmit": np.full((N_FRAMES, N_TRANSMITS), 1 / 3000, np.float32),
        "sound_speed": np.float32(1540.0),
    }
    settings = {"scan": scan, "overwrite": True, "ignore_warnings": True}
    volume = {"beamformed_data": {"values": values, "coordinates": coordinates}}
    plane = {"beamformed_data": {"values": values[:, :, :, 0], "coordinates": coordinates[:, :, 0]}}
    File.create(str(folder / "zea_0_1_8_3d.hdf5"), data=volume, compression="gzip", **settings)
    File.create(str(folder / "zea_0_1_8_2d_blosc.hdf5"), data=plane, **settings)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
