"""A matrix array and its pulse, for physics simulators: everything that decides how a bubble looks."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

SAMPLES_PER_PERIOD = 8
"""Of the centre frequency, in simulated channel data."""


@dataclass(frozen=True)
class MatrixProbe:
    """A matrix array, what it transmits and how it is beamformed. Units are in the names.

    Attributes:
        n_elements: Positions along x and y, blank rows included.
        blank_rows: Rows along y, counted from 0, that hold no elements: the 1024-channel probes of 32 x 35 positions
            have three.
        pitch_m: Spacing of the positions.
        kerf_m: Gap between elements.
        centre_frequency_hz: Of burst and transducer.
        bandwidth: -6 dB width of the transducer's two-way amplitude spectrum over the centre frequency.
        n_cycles: Cycles of the square-wave burst.
        tilts_rad: (waves, 2) plane-wave angles towards x and y; their images are summed.
        f_number: Of the receive aperture, which is square.
        attenuation_db_cm_mhz: One way; 0 for none.
        soft_baffle: True weights elements by the cosine of the angle, False is a rigid baffle.
        sound_speed_m_s: Of the medium and in beamforming.
    """

    n_elements: tuple[int, int]
    blank_rows: tuple[int, ...]
    pitch_m: float
    kerf_m: float
    centre_frequency_hz: float
    bandwidth: float
    n_cycles: int
    tilts_rad: Float[np.ndarray, "waves 2"]
    f_number: float
    attenuation_db_cm_mhz: float
    soft_baffle: bool
    sound_speed_m_s: float

    @property
    def wavelength_m(self) -> float:
        """Sound speed over centre frequency."""
        return self.sound_speed_m_s / self.centre_frequency_hz

    @property
    def sampling_rate_hz(self) -> float:
        """Of simulated channel data."""
        return SAMPLES_PER_PERIOD * self.centre_frequency_hz

    @property
    def position_m(self) -> NDArray[np.float64]:
        """(positions, 3) centres in the plane z = 0, x fastest, centred on the origin."""
        x, y = [(np.arange(n) - 0.5 * (n - 1)) * self.pitch_m for n in self.n_elements]
        xx, yy = np.meshgrid(x, y)
        return np.column_stack([xx.ravel(), yy.ravel(), np.zeros(xx.size)])

    @property
    def is_element(self) -> Bool[np.ndarray, " positions"]:
        """False at the positions of blank rows."""
        n_x, n_y = self.n_elements
        return np.repeat(~np.isin(np.arange(n_y), self.blank_rows), n_x)

    def pulse(self) -> NDArray[np.float32]:
        """Give the two-way pulse: the burst through the transducer twice; odd length, its envelope peaks in the middle.

        Source: our choice; unlike the pulse of `sparse_ulm.simulation.sidelobes`, which is a sine burst.
        """
        half_cycle = SAMPLES_PER_PERIOD // 2
        burst = np.tile(np.repeat([1.0, -1.0], half_cycle), self.n_cycles)
        # A Gaussian amplitude spectrum whose square falls to 1/2 at half of the bandwidth from the centre.
        sigma_hz = 0.5 * self.bandwidth * self.centre_frequency_hz / np.sqrt(np.log(2.0))
        sigma_samples = self.sampling_rate_hz / (2.0 * np.pi * sigma_hz)
        time = np.arange(-(n := int(np.ceil(4.0 * sigma_samples))), n + 1)
        transducer = np.exp(-0.5 * (time / sigma_samples) ** 2) * np.cos(2.0 * np.pi * time / SAMPLES_PER_PERIOD)
        pulse = np.convolve(np.convolve(burst, transducer), transducer)
        # The burst has an even number of samples: half a sample more makes the length odd and keeps the middle.
        middle = np.convolve(pulse, [0.5, 0.5])
        return (middle / np.abs(middle).max()).astype(np.float32)


def phase_screen_s(
    probe: MatrixProbe, rng: np.random.Generator, *, rms_s: float, correlation_m: float
) -> NDArray[np.float64]:
    """Draw delays of a near-field aberrator: a Gaussian random field over the array without mean or slope.

    Args:
        probe: The array.
        rng: Source of all randomness.
        rms_s: Root mean square delay.
        correlation_m: Standard deviation of the Gaussian that smooths the field.

    Returns:
        (positions,) delays. A slope would move every bubble, which is no error of a localiser, so it is taken out.
    """
    n_x, n_y = probe.n_elements
    field = gaussian_filter(rng.normal(size=(n_y, n_x)), correlation_m / probe.pitch_m, mode="wrap").ravel()
    plane = np.column_stack([probe.position_m[:, :2], np.ones(field.size)])
    field -= plane @ np.linalg.lstsq(plane, field, rcond=None)[0]
    return field * (rms_s / field.std()) if rms_s > 0 else np.zeros(field.size)
