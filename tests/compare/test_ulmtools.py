"""Localisation beside `ulmtools`, which other laboratories use; a development-time comparison, skipped without it.

What ulmtools 0.2.0 gave on noiseless spots when this was written: its Gaussian fit is right to 0.02 voxel where its
window of 5 holds the spot and drawn to the voxel by more for wider ones; its radial symmetry is off by up to
0.08 voxel in 2D, and by 1 voxel in 3D.
"""

import sys
from pathlib import Path

import numpy as np
import pytest

from sparse_ulm.classical.detection import find_bubbles
from sparse_ulm.classical.localisation import localise

sys.path.append(str(Path(__file__).parents[1] / "classical"))
from spot_cases import brightest_voxels, spots

ulmtools = pytest.importorskip(
    "ulmtools", exc_type=ImportError, reason="ulmtools is not installed (pip install --no-deps ulmtools)"
)

FWHM = (3.0, 3.0, 3.0)
SHAPES = [(13, 14, 15), (13, 1, 15)]
THRESHOLD = 0.5


def theirs(frame, method):
    """Positions (n, 3) in voxels and intensities that ulmtools finds in one frame (x, y, z)."""
    if frame.shape[1] == 1:
        found, intensity = ulmtools.detect_peaks(
            frame[:, 0], threshold=THRESHOLD, localization_method=method, localization_window_size=5
        )
        return np.insert(found, 1, 0.0, axis=1), intensity
    config = ulmtools.DetectionConfig3D(
        detection_threshold=THRESHOLD, localization_method=method, localization_window_size=5
    )
    return ulmtools.detect_peaks_3d(frame, config)[:2]


def errors(magnitude, truth, method):
    """Largest and root mean square error over all axes of ulmtools and of ours."""
    their_method = {"gaussian_fit": "gaussian_fitting"}.get(method, method)
    other = np.concatenate([theirs(magnitude[..., t], their_method)[0] for t in range(len(truth))]) - truth
    ours = localise(magnitude, brightest_voxels(magnitude), method=method, psf_fwhm_voxel=FWHM, noise_rms=0.0)
    own = ours.position_voxel - truth
    return [(np.abs(error).max(), np.sqrt((error**2).mean())) for error in (other, own)]


@pytest.mark.parametrize("shape", SHAPES)
def test_same_peaks(shape):
    magnitude, _ = spots(shape, FWHM, n=6, rng=np.random.default_rng(2), noise_rms=0.3)
    peaks = find_bubbles(
        magnitude,
        psf_fwhm_voxel=FWHM,
        noise_rms=THRESHOLD,
        noise_factor=1.0,
        n_brightest=None,
        side_lobe_ratio=0.0,
        local_contrast_db=None,
    )
    # ulmtools leaves out what lies on the border.
    is_inner = ((peaks.voxel > 0) & (peaks.voxel < np.array(shape) - 1) | (np.array(shape) == 1)).all(axis=1)
    assert is_inner.sum() > 20
    for t in range(6):
        position, intensity = theirs(magnitude[..., t], None)
        own = peaks.keep(is_inner & (peaks.frame == t))
        assert {tuple(row) for row in np.round(position).astype(int).tolist()} == {
            tuple(row) for row in own.voxel.tolist()
        }
        assert sorted(intensity) == pytest.approx(sorted(own.amplitude))


@pytest.mark.parametrize("shape", SHAPES)
def test_gaussian_fits_agree(shape):
    magnitude, truth = spots(shape, FWHM, n=30, rng=np.random.default_rng(3))
    (their_largest, _), (largest, _) = errors(magnitude, truth, "gaussian_fit")
    assert their_largest < 0.02
    assert largest < 1e-3


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", ["gaussian_fit", "radial_symmetry"])
def test_ours_is_no_worse_in_noise(method, shape):
    magnitude, truth = spots(shape, FWHM, n=60, rng=np.random.default_rng(4), noise_rms=0.05)
    (_, theirs_rms), (_, rms) = errors(magnitude, truth, method)
    assert rms < 1.05 * theirs_rms
