"""Dense to sparse: which voxels of a block are kept, and what the network is told about each of them.

The rule decides what can still be found: a bubble with no kept voxel is lost. `benchmarks/sparsification.py` counts
kept sites and lost bubbles for every rule here; docs/decisions/0002-keep-by-signal-to-noise.md has the outcome.
"""

import math

import numpy as np
import torch
from jaxtyping import Bool, Complex64, Float, Int32
from torch import Tensor

from sparse_ulm.conventions import IqBlock
from sparse_ulm.errors import UserError
from sparse_ulm.sparse.loops import compiled

KeptMask = Bool[Tensor, "x y z t"]

N_FEATURES: dict[str, int] = {"complex": 2, "magnitude_and_complex": 4}

NOISE_MEASURES = ("faintest", "differences")

WHITE_NOISE_RATIO = 0.8
"""Fourth over second differences, each in units of white noise: 1 for white noise, 0.58 behind PALA's 50 to 249 Hz
band-pass at 1000 Hz; our choice lies between."""

NOISE_QUANTILE = 0.05

ENOUGH_SAMPLES = 2_000_000
"""So many samples of white noise tell its rms with a standard deviation of 0.2 %."""


def measure_noise_rms(block: IqBlock, *, noise_measure: str = "faintest") -> float:
    """Measure the rms of complex noise in a block that also holds bubbles.

    "faintest": a low quantile of the voxels. Right where most voxels hold no bubble; where none is free of them it is
    several times too high, and so works as a gain control: fewer, brighter sites.

    "differences": second differences over frames, in which slow bubbles cancel and white noise has 6 times its power; a
    low quantile leaves fast bubbles out. It holds at any concentration, for noise that is independent from frame to
    frame. A recording filtered along time has no such noise; fourth differences then shrink against second ones, and
    the faintest voxels are used instead, as in blocks of fewer than 5 frames. A moving average over three frames is
    not noticed so.

    Args:
        block: complex64 (x, y, z, t).
        noise_measure: "faintest" or "differences"; the one that the weights were trained with.

    Returns:
        RMS of |noise|, in the block's units; 0 for a block of zeros.

    Raises:
        UserError: If `noise_measure` is neither.

    Source: our choice; benchmarks/sparsification.py compares both with the truth.
    """
    if noise_measure not in NOISE_MEASURES:
        raise UserError(f"noise_measure is {noise_measure!r}; wanted one of {list(NOISE_MEASURES)}.")
    block = _some_voxels(block)
    faintest = rms_of_faintest(block)
    if noise_measure == "faintest" or block.shape[3] < 5:
        return faintest
    second = block[..., 2:] - 2.0 * block[..., 1:-1] + block[..., :-2]
    fourth = second[..., 2:] - 2.0 * second[..., 1:-1] + second[..., :-2]
    # White noise has 1 + 4 + 1 times its power in second differences, and 1 + 16 + 36 + 16 + 1 in fourth ones.
    from_second, from_fourth = rms_of_faintest(second) / math.sqrt(6.0), rms_of_faintest(fourth) / math.sqrt(70.0)
    is_white = from_fourth > WHITE_NOISE_RATIO * from_second
    return min(from_second, faintest) if is_white else faintest


def _some_voxels(block: IqBlock) -> Complex64[Tensor, "1 1 voxels t"]:
    """Draw voxels, all frames of each, where a block holds more samples than a quantile needs.

    Drawn, for with steps of a constant length whole planes might be left out. The draw is always the same.
    """
    n_voxels, n_frames = math.prod(block.shape[:3]), block.shape[3]
    n_drawn = max(1, ENOUGH_SAMPLES // n_frames)
    voxels = block.reshape(1, 1, n_voxels, n_frames)
    if n_voxels <= n_drawn:
        return voxels
    return voxels[:, :, torch.randint(n_voxels, (n_drawn,), generator=torch.Generator().manual_seed(0))]


def rms_of_faintest(block: IqBlock) -> float:
    """Give the rms of complex Gaussian noise from the faintest samples.

    |noise|^2 is exponentially distributed with mean rms^2, so its q-quantile is -rms^2 ln(1 - q). A low quantile is
    used because bubbles only ever fill the upper part of the distribution. Samples of exactly zero are left out: they
    are masked sectors, not noise.
    """
    power = (block.real**2 + block.imag**2).flatten()
    power = power[power > 0]
    if len(power) == 0:
        return 0.0
    return math.sqrt(float(np.quantile(power.numpy(), NOISE_QUANTILE)) / -math.log(1.0 - NOISE_QUANTILE))


def keep_by_noise(
    block: IqBlock, *, noise_factor: float, noise_rms: float, floor_db: float, peak: float | None = None
) -> KeptMask:
    """Keep voxels whose magnitude exceeds `noise_factor` times the noise, and a floor below the block's maximum.

    Args:
        block: IQ or correlation, complex64 (x, y, z, t).
        noise_factor: 2.5 lost no bubble in the founders' prototype; noise alone keeps exp(-factor^2) of the voxels.
        noise_rms: From `measure_noise_rms`.
        floor_db: Also drop voxels this far below the block's maximum, e.g. -30; it only acts on recordings with
            (almost) no noise, whose PSF tails would otherwise all be kept.
        peak: Magnitude that stands for the block's maximum, such as the recording's; None for the block's own.
    """
    floor = (largest_magnitude(block) if peak is None else peak) * 10.0 ** (floor_db / 20.0)
    kept = np.empty(block.shape, np.bool_)
    _compare(block.contiguous().view(-1).numpy(), max(noise_factor * noise_rms, floor) ** 2, kept.reshape(-1))
    return torch.from_numpy(kept)


def largest_magnitude(block: IqBlock) -> float:
    """Give the magnitude of a block's brightest sample."""
    return math.sqrt(_largest_power(block.contiguous().view(-1).numpy()))


@compiled
def _compare(samples, power, kept):
    """Tell which samples have more than this power."""
    for i in range(samples.shape[0]):
        real, imag = np.float64(samples[i].real), np.float64(samples[i].imag)
        kept[i] = real * real + imag * imag > power


@compiled
def _largest_power(samples):
    """Give the largest power."""
    largest = 0.0
    for i in range(samples.shape[0]):
        real, imag = np.float64(samples[i].real), np.float64(samples[i].imag)
        largest = max(largest, real * real + imag * imag)
    return largest


def keep_by_correlation(correlation: IqBlock, *, threshold: float) -> KeptMask:
    """Keep voxels with |c|^2 > threshold, the published rule (0.25 in 3D: Rauby et al., released code)."""
    return correlation.real**2 + correlation.imag**2 > threshold


def keep_top_k(block: IqBlock, *, k: int) -> KeptMask:
    """Keep the k voxels of largest magnitude in the block (Rauby et al., released code); fewer if it has fewer."""
    power = (block.real**2 + block.imag**2).flatten()
    mask = torch.zeros(power.numel(), dtype=torch.bool, device=block.device)
    # A stable sort breaks ties by position, so that the same block always keeps the same voxels.
    order = torch.sort(power, descending=True, stable=True).indices
    mask[order[:k]] = True
    return (mask & (power > 0)).reshape(block.shape)


def site_features(
    iq: IqBlock,
    correlation: Complex64[Tensor, " sites"],
    coords: Int32[Tensor, "sites xyzt=4"],
    *,
    noise_rms: float,
    features: str,
) -> Float[Tensor, "sites channels"]:
    """Describe each kept voxel to the network.

    Args:
        iq: Demodulated IQ, complex64 (x, y, z, t).
        correlation: Its normalised PSF correlation c at the kept voxels.
        coords: Kept voxels.
        noise_rms: Scale of `iq`, so that the features do not depend on the recording's gain.
        features: "complex" is the method's own pair (Re c, Im c); "magnitude_and_complex" puts
            log(1 + |iq| / noise) / 4 and |c| in front: our choice, because a bubble's random phase hides its
            magnitude from a network that only sees real and imaginary parts.

    Returns:
        float32 (sites, 2 or 4), of order 1.

    Raises:
        UserError: If `features` is neither name.
    """
    if features not in N_FEATURES:
        raise UserError(f"features is {features!r}; wanted one of {sorted(N_FEATURES)}.")
    pair = torch.stack([correlation.real, correlation.imag], dim=1)
    if features == "complex":
        return pair
    amplitude = iq[coords.long().unbind(1)].abs()
    scale = noise_rms if noise_rms > 0 else float(amplitude.max()) / 100.0 if len(amplitude) else 1.0
    return torch.cat([torch.log1p(amplitude / scale)[:, None] / 4.0, correlation.abs()[:, None], pair], dim=1)


USES_IQ_ALONE = "iq_over_noise"
"""The rule that asks for no correlation."""


def select_sites(
    iq: IqBlock,
    correlation: IqBlock | None,
    *,
    rule: str,
    noise_factor: float,
    correlation_threshold: float,
    max_sites: int,
    floor_db: float,
    noise_rms: float,
    peak: float | None = None,
) -> KeptMask:
    """Apply one rule by name, then the `max_sites` budget, which keeps the strongest.

    "all" keeps every voxel, whatever the budget: the input of a dense network. The rule "learned" is a network's
    (`networks.candidate.keep_candidates`), which `transforms.ToSparseTensord` asks in place of this function.

    Raises:
        UserError: If `rule` is unknown, or `correlation` is None and the rule not `USES_IQ_ALONE`.
    """
    if rule == "all":
        return torch.ones_like(iq, dtype=torch.bool)
    if rule == USES_IQ_ALONE:
        mask = keep_by_noise(iq, noise_factor=noise_factor, noise_rms=noise_rms, floor_db=floor_db, peak=peak)
    elif rule == "correlation_over_noise" and correlation is not None:
        noise = measure_noise_rms(correlation)
        mask = keep_by_noise(correlation, noise_factor=noise_factor, noise_rms=noise, floor_db=floor_db)
    elif rule == "correlation_power" and correlation is not None:
        mask = keep_by_correlation(correlation, threshold=correlation_threshold)
    elif rule == "top_k" and correlation is not None:
        return keep_top_k(correlation, k=max_sites)
    else:
        without = " without a correlation" if correlation is None else ""
        raise UserError(
            f"rule is {rule!r}{without}; wanted iq_over_noise, correlation_over_noise, correlation_power, top_k, "
            "learned or all."
        )
    return within_budget(mask, iq, max_sites=max_sites)


def within_budget(mask: KeptMask, iq: IqBlock, *, max_sites: int) -> KeptMask:
    """Drop the faintest of the kept voxels, where there are more than `max_sites`."""
    return mask if np.count_nonzero(mask.numpy()) <= max_sites else keep_top_k(torch.where(mask, iq, 0), k=max_sites)
