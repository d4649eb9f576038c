"""Tissue clutter: the strongest components of a block's temporal singular value decomposition."""

import torch

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
