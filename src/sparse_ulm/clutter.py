"""Tissue clutter: the strongest temporal components of a block, and frequencies that bubbles do not have."""

import numpy as np
import torch
from scipy.signal import butter, sosfiltfilt

from sparse_ulm.conventions import IqBlock
from sparse_ulm.errors import UserError


def remove_tissue(iq: IqBlock, *, n_components: int) -> IqBlock:
    """Remove the `n_components` strongest space-time components of a block, where slow, bright tissue lies.

    The (n_voxels, n_frames) Casorati matrix X has X^H X = U S^2 U^H; the filtered block is X minus its projection
    on the first columns of U. The Gram matrix is summed in complex128, since it squares the condition number.

    Args:
        iq: complex64 (x, y, z, t) block of beamformed frames.
        n_components: Components to remove, 0 <= n_components < t; 0 returns the block unchanged.

    Returns:
        complex64 (x, y, z, t), as large as the input.

    Raises:
        UserError: If `n_components` is not inside [0, t).

    Source: eigen-decomposition of the Gram matrix as in PALA and ConfUSIus (reference notes §5.1); PALA's
    `SVD_cutoff = [5 N]` is `n_components=4` here.
    """
    n_frames = iq.shape[3]
    if not 0 <= n_components < n_frames:
        raise UserError(
            f"n_components is {n_components} for a block of {n_frames} frames; wanted 0 to {n_frames - 1}. "
            "Remove fewer components or use longer blocks."
        )
    if n_components == 0:
        return iq
    casorati = iq.reshape(-1, n_frames)
    gram = torch.zeros(n_frames, n_frames, dtype=torch.complex128, device=iq.device)
    for rows in casorati.split(65536):  # bounds the complex128 copy
        double = rows.to(torch.complex128)
        gram += double.mH @ double
    _, vectors = torch.linalg.eigh(gram)  # ascending: tissue is last
    tissue = vectors[:, n_frames - n_components :].to(torch.complex64)
    # (X U) first: the (t, t) projector is never formed.
    return (casorati - (casorati @ tissue) @ tissue.mH).reshape(iq.shape)


BUTTERWORTH_ORDER = 2
"""Of the temporal filter; PALA's (reference notes §5.2)."""


def band_pass(iq: IqBlock, *, band_hz: tuple[float, float], frame_rate_hz: float) -> IqBlock:
    """Keep the temporal frequencies between two bounds, of either sign.

    Args:
        iq: complex64 (x, y, z, t) block.
        band_hz: Lowest and highest frequency, 0 < low < high < frame_rate_hz / 2; PALA's rat has (50, 249) at 1000 Hz.
        frame_rate_hz: Frames per second.

    Returns:
        complex64, as large as the input; a block of one frame is all constant and becomes 0.

    Raises:
        UserError: If the bounds are not in order inside the frequencies that the frame rate resolves.

    Source: PALA's Butterworth filter, but forward and backward over each block (`sosfiltfilt`): our choice, because
    PALA's causal one delays bubbles and starts every block with a transient.
    """
    low, high = band_hz
    if not 0 < low < high < frame_rate_hz / 2:
        raise UserError(
            f"band_pass_hz is [{low}, {high}] at {frame_rate_hz} frames a second; wanted 0 < low < high < "
            f"{frame_rate_hz / 2}. Correct it."
        )
    sections = butter(BUTTERWORTH_ORDER, band_hz, btype="bandpass", fs=frame_rate_hz, output="sos")
    n_frames = iq.shape[3]
    padding = min(3 * (2 * len(sections) + 1), n_frames - 1)
    filtered = sosfiltfilt(sections, iq.numpy(), axis=3, padlen=padding)
    return torch.from_numpy(filtered.astype(np.complex64))
