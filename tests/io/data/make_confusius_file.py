"""Write the Zarr recording of this folder with ConfUSIus 0.8.0 (zarr 3.1.6); not run by the tests.

Run:  python make_confusius_file.py FOLDER      (in an environment with `pip install confusius==0.8.0`)
"""

import sys
from pathlib import Path

import confusius
import numpy as np
from confusius.xarray import create_voxeldata

N_FRAMES, NX, NY, NZ = 6, 5, 4, 7


def main(folder: Path) -> None:
    """Write a volume of k elevation, j depth and i lateral, turned about the depth axis, in chunks of four frames."""
    rng = np.random.default_rng(3)
    samples = rng.normal(size=(NX, NY, NZ, N_FRAMES, 2)).astype(np.float32).view(np.complex64)[..., 0]
    c, s = np.cos(0.3), np.sin(0.3)
    data = create_voxeldata(
        samples.transpose(3, 1, 2, 0),
        dims=("time", "k", "j", "i"),
        dt=1 / 500,
        spacing=(0.3, 0.1, 0.2),
        origin=(0.5, 5.0, -1.0),
        direction=[[c, 0, -s], [0, 1, 0], [s, 0, c]],
        name="iq",
        attrs={
            "transmit_frequency": 15.625e6,
            "compound_sampling_frequency": 500.0,
            "pulse_repetition_frequency": 5500.0,
            "beamforming_sound_velocity": 1540.0,
        },
    )
    chunks = {"iq": {"chunks": (4, NY, NZ, NX)}}
    confusius.save(data, folder / "confusius_0_8_0.zarr", encoding=chunks, mode="w")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
