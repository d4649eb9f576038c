"""Point-spread function of a matrix array: plane-wave transmit with edge waves, delay-and-sum receive.

For a bubble at r0, delay-and-sum at r gives, frequency by frequency,

    b(r) = sum_f S(f) Tx(f; r0) exp(j 2 pi f [tau(r) - tau(r0)]) sum_e D_e(f; r0) exp(j 2 pi f (|r - e| - |r0 - e|) / c)

with S the two-way pulse spectrum, Tx the field of the whole array at r0, tau the plane wave's delay and D_e the
response of receive element e. Against a full simulator this form reached a complex correlation of 0.97 to 0.98, where
a Gaussian reached 0.92. The sum over frequencies is a pulse h_e(t) of each element, taken at the delay of each voxel:
we tabulate h_e once in time, which gives the same sum some twenty times faster.
"""

from dataclasses import dataclass, field
from typing import no_type_check

import numpy as np
from jaxtyping import Bool, Complex, Float
from numba import njit
from numpy.typing import NDArray

from sparse_ulm.simulation.imaging import TabulatedPsf

N_FREQUENCIES = 48
SAMPLES_PER_PERIOD = 32
"""Time samples of h_e per period of the centre frequency; linear interpolation is then good to 0.5 %."""

TAPER_SHARE = 0.2
"""Outer share of the table that fades to zero, so that a bubble's image has no edge."""

POINT_SPACING_WAVELENGTHS = 3.0
FEWEST_POINTS = 12
"""Receive points per axis: no further apart than this, unless elements are, and no fewer than this."""

ABERRATION_MODES = ((1, 1), (2, 0), (0, 2), (2, 1), (1, 2), (2, 2))
"""Half periods over the aperture along x and y; none holds a mean slope, which would move the bubble."""

DB_PER_NEPER = 20.0 / np.log(10.0)


@dataclass(frozen=True)
class Probe:
    """A matrix array and how it images.

    Attributes:
        n_elements: Elements along x and along y; (n, 1) for a linear array.
        pitch_m: Element spacing.
        kerf_m: Gap between elements.
        centre_frequency_hz: Of the pulse.
        fractional_bandwidth: Two-way -6 dB bandwidth of the transducer over the centre frequency.
        pulse_cycles: Cycles of the transmitted burst.
        f_number: Receive aperture is depth over this.
        edge_wave_gain: Factor on the waves from the edge of the transmitting array: 0 for none, 1 for the model's.
        tilts_rad: (waves, 2) plane-wave angles towards x and y; compounded.
        aberration_rad: (modes,) weights of a smooth phase screen over the receive aperture, at the centre frequency.
        attenuation_db_m_hz: One-way attenuation.
        sound_speed_m_s: Sound speed.
        missing_rows: (banks,) equal banks of receive rows along y; True for one that is blank or broken.
    """

    n_elements: tuple[int, int]
    pitch_m: float
    kerf_m: float
    centre_frequency_hz: float
    fractional_bandwidth: float
    pulse_cycles: float
    f_number: float
    edge_wave_gain: float
    tilts_rad: Float[np.ndarray, "waves 2"]
    aberration_rad: Float[np.ndarray, " modes"]
    attenuation_db_m_hz: float
    sound_speed_m_s: float
    missing_rows: Bool[np.ndarray, " banks"] = field(default_factory=lambda: np.zeros(1, dtype=bool))

    @property
    def element_positions_m(self) -> NDArray[np.float64]:
        """(elements, 3) element centres in the plane z = 0, centred on the origin."""
        axes = [(np.arange(n) - (n - 1) / 2.0) * self.pitch_m for n in self.n_elements]
        x, y = np.meshgrid(*axes, indexing="ij")
        return np.column_stack([x.ravel(), y.ravel(), np.zeros(x.size)])


def pulse_spectrum(probe: Probe) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give frequencies and the two-way amplitude spectrum there: a Gaussian transducer times a burst of some cycles."""
    f0 = probe.centre_frequency_hz
    frequency = np.linspace(0.2, 1.8, N_FREQUENCIES) * f0
    transducer = np.exp(-4.0 * np.log(2.0) * ((frequency / f0 - 1.0) / probe.fractional_bandwidth) ** 2)
    burst = np.sinc((frequency / f0 - 1.0) * probe.pulse_cycles)
    return frequency, transducer * burst


def matrix_array_psf(
    probe: Probe,
    bubble_m: Float[np.ndarray, " 3"],
    *,
    half_width_m: Float[np.ndarray, " 3"],
    step_m: Float[np.ndarray, " 3"],
) -> TabulatedPsf:
    """Compute the point-spread function round a bubble.

    Args:
        probe: Array and imaging.
        bubble_m: Bubble position in the probe's axes; z is depth below the array.
        half_width_m: How far the table reaches to either side, per axis.
        step_m: Grid step; a quarter of a wavelength laterally and a tenth axially are fine enough.

    Returns:
        The table, scaled to a magnitude of 1 at the bubble, with the carrier taken out.
    """
    axes = [np.arange(-(n := int(np.ceil(w / d))), n + 1) * d for w, d in zip(half_width_m, step_m, strict=True)]
    elements = _receive_points(probe, bubble_m)
    reach_s = _longest_delay_s(probe, half_width_m)
    table = np.zeros([len(a) for a in axes], dtype=np.complex64)
    for tilt in probe.tilts_rad:
        pulses, time_step_s = _element_pulses(probe, bubble_m, elements, tilt, reach_s)
        direction = _direction(tilt)
        _sum_elements(
            table, *axes, bubble_m, elements, pulses, time_step_s, direction / probe.sound_speed_m_s,
            1.0 / probe.sound_speed_m_s,
        )  # fmt: skip
    return tabulated_psf(table, np.asarray(step_m, dtype=np.float64))


def _receive_points(probe: Probe, bubble_m: Float[np.ndarray, " 3"]) -> NDArray[np.float64]:
    """Points that stand for the receive elements within the F-number's aperture round the bubble: (points, 3).

    Their copies of the main lobe lie a wavelength over the spacing away in sine, far outside of the table, so the sum
    over them is that over all elements, many times faster.
    """
    wavelength_m = probe.sound_speed_m_s / probe.centre_frequency_hz
    axes = []
    for n, centre in zip(probe.n_elements, bubble_m, strict=False):
        edge = 0.5 * n * probe.pitch_m
        half = 0.5 * bubble_m[2] / probe.f_number
        low, high = max(-edge, centre - half), min(edge, centre + half)
        spacing = max(probe.pitch_m, POINT_SPACING_WAVELENGTHS * wavelength_m)
        n_points = min(n, max(FEWEST_POINTS, int(np.ceil((high - low) / spacing))))
        axes.append(low + (np.arange(n_points) + 0.5) * (high - low) / n_points)
    x, y = np.meshgrid(axes[0], _present(probe, axes[1]), indexing="ij")
    return np.column_stack([x.ravel(), y.ravel(), np.zeros(x.size)])


def _present(probe: Probe, y_m: Float[np.ndarray, " points"]) -> NDArray[np.float64]:
    """Points along y that no missing bank of rows holds; all of them where nothing would remain."""
    bank = np.floor((y_m / (probe.n_elements[1] * probe.pitch_m) + 0.5) * len(probe.missing_rows)).astype(np.int64)
    present = ~probe.missing_rows[np.clip(bank, 0, len(probe.missing_rows) - 1)]
    return y_m[present] if present.any() else y_m


def _direction(tilt: Float[np.ndarray, " 2"]) -> NDArray[np.float64]:
    """Unit vector along which a plane wave travels."""
    slope = np.sin(tilt)
    return np.array([slope[0], slope[1], np.sqrt(1.0 - (slope**2).sum())])


def _longest_delay_s(probe: Probe, half_width_m: Float[np.ndarray, " 3"]) -> float:
    """No voxel of the table is further away in time: the two-way distance to its corner."""
    return 2.0 * float(np.linalg.norm(half_width_m)) / probe.sound_speed_m_s


def _element_pulses(
    probe: Probe,
    bubble_m: Float[np.ndarray, " 3"],
    elements_m: Float[np.ndarray, "elements 3"],
    tilt: Float[np.ndarray, " 2"],
    reach_s: float,
) -> tuple[Complex[np.ndarray, "elements times"], float]:
    """h_e(t) of each receive element, from -reach to +reach, and its time step."""
    frequency, spectrum = pulse_spectrum(probe)
    response = _element_response(probe, frequency, bubble_m, elements_m)
    weight = spectrum * _transmit_field(probe, frequency, bubble_m, tilt)
    screen = np.exp(1j * _phase_screen(probe, elements_m)[:, None] * frequency / probe.centre_frequency_hz)
    time_step = 1.0 / (SAMPLES_PER_PERIOD * probe.centre_frequency_hz)
    half = int(np.ceil(reach_s / time_step)) + 2
    time = np.arange(-half, half + 1) * time_step
    turn = np.exp(2j * np.pi * frequency[:, None] * time)
    return ((response * screen * weight) @ turn).astype(np.complex64), time_step


def _element_response(
    probe: Probe,
    frequency: Float[np.ndarray, " f"],
    bubble_m: Float[np.ndarray, " 3"],
    elements_m: Float[np.ndarray, "elements 3"],
) -> NDArray[np.float64]:
    """Element directivity (two sinc and a cosine), attenuation and spherical spreading: (elements, f)."""
    way = bubble_m - elements_m
    distance = np.linalg.norm(way, axis=1)
    width = probe.pitch_m - probe.kerf_m
    per_wavelength = frequency * width / probe.sound_speed_m_s
    sine = np.abs(way[:, :2]) / distance[:, None]
    directivity = np.sinc(sine[:, :1] * per_wavelength) * np.sinc(sine[:, 1:] * per_wavelength)
    loss = np.exp(-probe.attenuation_db_m_hz * frequency * distance[:, None] / DB_PER_NEPER)
    return directivity * loss * (way[:, 2] / distance**2)[:, None]


def _phase_screen(probe: Probe, elements_m: Float[np.ndarray, "elements 3"]) -> NDArray[np.float64]:
    """(elements,) phase of the aberration at the centre frequency."""
    low, high = elements_m[:, :2].min(axis=0), elements_m[:, :2].max(axis=0)
    x, y = (np.pi * (elements_m[:, :2] - low) / np.maximum(high - low, probe.pitch_m)).T
    modes = [np.cos(i * x) * np.cos(j * y) for i, j in ABERRATION_MODES]
    return np.asarray(probe.aberration_rad) @ np.asarray(modes)


def _transmit_field(
    probe: Probe, frequency: Float[np.ndarray, " f"], bubble_m: Float[np.ndarray, " 3"], tilt: Float[np.ndarray, " 2"]
) -> NDArray[np.complex128]:
    """Field of the whole array at the bubble, relative to the plane wave's delay: plane wave plus scaled edge waves."""
    elements = probe.element_positions_m
    direction = _direction(tilt)
    k = 2.0 * np.pi * frequency / probe.sound_speed_m_s
    distance = np.linalg.norm(bubble_m - elements, axis=1)
    excess = distance + elements @ direction - bubble_m @ direction
    response = _element_response(probe, frequency, bubble_m, elements)
    # Rayleigh's integral: a vibrating face radiates j k / (2 pi) times its area times exp(-j k R) / R.
    face = 1j * k * probe.pitch_m**2 / (2.0 * np.pi)
    total = face * (response * np.exp(-1j * excess[:, None] * k)).sum(axis=0)
    # Stationary phase: of an endless array only the response straight ahead remains, the same at all frequencies.
    ahead = _element_response(probe, frequency, direction * bubble_m[2] / direction[2], np.zeros((1, 3)))[0]
    plane = ahead * (bubble_m[2] / direction[2]) / direction[2]
    return plane + probe.edge_wave_gain * (total - plane)


def tabulated_psf(table: Complex[np.ndarray, "px py pz"], step_m: Float[np.ndarray, " 3"]) -> TabulatedPsf:
    """Make a point-spread function of an image of one bubble.

    Args:
        table: Image on a fine grid of odd sizes, the bubble at the middle sample, carrier kept.
        step_m: Grid step.

    Returns:
        The table scaled to 1 at the bubble, its mean phase slope taken out, its rim faded to 0.
    """
    table = table.astype(np.complex128)
    middle = tuple(n // 2 for n in table.shape)
    table = table / table[middle]
    carrier = np.zeros(3)
    for axis, n in enumerate(table.shape):
        if n > 1:
            ahead, behind = np.take(table, range(1, n), axis), np.take(table, range(n - 1), axis)
            carrier[axis] = np.angle((ahead * behind.conj()).sum()) / step_m[axis]
            offset = (np.arange(n) - middle[axis]) * step_m[axis]
            shape = [1, 1, 1]
            shape[axis] = n
            fade = np.exp(-1j * carrier[axis] * offset) * _fade(n)
            table = table * fade.reshape(shape)
    return TabulatedPsf(_measured_fwhm_m(table, step_m), carrier, table.astype(np.complex64), step_m)


def _fade(n: int) -> NDArray[np.float64]:
    """1 inside, falling to 0 at both ends as a squared cosine."""
    inward = 1.0 - np.abs(np.linspace(-1.0, 1.0, n))
    return np.sin(0.5 * np.pi * np.clip(inward / TAPER_SHARE, 0.0, 1.0)) ** 2


def _measured_fwhm_m(table: Complex[np.ndarray, "px py pz"], step_m: Float[np.ndarray, " 3"]) -> NDArray[np.float64]:
    """Width at half of the bubble's magnitude along the axes through it, linearly interpolated."""
    widths = []
    for axis, n in enumerate(table.shape):
        others = [m // 2 for m in table.shape]
        index = tuple(slice(None) if a == axis else others[a] for a in range(3))
        line = np.abs(table[index])
        widths.append((_half_way(line[n // 2 :]) + _half_way(line[n // 2 :: -1])) * step_m[axis])
    return np.asarray(widths)


def _half_way(line: Float[np.ndarray, " n"]) -> float:
    """Samples until the line first falls to half of its first value; its whole length if it never does."""
    below = np.flatnonzero(line < 0.5 * line[0])
    if below.size == 0:
        return float(len(line) - 1)
    i = int(below[0])
    return float(i - 1 + (line[i - 1] - 0.5 * line[0]) / (line[i - 1] - line[i]))


@njit(cache=True)
@no_type_check
def _sum_elements(table, x_m, y_m, z_m, bubble, elements, pulses, time_step, slowness, per_speed):
    """Add h_e at the delay of every voxel relative to the bubble's; elements outermost keeps each pulse in cache."""
    half = pulses.shape[1] // 2
    per_step = per_speed / time_step
    axial = slowness[2] / time_step
    for e in range(len(elements)):
        pulse = pulses[e]
        own = np.sqrt(((bubble - elements[e]) ** 2).sum())
        for i in range(len(x_m)):
            dx = bubble[0] + x_m[i] - elements[e, 0]
            for j in range(len(y_m)):
                dy = bubble[1] + y_m[j] - elements[e, 1]
                across = dx * dx + dy * dy
                plane = half + (x_m[i] * slowness[0] + y_m[j] * slowness[1]) / time_step - own * per_step
                for k in range(len(z_m)):
                    dz = bubble[2] + z_m[k]
                    at = plane + z_m[k] * axial + np.sqrt(across + dz * dz) * per_step
                    n = int(at)
                    w = np.float32(at - n)
                    table[i, j, k] += pulse[n] + w * (pulse[n + 1] - pulse[n])
