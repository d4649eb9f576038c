"""What LocalisationNet is told of the phase of the correlation c: c itself, its differences, or nothing.

Every bubble has a phase of its own, so that Re c and Im c of one site say nothing by themselves. The step of the phase
from a site to its neighbour is the bubble's motion, where the neighbour is the next frame (a quarter of a wavelength
along z turns it by π), and where in the voxel the bubble lies, or that there are two, where it is the next voxel.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_ulm.errors import UserError
from sparse_ulm.sparse import SparseTensor
from sparse_ulm.sparse.maps import neighbours

PHASES = ("as_given", "steps", "none")
MAGNITUDES, COMPLEX = slice(0, 2), slice(2, 4)
"""Columns of the features "magnitude_and_complex" (`sparsify.site_features`)."""

LEAST_PRODUCT = 1.0e-6
"""Of two magnitudes; below it there is no phase to speak of."""


def n_described(in_channels: int, *, phase: str, spatial_dims: int) -> int:
    """Give the channels of `describe_phase`.

    Raises:
        UserError: If `phase` is no name of `PHASES`, or takes other features than "magnitude_and_complex".
    """
    if phase not in PHASES:
        raise UserError(f"phase is {phase!r}; wanted one of {', '.join(PHASES)}.")
    if phase == "as_given":
        return in_channels
    if in_channels != COMPLEX.stop:
        raise UserError(f"phase {phase!r} was given {in_channels} features; wanted the 4 of magnitude_and_complex.")
    return 2 if phase == "none" else 2 + 4 * (spatial_dims + 1)


def describe_phase(x: SparseTensor, *, phase: str, spatial_dims: int) -> SparseTensor:
    """Replace Re c and Im c.

    Args:
        x: Sites with the features "magnitude_and_complex".
        phase: "as_given"; "none" leaves the magnitudes alone; "steps" puts, per axis (x, y in 3D, z, t) and for the
            neighbour before and behind, cosine and sine of the phase at the site minus that at the neighbour, zero
            where there is none. A turn of all phases by one angle changes nothing.
        spatial_dims: 3, or 2 for recordings one voxel thick along y.
    """
    if phase == "as_given":
        return x
    magnitudes = x.feats[:, MAGNITUDES]
    if phase == "none":
        return x.with_feats(magnitudes)
    c = x.feats[:, COMPLEX]
    steps = [_steps(c, x, kernel, backwards) for kernel in _axes(spatial_dims) for backwards in (True, False)]
    return x.with_feats(torch.cat([magnitudes, *steps], dim=1))


def _axes(spatial_dims: int) -> list[tuple[int, int, int, int]]:
    """List the kernels of three taps along each axis (x, y, z, t)."""
    kernels = [(3, 1, 1, 1), (1, 3, 1, 1), (1, 1, 3, 1), (1, 1, 1, 3)]
    return [kernel for axis, kernel in enumerate(kernels) if spatial_dims == 3 or axis != 1]


def _steps(
    c: Float[Tensor, "sites reim=2"], x: SparseTensor, kernel: tuple[int, int, int, int], backwards: bool
) -> Float[Tensor, "sites cossin=2"]:
    """Phase at each site minus that of one neighbour."""
    wanted = 0 if backwards else math.prod(kernel) - 1
    step = torch.zeros_like(c)
    for tap, other, own in neighbours(x, kernel).taps():
        if tap == wanted:
            a, b = c[own], c[other]
            cosine = a[:, 0] * b[:, 0] + a[:, 1] * b[:, 1]
            sine = a[:, 1] * b[:, 0] - a[:, 0] * b[:, 1]
            product = (a.norm(dim=1) * b.norm(dim=1)).clamp_min(LEAST_PRODUCT)
            step[own] = torch.stack([cosine, sine], dim=1) / product[:, None]
    return step
