"""Tissue clutter: the strongest temporal components of consecutive frames, and frequencies that bubbles do not have."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Complex128, Float64
from scipy.signal import butter, sosfiltfilt
from torch import Tensor

from sparse_ulm.conventions import IqBlock
from sparse_ulm.errors import UserError
from sparse_ulm.tissue import components_below_hz, components_by_energy, components_by_similarity

BUTTERWORTH_ORDER = 2
"""Of the temporal filter; PALA's (reference notes §5.2)."""

MAX_COMPARED_VOXELS = 65536
"""Voxels, spread evenly, whose images are compared to tell tissue from blood; and rows that are doubled at a time."""


@dataclass(frozen=True)
class ClutterFilter:
    """What is taken out of a recording, and in how long windows (`filtered.FilteredFrames`).

    Attributes:
        n_tissue_components: Strongest temporal components to remove, or "adaptive": as many as their images tell
            (`tissue.components_by_similarity`). 0 for data that is already filtered.
        tissue_energy_share: In its place: as many as hold this share of a window's energy, in (0, 1).
        tissue_below_hz: In its place: those before the first whose mean frequency is higher.
        band_pass_hz: Lowest and highest frequency of bubbles; None for no temporal filter.
        window_frames: Frames that are filtered together, about.
        overlap_frames: Frames before and behind a window that are filtered with it and belong to its neighbours.
    """

    n_tissue_components: int | Literal["adaptive"] = 0
    tissue_energy_share: float | None = None
    tissue_below_hz: float | None = None
    band_pass_hz: tuple[float, float] | None = None
    window_frames: int = 128
    overlap_frames: int = 16

    def __post_init__(self) -> None:
        """Refuse what cannot be filtered by.

        Raises:
            UserError: If a number is out of its range, or two rules say how many components tissue has.
        """
        n = self.n_tissue_components
        if n != "adaptive" and (not isinstance(n, int) or isinstance(n, bool) or n < 0):
            raise UserError(f"n_tissue_components is {n!r}; wanted a whole number from 0 on, or adaptive. Correct it.")
        rules = {"tissue_energy_share": self.tissue_energy_share, "tissue_below_hz": self.tissue_below_hz}
        given = [f"n_tissue_components {n}"] * (n != 0) + [f"{k} {v}" for k, v in rules.items() if v is not None]
        if len(given) > 1:
            raise UserError(f"{' and '.join(given)}: both say how much is tissue; wanted one of them. Leave one.")
        if self.tissue_energy_share is not None and not 0.0 < self.tissue_energy_share < 1.0:
            raise UserError(f"tissue_energy_share is {self.tissue_energy_share}; wanted a share in (0, 1). Correct it.")
        if self.tissue_below_hz is not None and not self.tissue_below_hz > 0.0:
            raise UserError(f"tissue_below_hz is {self.tissue_below_hz}; wanted a positive frequency. Correct it.")
        if self.window_frames < 1 or self.overlap_frames < 0:
            raise UserError(
                f"clutter windows of {self.window_frames} frames, {self.overlap_frames} more on either side; wanted at "
                "least 1 and 0. Correct clutter_window_frames and clutter_overlap_frames."
            )

    @classmethod
    def of(cls, settings: Mapping[str, Any] | None) -> "ClutterFilter":
        """Make a filter from a config's keys; lists stand for tuples, None for what is left as it is.

        Raises:
            UserError: If a setting is impossible.
        """
        given: dict[str, Any] = {key: value for key, value in (settings or {}).items() if value is not None}
        if "band_pass_hz" in given:
            band_hz = given["band_pass_hz"]
            if not isinstance(band_hz, (list, tuple)) or len(band_hz) != 2:
                raise UserError(f"band_pass_hz is {band_hz}; wanted [lowest, highest] in Hz, or null. Correct it.")
            given["band_pass_hz"] = float(band_hz[0]), float(band_hz[1])
        return cls(**given)

    @property
    def is_off(self) -> bool:
        """True where frames pass unchanged."""
        removes = self.n_tissue_components != 0 or (self.tissue_energy_share, self.tissue_below_hz) != (None, None)
        return not removes and self.band_pass_hz is None


def filter_clutter(iq: IqBlock, clutter: ClutterFilter, *, frame_rate_hz: float) -> IqBlock:
    """Remove tissue, then what lies outside of the band.

    Args:
        iq: complex64 (x, y, z, t) consecutive frames.
        clutter: What to remove.
        frame_rate_hz: Frames per second.

    Raises:
        UserError: If the frames are too few for the filter, or the frame rate does not resolve its band.
    """
    iq = remove_tissue(iq, n_components=_tissue_components(iq, clutter, frame_rate_hz))
    if clutter.band_pass_hz is None:
        return iq
    return band_pass(iq, band_hz=clutter.band_pass_hz, frame_rate_hz=frame_rate_hz)


def _tissue_components(iq: IqBlock, clutter: ClutterFilter, frame_rate_hz: float) -> int:
    """Count the components to remove, by the rule that is set."""
    if clutter.tissue_energy_share is not None:
        return components_by_energy(_components(iq)[0].numpy(), share=clutter.tissue_energy_share)
    if clutter.tissue_below_hz is not None:
        courses = _components(iq)[1].numpy()
        return components_below_hz(courses, frame_rate_hz=frame_rate_hz, limit_hz=clutter.tissue_below_hz)
    if clutter.n_tissue_components == "adaptive":
        casorati = iq.reshape(-1, iq.shape[3])
        some = casorati[:: -(-len(casorati) // MAX_COMPARED_VOXELS)].to(torch.complex128)
        return components_by_similarity((some @ _components(iq)[1]).abs().numpy())
    return clutter.n_tissue_components


def _components(iq: IqBlock) -> tuple[Float64[Tensor, " t"], Complex128[Tensor, "t t"]]:
    """Energies and time courses (columns) of the temporal components, strongest first.

    The Gram matrix is summed in complex128, since it squares the condition number.
    """
    n_frames = iq.shape[3]
    gram = torch.zeros(n_frames, n_frames, dtype=torch.complex128, device=iq.device)
    for rows in iq.reshape(-1, n_frames).split(MAX_COMPARED_VOXELS):  # bounds the complex128 copy
        double = rows.to(torch.complex128)
        gram += double.mH @ double
    energy, vectors = torch.linalg.eigh(gram)
    return energy.flip(0).clamp(min=0.0), vectors.flip(1)


def remove_tissue(iq: IqBlock, *, n_components: int) -> IqBlock:
    """Remove the `n_components` strongest space-time components of a block, where slow, bright tissue lies.

    The (n_voxels, n_frames) Casorati matrix X has X^H X = U S^2 U^H; the filtered block is X minus its projection
    on the first columns of U.

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
            f"n_tissue_components is {n_components} for {n_frames} frames; wanted 0 to {n_frames - 1}. "
            "Remove fewer components or filter longer windows."
        )
    if n_components == 0:
        return iq
    casorati = iq.reshape(-1, n_frames)
    tissue = _components(iq)[1][:, :n_components].to(torch.complex64)
    # (X U) first: the (t, t) projector is never formed.
    return (casorati - (casorati @ tissue) @ tissue.mH).reshape(iq.shape)


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
