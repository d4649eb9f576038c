"""Least-squares fit of a Gaussian to the magnitudes around each peak, for all peaks at once.

The model is A exp(-sum_a (u_a - d_a)^2 / (2 s_a^2)), with position d and log-width ln s_a free along each axis a. It is
a product of one profile per axis, and so is its derivative by any parameter: each column of the Jacobian is a product
of profiles, and J^T J, J^T y need sums along single axes only. A clipped window is a box, so that this stays true.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from sparse_ulm.classical.windows import Windows
from sparse_ulm.psf import FWHM_PER_SIGMA

MAX_STEPS = 40
FIRST_DAMPING = 1.0e-2
SMALLEST_RIDGE = 1.0e-12

TOLERANCE = 1.0e-5
"""A fit ends when its last step moved position and log-widths by less than this (voxels; ratio)."""

WIDTH_RANGE = 2.5
"""A spot wider or narrower than the nominal PSF by more than this factor is no bubble: our choice. On simulated
recordings it took out side lobes, noise and merged bubbles, and lost few true ones; 2 and 3 do about as well."""


@dataclass(frozen=True)
class GaussianFit:
    """Fitted Gaussians, one row per window.

    Attributes:
        shift: Centre, in voxels from the peak; 0 along an axis of one voxel; NaN where the widths are not the PSF's.
        deviation: Standard deviation of `shift`, in voxels; NaN along an axis of one voxel.
        amplitude: Height.
        sigma: Width (standard deviation) along each axis, in voxels.
    """

    shift: Float[np.ndarray, "n xyz=3"]
    deviation: Float[np.ndarray, "n xyz=3"]
    amplitude: Float[np.ndarray, " n"]
    sigma: Float[np.ndarray, "n xyz=3"]


def fit_gaussians(windows: Windows, *, fwhm_voxel: Float[np.ndarray, "xyz=3"], noise_rms: float) -> GaussianFit:
    """Fit amplitude, position and widths to each window by Levenberg-Marquardt, from the nominal PSF at the peak.

    Args:
        windows: Magnitudes around the peaks.
        fwhm_voxel: Nominal PSF widths, in voxels.
        noise_rms: RMS of the complex noise; a bright magnitude deviates by noise_rms / sqrt(2).

    Returns:
        The fits. Deviations are from (J^T J)^-1, for samples that deviate by noise_rms / sqrt(2) or by the residuals of
        the fit, whichever is more: a bubble beside another is known less well than noise alone says. They hold for
        errors that are independent from voxel to voxel. Noise that the PSF has smoothed and neighbours that overlap
        are not: on simulated recordings positions scattered two to five times as much.

    Source: our choice; free widths and a covariance are what the reference notes ask for beyond PALA's fixed sigma. A
    free background was tried and left out: with it fewer bubbles were found on simulated recordings.
    """
    axes = windows.axes
    peak = windows.samples.max(axis=(1, 2, 3))
    problem = _Problem(windows.samples / peak[:, None, None, None], windows, fwhm_voxel)
    parameters, cost, matrix = _minimise(problem)
    shift, deviation = np.zeros((len(peak), 3)), np.full((len(peak), 3), np.nan)
    sigma = np.broadcast_to(fwhm_voxel / FWHM_PER_SIGMA, shift.shape).copy()
    shift[:, axes], sigma[:, axes] = parameters[:, 1::2], np.exp(parameters[:, 2::2])
    shift[problem.is_at_width_limit(parameters)] = np.nan
    variance = np.diagonal(np.linalg.inv(_ridged(matrix, np.zeros(len(peak)))), axis1=1, axis2=2)[:, 1::2]
    n_spare = np.maximum(windows.is_inside.sum(axis=(1, 2, 3)) - parameters.shape[1], 1)
    residual_rms = np.sqrt(np.maximum(cost, 0.0) / n_spare)
    deviation[:, axes] = np.sqrt(variance) * np.maximum(noise_rms / np.sqrt(2.0) / peak, residual_rms)[:, None]
    return GaussianFit(shift, deviation, parameters[:, 0] * peak, sigma)


class _Problem:
    """The least-squares problem of every window; parameters are rows (A, d, ln s, d, ln s, ...), in order of axes."""

    def __init__(self, samples: Float[np.ndarray, "n wx wy wz"], windows: Windows, fwhm_voxel: NDArray[np.float64]):
        self.samples = samples
        self.inside = windows.inside
        self.axes = windows.axes
        self.offsets = [windows.offset_along(axis) for axis in range(3)]
        self.power = (samples**2).sum(axis=(1, 2, 3))
        widths = fwhm_voxel[self.axes]
        log_sigma = np.log(widths / FWHM_PER_SIGMA)
        self.start = _interleave(1.0, np.zeros_like(widths), log_sigma)
        self.lowest = _interleave(0.0, -widths, log_sigma - np.log(WIDTH_RANGE))
        self.highest = _interleave(np.inf, widths, log_sigma + np.log(WIDTH_RANGE))
        self.log_sigma = log_sigma
        # Which factor of each axis a parameter's derivative holds: 0 the profile, 1 its d/dd, 2 its d/d(ln s).
        self.kind = np.zeros((3, 1 + 2 * len(self.axes)), dtype=np.int64)
        for place, axis in enumerate(self.axes):
            self.kind[axis, 1 + 2 * place : 3 + 2 * place] = 1, 2

    def is_at_width_limit(self, parameters: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Tell which fits were stopped by the limits of the width."""
        change = np.abs(parameters[:, 2::2] - self.log_sigma)
        return np.asarray((change > np.log(WIDTH_RANGE) - TOLERANCE).any(axis=1))

    def normal_equations(
        self, parameters: NDArray[np.float64], rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Give the sum of squared residuals, J^T J and J^T (y - model) of some windows."""
        x, y, z = (self._factors(axis, parameters, rows) for axis in range(3))
        k_x, k_y, k_z = self.kind
        # The derivative by A is the product of profiles itself; all others carry A in front.
        scale = np.where(np.arange(parameters.shape[1]) == 0, 1.0, parameters[:, :1])
        grams = [np.matmul(f, f.transpose(0, 2, 1))[:, k[:, None], k] for f, k in ((x, k_x), (y, k_y), (z, k_z))]
        matrix = grams[0] * grams[1] * grams[2] * scale[:, :, None] * scale[:, None, :]
        data = self.samples[rows] @ z.transpose(0, 2, 1)[:, None]  # (n, wx, wy, 3)
        data = y[:, None] @ data  # (n, wx, 3, 3)
        data = (x @ data.reshape(len(rows), -1, 9)).reshape(-1, 3, 3, 3)
        projected = data[:, k_x, k_y, k_z] * scale
        amplitude = parameters[:, 0]
        cost = self.power[rows] - 2.0 * amplitude * projected[:, 0] + amplitude**2 * matrix[:, 0, 0]
        return cost, matrix, projected - amplitude[:, None] * matrix[:, 0]

    def _factors(
        self, axis: int, parameters: NDArray[np.float64], rows: NDArray[np.int64]
    ) -> Float[np.ndarray, "n 3 w"]:
        """Give the profile along one axis and its derivatives by position and log-width, 0 outside the grid."""
        inside = self.inside[axis][rows].astype(np.float64)
        if axis not in self.axes:
            return np.stack([inside, np.zeros_like(inside), np.zeros_like(inside)], axis=1)
        column = 1 + 2 * self.axes.index(axis)
        sigma = np.exp(parameters[:, column + 1, None])
        reduced = (self.offsets[axis] - parameters[:, column, None]) / sigma
        profile = np.exp(-0.5 * reduced**2) * inside
        return np.stack([profile, profile * reduced / sigma, profile * reduced**2], axis=1)


def _minimise(problem: _Problem) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Give parameters, sum of squared residuals and J^T J of the best fits.

    Each window has its own damping, and leaves when it is done.
    """
    n = len(problem.samples)
    parameters = np.tile(problem.start, (n, 1))
    cost, matrix, gradient = problem.normal_equations(parameters, np.arange(n))
    damping = np.full(n, FIRST_DAMPING)
    rows = np.arange(n)
    for _ in range(MAX_STEPS):
        if len(rows) == 0:
            break
        step = np.linalg.solve(_ridged(matrix[rows], damping[rows]), gradient[rows, :, None])[:, :, 0]
        trial = np.clip(parameters[rows] + step, problem.lowest, problem.highest)
        moved = np.abs(trial - parameters[rows]).max(axis=1)
        new_cost, new_matrix, new_gradient = problem.normal_equations(trial, rows)
        is_better = new_cost <= cost[rows]
        better = rows[is_better]
        parameters[better], cost[better] = trial[is_better], new_cost[is_better]
        matrix[better], gradient[better] = new_matrix[is_better], new_gradient[is_better]
        damping[rows] *= np.where(is_better, 0.1, 10.0)
        # A tiny step that does not lower the cost has met rounding: that is the end, too.
        rows = rows[moved > TOLERANCE]
    return parameters, cost, matrix


def _ridged(matrix: Float[np.ndarray, "n p p"], damping: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n p p"]:
    """Add the damping times the diagonal, and so little more that no system is singular."""
    diagonal = np.diagonal(matrix, axis1=1, axis2=2)
    added = damping[:, None] * diagonal + SMALLEST_RIDGE * diagonal.max(axis=1, keepdims=True)
    return matrix + added[:, :, None] * np.eye(matrix.shape[1])


def _interleave(amplitude: float, positions: NDArray[np.float64], widths: NDArray[np.float64]) -> NDArray[np.float64]:
    """Put one value per parameter in the order of a row of parameters."""
    return np.concatenate([[amplitude], np.stack([positions, widths], axis=1).ravel()])
