"""Simulated recordings in the form of the method's training set: PSF correlation maps with their truth, in HDF5."""

from pathlib import Path

import h5py
import numpy as np
import torch
from jaxtyping import Float

from sparse_ulm.acquisition import Geometry
from sparse_ulm.conventions import Frames
from sparse_ulm.io.correlation import TRUTH_NAME, save_correlation
from sparse_ulm.psf import correlate, demodulate, gaussian_psf, measure_carrier
from sparse_ulm.simulation.tracks import Tracks

NOMINAL_FWHM_WAVELENGTHS = (2.0, 2.0, 1.1)
"""Widths of the Gaussian that is correlated with: those of configs/train.yaml."""


def save_correlation_training(path: Path, frames: Frames, geometry: Geometry, tracks: Tracks) -> None:
    """Write group "1" with `CorrMap` and `ground_truth/coords`, as SparseTensorULM reads them, and the sidecar.

    Args:
        path: The .h5.
        frames: complex64 (x, y, z, t) IQ; its carrier is measured and taken out before correlation.
        geometry: Grid and rates.
        tracks: The truth.
    """
    iq = torch.from_numpy(frames)
    iq = demodulate(iq, measure_carrier(iq))
    psf = gaussian_psf(geometry, fwhm_wavelengths=NOMINAL_FWHM_WAVELENGTHS)
    save_correlation(path, correlate(iq, psf).numpy(), geometry)
    with h5py.File(path, "a") as file:
        file.create_dataset(f"1/{TRUTH_NAME}", data=truth_coords(tracks, geometry, frames.shape[3]), compression="gzip")


def truth_coords(tracks: Tracks, geometry: Geometry, n_frames: int) -> Float[np.ndarray, "tracks 4 frames"]:
    """Give (n_tracks, 4, n_frames) x, y, z in voxels and time in seconds; NaN where a bubble is not there."""
    n_tracks = int(tracks.track_id.max()) + 1 if len(tracks) else 0
    coords = np.full((n_tracks, 4, n_frames), np.nan)
    coords[tracks.track_id, :3, tracks.frame] = geometry.to_voxel(tracks.position_m)
    coords[tracks.track_id, 3, tracks.frame] = tracks.frame / geometry.frame_rate_hz
    return coords
