"""Probes and conditions of the physics recordings: each family is one way in which recordings differ from training."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from matrix_probe import MatrixProbe

SOUND_SPEED_M_S = 1540.0
BLANK_ROWS = (8, 17, 26)
"""Of 35: the 1024-channel probes have four panels of 32 x 8 elements (reference notes, from memory)."""


@dataclass(frozen=True)
class Family:
    """A probe and the bounds of what varies between its recordings.

    Attributes:
        probe: The array and its imaging.
        depth_m: Depth of the first voxel, least and most.
        lateral_m: Greatest distance of the grid's middle from the probe's axis, along x and along y.
        snr_db: Median bubble peak over rms of the beamformed noise, least and most.
        aberration_rad: Root mean square phase of a near-field screen at the centre frequency.
        screen_correlation_m: Standard deviation of the Gaussian that smooths the screen.
        clutter_db: Rms of residual clutter over the median bubble peak; None for none.
    """

    probe: MatrixProbe
    depth_m: tuple[float, float]
    lateral_m: float
    snr_db: tuple[float, float]
    aberration_rad: float
    screen_correlation_m: float
    clutter_db: float | None

    def description(self) -> dict[str, Any]:
        """Give all of it for a JSON file."""
        values = asdict(self)
        values["probe"]["tilts_rad"] = self.probe.tilts_rad.tolist()
        return values


def _probe(**changes: Any) -> MatrixProbe:
    """The 8 MHz probe of the reference notes (section 3), with changes."""
    values: dict[str, Any] = {
        "n_elements": (32, 32),
        "blank_rows": (),
        "pitch_m": 300e-6,
        "kerf_m": 25e-6,
        "centre_frequency_hz": 8e6,
        "bandwidth": 0.67,
        "n_cycles": 1,
        "tilts_rad": np.zeros((1, 2)),
        "f_number": 1.0,
        "attenuation_db_cm_mhz": 0.5,
        "soft_baffle": True,
        "sound_speed_m_s": SOUND_SPEED_M_S,
    }
    return MatrixProbe(**(values | changes))


FAMILIES = {
    # The plainest case: a full array, one plane wave.
    "8mhz": Family(
        probe=_probe(),
        depth_m=(6e-3, 12e-3),
        lateral_m=2e-3,
        snr_db=(15.0, 30.0),
        aberration_rad=0.0,
        screen_correlation_m=1e-3,
        clutter_db=None,
    ),
    # A small fine array with blank rows, a longer burst and three compounded waves.
    "15mhz_rows": Family(
        probe=_probe(
            n_elements=(32, 35),
            blank_rows=BLANK_ROWS,
            pitch_m=100e-6,
            kerf_m=10e-6,
            centre_frequency_hz=15e6,
            n_cycles=2,
            tilts_rad=np.deg2rad([[0.0, 0.0], [4.0, 4.0], [-4.0, -4.0]]),
            soft_baffle=False,
        ),
        depth_m=(3.5e-3, 6e-3),
        lateral_m=0.5e-3,
        snr_db=(15.0, 30.0),
        aberration_rad=0.0,
        screen_correlation_m=1e-3,
        clutter_db=None,
    ),
    # What real recordings add: blank rows, aberration of 45 degrees, what a clutter filter leaves, less signal.
    "8mhz_adverse": Family(
        probe=_probe(n_elements=(32, 35), blank_rows=BLANK_ROWS),
        depth_m=(6e-3, 12e-3),
        lateral_m=2e-3,
        snr_db=(10.0, 20.0),
        aberration_rad=float(np.pi / 4.0),
        screen_correlation_m=1e-3,
        clutter_db=-15.0,
    ),
}
