"""Radial symmetry: where lines meet, for round and for stretched spots of any profile."""

import numpy as np
import pytest
from spot_cases import brightest_voxels, peaks_at, spot, spots

from sparse_ulm.classical.detection import window_half_width
from sparse_ulm.classical.radial_symmetry import radial_centres
from sparse_ulm.classical.windows import cut_windows


def centres(magnitude, peaks, fwhm):
    half_width = window_half_width(tuple(fwhm), magnitude.shape[:3])
    windows = cut_windows(magnitude, peaks.frame, peaks.voxel, half_width)
    return peaks.voxel + radial_centres(windows, fwhm_voxel=np.asarray(fwhm))


def centre_by_definition(image, voxel, fwhm):
    """The weighted least squares of one spot, corner by corner and line by line."""
    half = window_half_width(tuple(fwhm), image.shape)
    lines = []
    corners = [range(v - h, v + h) if h else (v,) for v, h in zip(voxel, half, strict=True)]
    for low in np.stack(np.meshgrid(*corners, indexing="ij"), axis=-1).reshape(-1, 3):
        cell = image[tuple(slice(c, c + 2 if h else c + 1) for c, h in zip(low, half, strict=True))]
        gradient = [np.diff(cell, axis=a).mean() * fwhm[a] if half[a] else 0.0 for a in range(3)]
        lines.append((np.array(gradient), (low + 0.5 * (half > 0) - voxel) / fwhm))
    power = np.array([g @ g for g, _ in lines])
    centroid = sum(w * p for w, (_, p) in zip(power, lines, strict=True)) / power.sum()
    matrix, right = np.diag(1.0 * (half == 0)), np.zeros(3)
    for (g, p), w in zip(lines, power, strict=True):
        if w > 0:
            across = (np.eye(3) - np.outer(g, g) / w) * np.outer(half > 0, half > 0)
            weight = w / max(np.linalg.norm(p - centroid), 0.1)
            matrix, right = matrix + weight * across, right + weight * across @ p
    return voxel + np.linalg.solve(matrix, right) * fwhm


@pytest.mark.parametrize(("shape", "fwhm"), [((13, 14, 15), (4.6, 3.2, 2.4)), ((13, 1, 15), (4.6, 3.2, 2.4))])
def test_equal_to_the_definition(shape, fwhm):
    magnitude, _ = spots(shape, fwhm, n=9, rng=np.random.default_rng(5), noise_rms=0.1)
    peaks = brightest_voxels(magnitude)
    wanted = [centre_by_definition(magnitude[..., t].astype(float), peaks.voxel[t], np.array(fwhm)) for t in range(9)]
    assert centres(magnitude, peaks, fwhm) == pytest.approx(np.array(wanted), abs=1e-9)


@pytest.mark.parametrize("shape", [(17, 18, 19), (17, 1, 19)])
def test_profile_of_the_spot_does_not_matter(shape):
    """A spot with a flat top, which no Gaussian fits."""
    truth = np.array(shape) // 2 + [0.31, 0.22, -0.27] * (np.array(shape) > 1)
    magnitude = np.tanh(3.0 * spot(shape, truth, (5.0, 5.0, 5.0))).astype(np.float32)[..., None]
    peaks = peaks_at(magnitude, [0], np.array(shape) // 2)
    assert centres(magnitude, peaks, (5.0, 5.0, 5.0))[0] == pytest.approx(truth, abs=0.02)


def test_stretched_spots_need_their_widths():
    fwhm = (5.0, 4.0, 3.0)
    magnitude, truth = spots((19, 18, 17), fwhm, n=20, rng=np.random.default_rng(7))
    peaks = brightest_voxels(magnitude)
    assert np.abs(centres(magnitude, peaks, fwhm) - truth).max() < 0.01
    assert np.abs(centres(magnitude, peaks, (4.0, 4.0, 4.0)) - truth).max() > 0.02


def test_background_does_not_matter():
    magnitude, _ = spots((13, 14, 15), (3.0, 3.0, 3.0), n=5, rng=np.random.default_rng(7))
    peaks = brightest_voxels(magnitude)
    moved = centres(magnitude + np.float32(4.0), peaks, (3.0, 3.0, 3.0))
    assert moved == pytest.approx(centres(magnitude, peaks, (3.0, 3.0, 3.0)), abs=1e-5)


@pytest.mark.parametrize("slope", [0.0, 1.0])
def test_windows_without_a_centre_give_none(slope):
    """In a plane of one slope all lines are parallel; in a window of one value there are none."""
    magnitude = np.broadcast_to(slope * np.arange(9.0, dtype=np.float32)[:, None, None, None], (9, 10, 11, 1)).copy()
    assert np.isnan(centres(magnitude, peaks_at(magnitude, [0], [4, 5, 5]), (3.0, 3.0, 3.0))).all()
