"""Write the two UFF files of this folder with pyuff_ustb 3.0.0, the Python writer of USTB's UFF; not run by the tests.

Run:  python make_uff_files.py FOLDER      (in an environment with `pip install pyuff_ustb==3.0.0`)
"""

import sys
from pathlib import Path

import numpy as np
import pyuff_ustb as pyuff

N_FRAMES, NX, NY, NZ = 6, 5, 4, 7


def main(folder: Path) -> None:
    """Write a volume, whose scan is the positions of its pixels, and a plane on a linear scan."""
    rng = np.random.default_rng(3)
    samples = rng.normal(size=(NX, NY, NZ, N_FRAMES, 2)).astype(np.float32).view(np.complex64)[..., 0]
    x, y, z = -1e-3 + np.arange(NX) * 0.2e-3, 0.5e-3 + np.arange(NY) * 0.3e-3, 5e-3 + np.arange(NZ) * 0.1e-3
    pulse = pyuff.Pulse(center_frequency=15.625e6, fractional_bandwidth=0.67, phase=0.0, waveform=np.ones(3))

    # Pixels run along z first, then x, then y, as MATLAB's meshgrid(x, z) and a loop over planes leave them.
    points = np.stack(np.meshgrid(y, x, z, indexing="ij"), axis=-1).reshape(-1, 3)
    volume = pyuff.Scan(x=points[:, 1], y=points[:, 0], z=points[:, 2])
    data = samples.transpose(1, 0, 2, 3).reshape(-1, 1, 1, N_FRAMES)
    beamformed = pyuff.BeamformedData(scan=volume, data=data, pulse=pulse, frame_rate=30)
    beamformed.write(str(folder / "pyuff_3_0_0_3d.uff"), "b_data")

    plane = pyuff.LinearScan(x_axis=x, z_axis=z)
    data = samples[:, 0].reshape(-1, 1, 1, N_FRAMES)
    beamformed = pyuff.BeamformedData(scan=plane, data=data, pulse=pulse)
    beamformed.write(str(folder / "pyuff_3_0_0_2d.uff"), "b_data")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
