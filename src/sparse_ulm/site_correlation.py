"""Correlation with the PSF at the kept sites alone: of the dense one nearly all would be thrown away."""

import numpy as np
import torch
from jaxtyping import Complex64, Int32
from torch import Tensor

from sparse_ulm.conventions import IqBlock
from sparse_ulm.psf import PsfKernel
from sparse_ulm.sparse.loops import compiled


def correlate_at(iq: IqBlock, psf: PsfKernel, coords: Int32[Tensor, "sites xyzt=4"]) -> Complex64[Tensor, " sites"]:
    """Give `psf.correlate` at some voxels.

    Args:
        iq: complex64 (x, y, z, t), carrier taken out.
        psf: Kernel on the same grid.
        coords: The voxels; in the order of memory neighbours share what they read.

    Returns:
        c of each voxel; 0 where the window is empty.
    """
    found = np.zeros(len(coords), np.complex64)
    kernel = psf.conj().resolve_conj().numpy().astype(np.complex128)
    _correlate_at(iq.numpy(), kernel, np.linalg.norm(kernel), coords.numpy(), found)
    return torch.from_numpy(found)


@compiled
def _correlate_at(iq, kernel, norm, coords, found):
    """Sum over the part of each window that lies inside the block."""
    half_x, half_y, half_z = kernel.shape[0] // 2, kernel.shape[1] // 2, kernel.shape[2] // 2
    for row in range(coords.shape[0]):
        x, y, z, t = coords[row, 0] - half_x, coords[row, 1] - half_y, coords[row, 2] - half_z, coords[row, 3]
        product, energy = 0.0j, 0.0
        for i in range(max(0, -x), min(kernel.shape[0], iq.shape[0] - x)):
            for j in range(max(0, -y), min(kernel.shape[1], iq.shape[1] - y)):
                for k in range(max(0, -z), min(kernel.shape[2], iq.shape[2] - z)):
                    sample = np.complex128(iq[x + i, y + j, z + k, t])
                    product += kernel[i, j, k] * sample
                    energy += sample.real * sample.real + sample.imag * sample.imag
        if energy > 0.0:
            found[row] = product / (norm * np.sqrt(energy))
