"""How many of a block's temporal components are tissue: by energy, by frequency, by likeness of their images.

Components are those of the Casorati matrix X (voxels x frames), X^H X = V S^2 V^H, strongest first; V's columns are
their time courses, X V S^-1 their images.
"""

import numpy as np
from jaxtyping import Complex, Float

from sparse_ulm.errors import UserError


def components_by_energy(energy: Float[np.ndarray, " components"], *, share: float) -> int:
    """Count the strongest components that hold a share of the energy, which is nearly all the tissue's.

    Args:
        energy: S^2, strongest first.
        share: In (0, 1).

    Returns:
        The fewest components that hold as much; 0 where there is no energy.
    """
    total = float(energy.sum())
    return int(np.searchsorted(np.cumsum(energy), share * total)) + 1 if total > 0 else 0


def components_below_hz(
    courses: Complex[np.ndarray, "frames components"], *, frame_rate_hz: float, limit_hz: float
) -> int:
    """Count the components before the first one that oscillates faster than a limit: tissue moves slowly.

    Args:
        courses: V, strongest first.
        frame_rate_hz: Frames per second.
        limit_hz: On the mean of |frequency|, weighted by the power spectrum of the time course.

    Raises:
        UserError: If no component is as fast.

    Source: Ultratrace's adaptive filter as the reference notes tell it (§5.1, 100 Hz there). It removes 10 % where
    none is as fast; we refuse, because that is a limit out of reach.
    """
    power = np.abs(np.fft.fft(courses, axis=0)) ** 2
    frequency_hz = np.abs(np.fft.fftfreq(len(courses), 1.0 / frame_rate_hz))
    centroid_hz = frequency_hz @ power / power.sum(axis=0)
    fast = np.flatnonzero(centroid_hz > limit_hz)
    if not fast.size:
        raise UserError(
            f"tissue_below_hz is {limit_hz}, but no component of {len(courses)} frames at {frame_rate_hz} Hz has a "
            f"mean frequency above {centroid_hz.max():.3g} Hz; wanted a limit between tissue and bubbles. Lower it."
        )
    return int(fast[0])


def components_by_similarity(images: Float[np.ndarray, "voxels components"]) -> int:
    """Count the components whose images are alike as tissue's are, by two squares on the diagonal of correlations.

    The images of tissue resemble each other, those of blood resemble each other, and the two do not: the matrix of
    correlations has a bright square from the first component on and a second one behind it. The pair of squares that
    correlates best with the matrix is found exactly, by sums over rectangles.

    Args:
        images: |X V|, strongest first; any scale per component.

    Returns:
        Components inside the first square, at least 1; 0 for fewer than two components.

    Source: Fast thresholding of the SVD clutter filter by the spatial similarity matrix and a sum table (IEEE TUFFC
    70(8):821, 2023), of which we have read the abstract: squares and sum table are theirs, the rest is ours.
    """
    n = images.shape[1]
    if n < 2:
        return 0
    centred = images - images.mean(axis=0)
    size = np.linalg.norm(centred, axis=0)
    alike = (centred / np.where(size > 0, size, 1.0)).T @ centred / np.where(size > 0, size, 1.0)
    alike = alike - alike.mean()
    table = np.zeros((n + 1, n + 1))
    table[1:, 1:] = alike.cumsum(axis=0).cumsum(axis=1)
    corner = np.diagonal(table)
    first, last = np.arange(n + 1)[:, None], np.arange(n + 1)[None, :]
    inside = corner[:, None] + (corner[None, :] - table - table.T + corner[:, None])
    share = (first**2 + (last - first) ** 2) / n**2
    # Pearson's correlation of a mask of ones and zeros with the matrix, but for factors that all pairs share.
    valid = (first >= 1) & (first < last) & (share < 1.0)
    score = np.where(valid, inside / np.sqrt(np.where(valid, share * (1.0 - share), 1.0)), -np.inf)
    return int(np.unravel_index(int(score.argmax()), score.shape)[0])
