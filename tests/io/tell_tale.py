"""Samples that tell which voxel and frame they belong to."""

import numpy as np


def tell_tale(n_x: int, n_y: int, n_z: int, n_t: int) -> np.ndarray:
    """complex64 (x, y, z, t) with real part x + 10 y + 100 z + 1000 t + 1, imaginary part its negative half."""
    x, y, z, t = np.indices((n_x, n_y, n_z, n_t))
    real = x + 10 * y + 100 * z + 1000 * t + 1
    return (real - 0.5j * real).astype(np.complex64)
