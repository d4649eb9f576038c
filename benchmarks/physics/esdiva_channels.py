"""Channel data of a matrix array by eSDIva (BSD-3), the exact spatial impulse response, as baseband IQ.

    pip install esdiva==0.3.0

Every element radiates and receives as a rectangle, at every frequency of the pulse: edge waves, directivity and the
widening of the pulse off axis are those of the theory, and not those of `sparse_ulm.simulation`. For evaluation only:
nothing is trained on it.

We call eSDIva's kernel of two-way spectra on the frequencies of our receive band and time window, which is what its
`Reception.pulse_echo_rf` does with a longer window and a wider band, in a third of the time. Attenuation is that of
the way to the middle of the box and back to each element, with its dispersion: over the box it is little more than a
gain over depth, which laboratories take out, and eSDIva's own, path by path, takes as long as all the rest twice.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Complex64, Float
from matrix_probe import SAMPLES_PER_PERIOD, MatrixProbe
from numpy.typing import NDArray
from scipy import fft

from sparse_ulm.simulation.placement import Box

DECIMATION = 2
PASS_BAND, STOP_BAND = (0.5, 1.5), (0.3, 1.7)
"""Receive band-pass over the centre frequency; squared cosines between the two."""


@dataclass
class ChannelSimulator:
    """Simulates echoes from a box below the probe on one fixed time window.

    Attributes:
        probe: The array.
        box: Where scatterers and voxels may lie.
        screen_s: (positions,) delays of an aberrator in front of the array, met on transmit and on receive.
        element_m: (elements, 3) those that a voxel in the box can have in its receive aperture.
        start_s: Time of the first sample; t = 0 is when an ideal plane wave crosses the origin.
        n_times: Samples of the window at the probe's sampling rate.
    """

    probe: MatrixProbe
    box: Box
    screen_s: Float[np.ndarray, " positions"]
    element_m: Float[np.ndarray, "elements xyz=3"] = field(init=False)
    start_s: float = field(init=False)
    n_times: int = field(init=False)

    def __post_init__(self) -> None:
        """Choose elements, window and frequencies."""
        probe, low, high = self.probe, self.box.low_m, self.box.high_m
        half_m = 0.5 * high[2] / probe.f_number
        near = ((probe.position_m[:, :2] >= low[:2] - half_m) & (probe.position_m[:, :2] <= high[:2] + half_m)).all(1)
        self._receives = near & probe.is_element
        self.element_m = probe.position_m[self._receives]
        self.start_s, self.n_times = self._window()
        frequency = np.arange(self.n_times // 2 + 1) * probe.sampling_rate_hz / self.n_times
        share = frequency / probe.centre_frequency_hz
        self._bins = np.flatnonzero((share > STOP_BAND[0]) & (share < STOP_BAND[1]))
        self._frequency_hz = frequency[self._bins]
        self._filter = band_pass(share[self._bins]).astype(np.float32)
        self._demodulation_bin = round(self.n_times / SAMPLES_PER_PERIOD)
        self._response = self._pulse_spectrum() * self._attenuation() * self._receive_screen()
        self._apertures = [self._transmitter(tilt) for tilt in probe.tilts_rad], self._receiver()

    @property
    def sampling_rate_hz(self) -> float:
        """Of the IQ."""
        return self.probe.sampling_rate_hz / DECIMATION

    @property
    def demodulation_hz(self) -> float:
        """Frequency that baseband IQ is demodulated with: the centre frequency, but for the window's resolution."""
        return self._demodulation_bin * self.probe.sampling_rate_hz / self.n_times

    def spectrum(
        self, position_m: Float[np.ndarray, "n xyz=3"], amplitude: Float[np.ndarray, " n"], wave: int
    ) -> Complex64[np.ndarray, "elements bins"]:
        """Simulate the echoes of one transmit: spectra of the channels within the receive band."""
        from esdiva.hsir.sir_spectral import compute_twoway_spectrum_summed

        if len(position_m) == 0:
            return np.zeros(self._response.shape, dtype=np.complex64)
        transmitters, receiver = self._apertures
        each = np.arange(len(self.element_m) + 1)
        omega, slowness = 2.0 * np.pi * self._frequency_hz, 1.0 / self.probe.sound_speed_m_s
        two_way = compute_twoway_spectrum_summed(
            position_m, amplitude, transmitters[wave], receiver, each, slowness, omega
        )
        return (two_way * self._response).astype(np.complex64)

    def noise(self, rng: np.random.Generator) -> Complex64[np.ndarray, "elements bins"]:
        """Draw the spectra of white noise on every channel."""
        parts = rng.standard_normal(size=(*self._response.shape, 2), dtype=np.float32)
        return parts.view(np.complex64)[..., 0]

    def baseband(self, spectra: Complex64[np.ndarray, "elements bins"]) -> Complex64[np.ndarray, "times elements"]:
        """Filter, demodulate and decimate: IQ as `delay_and_sum` takes it."""
        n = self.n_times // DECIMATION
        shifted = np.zeros((len(spectra), n), dtype=np.complex64)
        shifted[:, (self._bins - self._demodulation_bin) % n] = spectra * self._filter
        origin = np.exp(-2j * np.pi * self.demodulation_hz * self.start_s)
        iq = fft.ifft(shifted, axis=1, overwrite_x=True).T * np.complex64(origin)
        return np.ascontiguousarray(iq)

    def _window(self) -> tuple[float, int]:
        """First time and number of samples that hold every echo from the box, edge waves included."""
        probe = self.probe
        # Points on the box's faces reach its least and greatest delays.
        axes = [np.linspace(a, b, 5) for a, b in zip(self.box.low_m, self.box.high_m, strict=True)]
        points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
        way_s = np.linalg.norm(points[:, None] - probe.position_m, axis=-1) / probe.sound_speed_m_s
        firings_s = [self._firing_s(tilt) for tilt in probe.tilts_rad]
        outward_s = [way_s[:, probe.is_element] + fire[probe.is_element] for fire in firings_s]
        back_s = way_s[:, self._receives] + self.screen_s[self._receives]
        guard_s = 0.5 * len(probe.pulse()) / probe.sampling_rate_hz
        first_s = min(float((out.min(axis=1) + back_s.min(axis=1)).min()) for out in outward_s) - guard_s
        last_s = max(float((out.max(axis=1) + back_s.max(axis=1)).max()) for out in outward_s) + guard_s
        n_times = int(np.ceil((last_s - first_s) * probe.sampling_rate_hz))
        return first_s, DECIMATION * int(fft.next_fast_len(-(-n_times // DECIMATION)))

    def _firing_s(self, tilt: Float[np.ndarray, " 2"]) -> NDArray[np.float64]:
        """(positions,) when each element fires, the aberrator's delay included."""
        return self.probe.position_m[:, :2] @ np.sin(tilt) / self.probe.sound_speed_m_s + self.screen_s

    def _pulse_spectrum(self) -> NDArray[np.complex128]:
        """(bins,) spectrum of the pulse, whose middle is at time 0."""
        pulse = self.probe.pulse()
        time = (np.arange(len(pulse)) - len(pulse) // 2) / self.probe.sampling_rate_hz
        return np.asarray(np.exp(-2j * np.pi * self._frequency_hz[:, None] * time) @ pulse)

    def _receive_screen(self) -> NDArray[np.complex128]:
        """(elements, bins) phase of the aberrator on the way back."""
        return np.exp(-2j * np.pi * self.screen_s[self._receives, None] * self._frequency_hz)

    def _attenuation(self) -> NDArray[np.complex128]:
        """(elements, bins) factor of the way to the middle of the box and back."""
        from esdiva.attenuation import causal_attenuation_tf

        middle = 0.5 * (self.box.low_m + self.box.high_m)
        way_m = np.linalg.norm(middle) + np.linalg.norm(middle - self.element_m, axis=1)
        f0 = self.probe.centre_frequency_hz
        return causal_attenuation_tf(self._frequency_hz, way_m, self.probe.attenuation_db_cm_mhz, 1.0, f0)

    def _transmitter(self, tilt: Float[np.ndarray, " 2"]) -> dict[str, Any]:
        """The whole array firing a plane wave, in eSDIva's terms."""
        fires = self.probe.is_element
        return self._aperture(self.probe.position_m[fires], self._firing_s(tilt)[fires], origin_s=0.0)

    def _receiver(self) -> dict[str, Any]:
        return self._aperture(self.element_m, np.zeros(len(self.element_m)), origin_s=self.start_s)

    def _aperture(self, centre_m: NDArray, delay_s: NDArray, *, origin_s: float) -> dict[str, Any]:
        width = np.full(len(centre_m), self.probe.pitch_m - self.probe.kerf_m)
        return {
            "centers": centre_m,
            "wx": width,
            "wy": width,
            "apod": np.ones(len(centre_m)),
            "delays": delay_s,
            "t0": origin_s,
            "soft": self.probe.soft_baffle,
        }


def band_pass(share: Float[np.ndarray, " bins"]) -> NDArray[np.float64]:
    """Give the receive filter at a frequency over the centre frequency: 1 in the pass band, 0 beyond the stop band."""
    rise = np.clip((share - STOP_BAND[0]) / (PASS_BAND[0] - STOP_BAND[0]), 0.0, 1.0)
    fall = np.clip((STOP_BAND[1] - share) / (STOP_BAND[1] - PASS_BAND[1]), 0.0, 1.0)
    return np.sin(0.5 * np.pi * np.minimum(rise, fall)) ** 2
