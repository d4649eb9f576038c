"""Resolution of a map from the map itself: Fourier shell correlation (FSC) of two halves of the data.

FSC(q) = Re sum F1 F2* / sqrt(sum |F1|² sum |F2|²), sums over the Fourier voxels of a shell of spatial frequency q. The
resolution is 1/q at the first crossing of a threshold. Formulas as in the reference notes; all three usual thresholds
are given, as none is agreed upon: 2σ, half-bit and 1/7. In 2D recordings, one voxel thick, shells are rings (FRC).

Halves must be independent. Samples of one track are not, once it was smoothed or interpolated; tracks are. Split by
track (or, for maps without tracks, by block), at random, several times: one split alone says little (`half_maps`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy import fft
from scipy.signal.windows import tukey

Threshold = Literal["two_sigma", "half_bit", "one_seventh"]
THRESHOLDS: tuple[Threshold, ...] = ("two_sigma", "half_bit", "one_seventh")

EDGE_SHARE = 0.25
"""Share of each axis over which the window rises and falls, both ends together (our choice)."""


@dataclass(frozen=True)
class ShellCorrelation:
    """Correlation of two maps, shell by shell.

    Attributes:
        frequency_per_m: Spatial frequency q in the middle of each shell, in cycles per metre.
        correlation: FSC in [-1, 1]; 0 where a map has no power.
        n_voxels: Fourier voxels in each shell, both halves of the spectrum counted.
        independent_share: Share of them that is independent, as windowing smears each over its neighbours.
    """

    frequency_per_m: Float[np.ndarray, " shells"]
    correlation: Float[np.ndarray, " shells"]
    n_voxels: Int[np.ndarray, " shells"]
    independent_share: float

    @property
    def finest_m(self) -> float:
        """Finest resolution that the grid can show: 1/q of the last shell."""
        return float(1.0 / self.frequency_per_m[-1])

    def threshold(self, name: Threshold) -> Float[np.ndarray, " shells"]:
        """Give a threshold for each shell; n is its number of independent Fourier voxels.

        `two_sigma` is 2 / sqrt(n / 2), `half_bit` (0.2071 + 1.9102 / sqrt n) / (1.2071 + 0.9102 / sqrt n).
        """
        root = np.sqrt(self.n_voxels * self.independent_share)
        if name == "two_sigma":
            return np.asarray(2.0 * np.sqrt(2.0) / root)
        if name == "half_bit":
            return np.asarray((0.2071 + 1.9102 / root) / (1.2071 + 0.9102 / root))
        return np.full(len(root), 1.0 / 7.0)

    def resolution_m(self, name: Threshold) -> float:
        """Give the resolution: 1/q where the correlation first falls below the threshold, between shells by line.

        Shells with fewer voxels than the threshold can be reached with (2σ is above 1 below 8 voxels) do not count.

        Returns:
            Metres. `inf` when the first shell that counts lies below: the halves have nothing in common. `finest_m`
            when none does: the grid, not the data, limits. Never NaN.
        """
        threshold = self.threshold(name)
        counts = threshold < 1.0
        excess = (self.correlation - threshold)[counts]
        frequency = self.frequency_per_m[counts]
        below = np.flatnonzero(excess < 0)
        if not len(below):
            return self.finest_m
        after = below[0]
        if after == 0:
            return float("inf")
        share = excess[after - 1] / (excess[after - 1] - excess[after])
        return float(1.0 / (frequency[after - 1] + share * (frequency[after] - frequency[after - 1])))


@dataclass(frozen=True)
class SplitResolution:
    """Resolution over several random splits.

    Attributes:
        mean_m: Mean over splits; `inf` if any split found nothing in common.
        standard_deviation_m: With n - 1; NaN with fewer than two splits or an infinite mean.
        n_splits: How many.
    """

    mean_m: float
    standard_deviation_m: float
    n_splits: int


def correlate_shells(
    first: Float[np.ndarray, "x y z"], second: Float[np.ndarray, "_ _ _"], *, voxel_size_m: tuple[float, float, float]
) -> ShellCorrelation:
    """Correlate two maps in shells of physical frequency.

    The mean is taken out and the edges are windowed (a cosine over an eighth of the axis at each end), so that neither
    the mean nor the jump at the edge, which both halves share, counts as detail. Shells are as wide as the coarsest
    frequency step of an axis and go up to the lowest Nyquist frequency: voxels may be anisotropic.

    Args:
        first: A map of one half of the data. Axes of one voxel are left out.
        second: That of the other half, on the same grid.
        voxel_size_m: Grid step along x, y and z.

    Raises:
        ValueError: If the shapes differ or no axis has at least 8 voxels.
    """
    if first.shape != second.shape or max(first.shape) < 8:
        raise ValueError(f"shapes {first.shape} and {second.shape}; wanted two equal ones of at least 8 voxels.")
    wide = [axis for axis in range(3) if first.shape[axis] > 1]
    step = [voxel_size_m[axis] for axis in wide]
    spectra = [_spectrum(volume.squeeze()) for volume in (first, second)]
    size = [first.shape[axis] for axis in wide]
    width = max(1.0 / (n * d) for n, d in zip(size, step, strict=True))
    n_shells = int(np.floor(min(0.5 / d for d in step) / width * (1 + 1e-9)))
    shell = np.rint(_frequency_per_m(size, step) / width).astype(np.int64)
    # Real maps: all but the first (and, for even sizes, the last) plane of the last axis stands for two voxels.
    twice = np.full(shell.shape[-1], 2.0)
    twice[0] = 1.0
    if size[-1] % 2 == 0:
        twice[-1] = 1.0
    weight = np.broadcast_to(twice, shell.shape)

    def total(values: NDArray[np.floating]) -> NDArray[np.float64]:
        """Add over each shell; the mean (shell 0) is left out."""
        sums = np.bincount(shell.ravel(), (values * weight).ravel(), minlength=n_shells + 1)
        return np.asarray(sums[1 : n_shells + 1], dtype=np.float64)

    common = total((spectra[0] * spectra[1].conj()).real)
    power = np.sqrt(total(np.abs(spectra[0]) ** 2) * total(np.abs(spectra[1]) ** 2))
    correlation = np.divide(common, power, out=np.zeros(n_shells), where=power > 0)
    n_voxels = np.rint(total(np.ones(shell.shape))).astype(np.int64)
    windows = [_window(n) for n in size]
    # White noise times w keeps (sum w²)² / (n sum w⁴) of its independent voxels.
    share = np.prod([np.sum(w**2) ** 2 / (len(w) * np.sum(w**4)) for w in windows])
    return ShellCorrelation(np.arange(1, n_shells + 1) * width, correlation, n_voxels, float(share))


def half_maps(
    voxel: Int[np.ndarray, "n xyz=3"],
    part: Int[np.ndarray, " n"],
    *,
    shape: tuple[int, int, int],
    n_splits: int,
    seed: int,
) -> Iterator[tuple[Float[np.ndarray, "x y z"], Float[np.ndarray, "x y z"]]]:
    """Draw the density maps of random halves of the tracks (or blocks).

    Args:
        voxel: Voxels visited, inside `shape`; repeats of one part in one voxel count once.
        part: Track, or block of frames, that each visit belongs to: whole parts go to one half or the other.
        shape: Size of the map.
        n_splits: How many pairs of halves.
        seed: Of the random splits.

    Yields:
        Two maps: the number of parts that visited each voxel. Halves differ by one part at most.
    """
    key = np.ravel_multi_index(tuple(voxel.T), shape)
    names, number = np.unique(part, return_inverse=True)
    visits = np.unique(np.column_stack([number.reshape(-1), key]), axis=0)
    generator = np.random.default_rng(seed)
    for _ in range(n_splits):
        is_first = generator.permutation(len(names)) < len(names) // 2
        halves = (visits[is_first[visits[:, 0]] == side, 1] for side in (True, False))
        first, second = (np.bincount(half, minlength=int(np.prod(shape))).astype(np.float32) for half in halves)
        yield first.reshape(shape), second.reshape(shape)


def split_resolution(
    voxel: Int[np.ndarray, "n xyz=3"],
    part: Int[np.ndarray, " n"],
    *,
    shape: tuple[int, int, int],
    voxel_size_m: tuple[float, float, float],
    n_splits: int,
    seed: int,
) -> dict[Threshold, SplitResolution]:
    """Give the resolution of a map at all thresholds, over random halves of its tracks (or blocks).

    Args:
        voxel: As for `half_maps`.
        part: As for `half_maps`.
        shape: Size of the map.
        voxel_size_m: Its grid step along x, y and z.
        n_splits: At least 2 for a standard deviation.
        seed: Of the random splits.

    Returns:
        Per threshold; a map of fewer than two parts has an infinite mean. Each half holds half of the data: the whole
        map is finer.
    """
    found: dict[Threshold, list[float]] = {name: [] for name in THRESHOLDS}
    for first, second in half_maps(voxel, part, shape=shape, n_splits=n_splits, seed=seed):
        shells = correlate_shells(first, second, voxel_size_m=voxel_size_m)
        for name in THRESHOLDS:
            found[name].append(shells.resolution_m(name))
    return {name: _summarise(np.array(values)) for name, values in found.items()}


def _summarise(values_m: NDArray[np.float64]) -> SplitResolution:
    """Mean and spread over splits."""
    known = bool(np.isfinite(values_m).all()) and len(values_m) > 1
    return SplitResolution(
        float(values_m.mean()), float(values_m.std(ddof=1)) if known else float("nan"), len(values_m)
    )


def _window(size: int) -> NDArray[np.float64]:
    """Flat in the middle, a cosine to 0 just outside of both ends."""
    return np.asarray(tukey(size + 2, EDGE_SHARE)[1:-1])


def _spectrum(volume: NDArray[np.floating]) -> NDArray[np.complexfloating]:
    """Window a map without its mean, and transform it."""
    values = volume - volume.mean()
    for axis, size in enumerate(volume.shape):
        values *= _window(size).astype(values.dtype).reshape([-1 if a == axis else 1 for a in range(volume.ndim)])
    return np.asarray(fft.rfftn(values))


def _frequency_per_m(size: list[int], step: list[float]) -> NDArray[np.float64]:
    """Spatial frequency of every voxel of the half spectrum."""
    axes = [np.fft.fftfreq(n, d) for n, d in zip(size[:-1], step[:-1], strict=True)]
    axes.append(np.fft.rfftfreq(size[-1], step[-1]))
    squared = np.meshgrid(*(axis**2 for axis in axes), indexing="ij", sparse=True)
    return np.asarray(np.sqrt(sum(squared)))
