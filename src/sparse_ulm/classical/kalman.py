"""Kalman tracking of many bubbles at once: constant velocity, white acceleration, every axis a filter of its own.

The state of a bubble along an axis is (x, v) with covariance [[p_xx, p_xv], [p_xv, p_vv]]; all bubbles and axes are
computed together as (n, 3) arrays. Where bubbles are dense, the predicted place tells them apart that the nearest
neighbour confuses, and a bubble that is missed for some frames is looked for where it will have gone.
"""

from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from sparse_ulm.acquisition import Geometry
from sparse_ulm.classical.assignment import assign, pairs_within

LEAST_DEVIATION_WAVELENGTHS = 0.05
"""Localisations are taken to be no more certain than this, and as certain as this where they state no deviation.

Our choice: what a fit states is the error by noise alone, not that by neighbours."""

GATE_SQUARED = 16.27
"""Largest squared Mahalanobis distance of a pair: 99.9 % of chi-squared with three degrees of freedom."""

SPEED_DEVIATIONS = 3.0
"""The largest speed is so many standard deviations of the speed that a new bubble may have (our choice)."""


@dataclass
class States:
    """Moving bubbles, one row each, along x, y and z in metres and seconds.

    Attributes:
        x: Position.
        v: Velocity.
        p_xx: Variance of the position.
        p_xv: Covariance of both.
        p_vv: Variance of the velocity.
    """

    x: Float[np.ndarray, "n 3"]
    v: Float[np.ndarray, "n 3"]
    p_xx: Float[np.ndarray, "n 3"]
    p_xv: Float[np.ndarray, "n 3"]
    p_vv: Float[np.ndarray, "n 3"]

    def __getitem__(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> "States":
        """Give some of the bubbles."""
        return States(*(getattr(self, field.name)[rows] for field in fields(self)))

    def joined(self, other: "States") -> "States":
        """Give these bubbles and then the others."""
        return States(*(np.vstack([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)))


def predict(states: States, *, interval_s: float, acceleration_m_s2: float) -> States:
    """Move every bubble on by its velocity; a random acceleration, constant over the interval, adds uncertainty.

    With F = [[1, dt], [0, 1]] and g = (dt^2 / 2, dt): x' = F x, P' = F P F^T + acceleration^2 g g^T.
    """
    dt, variance = interval_s, acceleration_m_s2**2
    return States(
        states.x + dt * states.v,
        states.v,
        states.p_xx + 2 * dt * states.p_xv + dt**2 * states.p_vv + variance * dt**4 / 4,
        states.p_xv + dt * states.p_vv + variance * dt**3 / 2,
        states.p_vv + variance * dt**2,
    )


def correct(states: States, seen: Float[np.ndarray, "n 3"], variance: Float[np.ndarray, "n 3"]) -> States:
    """Take in where each bubble was seen, with the variance of that sight."""
    innovation = seen - states.x
    gain_x, gain_v = states.p_xx / (states.p_xx + variance), states.p_xv / (states.p_xx + variance)
    return States(
        states.x + gain_x * innovation,
        states.v + gain_v * innovation,
        (1 - gain_x) * states.p_xx,
        (1 - gain_x) * states.p_xv,
        states.p_vv - gain_v * states.p_xv,
    )


def scanner_deviation_m(
    deviation_voxel: Float[np.ndarray, "n xyz=3"], geometry: Geometry
) -> Float[np.ndarray, "n xyz=3"]:
    """Turn deviations in voxels along the grid into metres along the scanner's axes; none is below the least one.

    Args:
        deviation_voxel: Standard deviations of positions; NaN where not known, which becomes the least deviation.
        geometry: Of the recording.
    """
    # Squared direction cosines: the variance along a scanner axis is a mixture of those along the grid's.
    variance = np.nan_to_num(deviation_voxel) ** 2 @ geometry.matrix_m[:3, :3].T ** 2
    return np.maximum(np.sqrt(variance), LEAST_DEVIATION_WAVELENGTHS * geometry.wavelength_m)


class KalmanTracks:
    """Ends of tracks, continued where they are predicted to be; takes the place of `linking.NearestTracks`.

    A pair costs the squared Mahalanobis distance plus ln det S of its predicted spread S, minus twice its log
    likelihood up to a constant; so a bubble that was followed for long is preferred to one whose speed is unknown yet.

    Args:
        max_speed_m_s: Farther from where it was last seen a bubble is not looked for.
        acceleration_m_s2: Standard deviation of the acceleration along each axis.
        geometry: Of the recording.

    Source: constant velocity, Q from the acceleration and R from the localisation's deviation as Song and Tang do, the
    Mahalanobis cost as Ultratrace (reference notes §5.5); ln det S is our choice.
    """

    def __init__(self, *, max_speed_m_s: float, acceleration_m_s2: float, geometry: Geometry) -> None:
        """Start without bubbles."""
        self.interval_s = 1.0 / geometry.frame_rate_hz
        self.step_m = max_speed_m_s * self.interval_s
        self.acceleration_m_s2 = acceleration_m_s2
        self.speed_variance = (max_speed_m_s / SPEED_DEVIATIONS) ** 2
        self.geometry = geometry
        self.now = 0
        self.track_id = np.empty(0, dtype=np.int64)
        self.frame = np.empty(0, dtype=np.int64)
        self.last_seen_m = np.empty((0, 3))
        self.states = States(*(np.empty((0, 3)) for _ in fields(States)))

    def forget_before(self, frame: int) -> None:
        """Drop the bubbles that were last seen before a frame."""
        self._keep(self.frame >= frame)

    def pair(
        self, frame: int, position_m: Float[np.ndarray, "n xyz=3"], deviation_voxel: Float[np.ndarray, "n xyz=3"]
    ) -> Int[np.ndarray, " n"]:
        """Move all bubbles on to `frame`, and give each localisation the track it continues, or -1."""
        self.states = predict(
            self.states, interval_s=(frame - self.now) * self.interval_s, acceleration_m_s2=self.acceleration_m_s2
        )
        self.now = frame
        track_id = np.full(len(position_m), -1, dtype=np.int64)
        pairs = self._candidates(position_m)
        row, column = pairs.T
        spread = self.states.p_xx[row] + (scanner_deviation_m(deviation_voxel, self.geometry) ** 2)[column]
        squared = np.sum((position_m[column] - self.states.x[row]) ** 2 / spread, axis=1)
        cost = squared + np.sum(np.log(spread), axis=1)
        inside = squared <= GATE_SQUARED
        if inside.any():
            dearest = float(cost[inside].max())
            # Likelihoods compare pairs; that one is better than none, the gate has decided.
            taken = assign(pairs[inside], cost[inside] - dearest, unlinked_cost=GATE_SQUARED)
            track_id[taken[:, 1]] = self.track_id[taken[:, 0]]
        return track_id

    def update(
        self,
        frame: int,
        track_id: Int[np.ndarray, " n"],
        is_new: NDArray[np.bool_],
        position_m: Float[np.ndarray, "n xyz=3"],
        deviation_voxel: Float[np.ndarray, "n xyz=3"],
    ) -> None:
        """Correct the bubbles seen in this frame, and begin new ones at rest with a wide spread of speeds."""
        variance = scanner_deviation_m(deviation_voxel, self.geometry) ** 2
        place = {track: row for row, track in enumerate(self.track_id.tolist())}
        rows = np.array([place[track] for track in track_id[~is_new].tolist()], dtype=np.int64)
        seen = correct(self.states[rows], position_m[~is_new], variance[~is_new])
        zero = np.zeros_like(position_m[is_new])
        born = States(position_m[is_new], zero, variance[is_new], zero, zero + self.speed_variance)
        missed = np.ones(len(self.track_id), dtype=bool)
        missed[rows] = False
        self._keep(missed)
        self.states = self.states.joined(seen).joined(born)
        order = np.r_[np.flatnonzero(~is_new), np.flatnonzero(is_new)]
        self.track_id = np.r_[self.track_id, track_id[order]]
        self.frame = np.r_[self.frame, np.full(len(order), frame)]
        self.last_seen_m = np.vstack([self.last_seen_m, position_m[order]])
        self.now = frame

    def _candidates(self, position_m: Float[np.ndarray, "n xyz=3"]) -> Int[np.ndarray, "k 2"]:
        """List pairs (bubble, localisation) that the largest speed allows since the bubble was last seen."""
        found = [np.empty((0, 2), dtype=np.int64)]
        for last_seen in np.unique(self.frame):
            rows = np.flatnonzero(self.frame == last_seen)
            pairs = pairs_within(self.last_seen_m[rows], position_m, self.step_m * float(self.now - last_seen))
            found.append(np.column_stack([rows[pairs[:, 0]], pairs[:, 1]]))
        return np.vstack(found)

    def _keep(self, kept: NDArray[np.bool_]) -> None:
        self.track_id, self.frame, self.last_seen_m = self.track_id[kept], self.frame[kept], self.last_seen_m[kept]
        self.states = self.states[kept]
