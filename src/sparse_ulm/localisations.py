"""What localisation gives: bubbles, frame by frame, and the trajectories that linking makes of them.

Both are tables, one row per bubble and frame, whoever made them: the conventional pipeline or a network.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64

from sparse_ulm.conventions import PositionsVoxel


@dataclass(frozen=True)
class Localisations:
    """Bubbles found, one row each, sorted by frame.

    Attributes:
        frame: Frame of the recording, from 0.
        position_voxel: Sub-voxel position in voxels of the recording's grid, from the centre of its first voxel.
        amplitude: Echo magnitude, in the recording's units.
        deviation_voxel: Standard deviation of the position along x, y and z, in voxels; NaN where it is not known.
    """

    frame: Int64[np.ndarray, " n"]
    position_voxel: PositionsVoxel
    amplitude: Float[np.ndarray, " n"]
    deviation_voxel: PositionsVoxel

    def __len__(self) -> int:
        """Number of bubbles over all frames."""
        return len(self.frame)


@dataclass(frozen=True)
class Trajectories:
    """Bubbles followed over time, one row per sample, sorted by track and then by time.

    Attributes:
        track_id: Which bubble, from 0.
        frame: Frame, from 0; a fraction where a trajectory was interpolated between frames.
        position_voxel: Voxels of the recording's grid, from the centre of its first voxel.
        velocity_m_s: Velocity along x, y and z of the scanner.
        amplitude: Echo magnitude, in the recording's units.
        deviation_voxel: Standard deviation of the localisation that the sample comes from, before any smoothing, along
            x, y and z of the grid, in voxels; NaN where it is not known and where a gap was filled. All NaN if left
            out.
    """

    track_id: Int64[np.ndarray, " n"]
    frame: Float[np.ndarray, " n"]
    position_voxel: PositionsVoxel
    velocity_m_s: Float[np.ndarray, "n 3"]
    amplitude: Float[np.ndarray, " n"]
    deviation_voxel: PositionsVoxel = None  # type: ignore[assignment]  # filled below: never None

    def __post_init__(self) -> None:
        """Fill in deviations that nobody gave."""
        if self.deviation_voxel is None:
            object.__setattr__(self, "deviation_voxel", np.full((len(self.frame), 3), np.nan))

    def __len__(self) -> int:
        """Number of samples over all trajectories."""
        return len(self.frame)
