"""Gaussian spots at known sub-voxel places, one per frame, for the tests of detection and localisation."""

import numpy as np

from sparse_ulm.classical.detection import Peaks
from sparse_ulm.psf import FWHM_PER_SIGMA


def spot(shape, centre, fwhm, amplitude=1.0):
    """One Gaussian on a grid (x, y, z); an axis of one voxel takes no part."""
    image = np.full(shape, amplitude)
    for axis in range(3):
        if shape[axis] > 1:
            u = (np.arange(shape[axis]) - centre[axis]) / (fwhm[axis] / FWHM_PER_SIGMA)
            image *= np.expand_dims(np.exp(-0.5 * u**2), [a for a in range(3) if a != axis])
    return image


def spots(shape, fwhm, *, n, rng, noise_rms=0.0, largest_shift=0.5):
    """n frames, a spot in each, near the middle; gives |IQ| and the true positions."""
    middle = np.array(shape) // 2
    shift = rng.uniform(-largest_shift, largest_shift, (n, 3)) * (np.array(shape) > 1)
    iq = np.stack([spot(shape, middle + d, fwhm) for d in shift], axis=-1).astype(complex)
    iq += noise_rms / np.sqrt(2.0) * (rng.standard_normal(iq.shape) + 1j * rng.standard_normal(iq.shape))
    return np.abs(iq).astype(np.float32), middle + shift


def brightest_voxels(magnitude):
    """The peak of every frame: its brightest voxel."""
    n_frames = magnitude.shape[3]
    flat = magnitude.reshape(-1, n_frames).argmax(axis=0)
    voxel = np.stack(np.unravel_index(flat, magnitude.shape[:3]), axis=1).astype(np.int64)
    return peaks_at(magnitude, np.arange(n_frames), voxel)


def peaks_at(magnitude, frame, voxel):
    """Peaks at given voxels."""
    frame, voxel = np.asarray(frame, dtype=np.int64), np.asarray(voxel, dtype=np.int64).reshape(-1, 3)
    return Peaks(frame, voxel, magnitude[(*voxel.T, frame)])
