"""Delay-and-sum of the channel data of a matrix array after a plane-wave transmit: compiled, one thread."""

from typing import no_type_check

import numpy as np
from jaxtyping import Complex64, Float
from numba import njit
from numpy.typing import NDArray

PHASORS = 8192
"""Entries of the table of exp(j phi), which saves a sine and a cosine; the phase is wrong by at most 4e-4 rad."""


def delay_and_sum(
    iq: Complex64[np.ndarray, "times elements *frames"],
    *,
    start_s: float,
    sampling_rate_hz: float,
    demodulation_hz: float,
    element_m: Float[np.ndarray, "elements xyz=3"],
    voxel_m: Float[np.ndarray, "*voxels xyz=3"],
    tilt_rad: Float[np.ndarray, " 2"],
    f_number: float,
    sound_speed_m_s: float,
) -> Complex64[np.ndarray, "..."]:
    """Beamform one plane-wave transmit, or the same one in several frames at once, which takes far less time per frame.

    Every voxel r gets the sum over its receive aperture of iq_e(t) exp(+j 2 pi f_d t) at t = (d.r + |r - e|) / c,
    with d the direction of the plane wave. That is the sum of the *analytic* channel signals, whatever f_d they were
    demodulated with: the echo of a bubble at r0 adds up in phase, and its image turns as exp(+j q.(r - r0)), q_z
    0.7 to 0.85 of 2 k0. So the carrier is kept, with the sign of `sparse_ulm.simulation.imaging`, as laboratories
    deliver beamformed IQ. Phases do not depend on `start_s`.

    The sum is not divided by the number of elements, and has no apodisation within its aperture: |x - x_e| and
    |y - y_e| at most z / (2 F). For missing rows or dead elements, leave out their columns of `iq` and their rows of
    `element_m`. Compounding is the sum of the images of several transmits.

    Args:
        iq: Channel data in baseband: analytic signal times exp(-j 2 pi f_d t). Times count from t = 0, when the plane
            wave passes the origin of the coordinates. Frames are optional; 8 to 16 at once are best.
        start_s: Time of the first sample.
        sampling_rate_hz: Of `iq`; at least three times the pulse's bandwidth for the cubic interpolation.
        demodulation_hz: f_d; 0 for analytic signals.
        element_m: Element centres.
        voxel_m: Where to image, z > 0 below the array. Delays beyond the data add nothing.
        tilt_rad: Angles of the plane wave towards x and y; d = (sin tilt_x, sin tilt_y, the rest), as in
            `sparse_ulm.simulation.sidelobes`.
        f_number: Depth over the width of the receive aperture, along x and y each.
        sound_speed_m_s: c.

    Returns:
        complex64 (*voxels, *frames).

    Source: textbook delay-and-sum; the square aperture and 4-point Lagrange interpolation are our choice.
    """
    voxels = np.ascontiguousarray(voxel_m.reshape(-1, 3), dtype=np.float64)
    elements = np.ascontiguousarray(element_m, dtype=np.float64)
    frames = iq.shape[2:]
    by_element = iq.reshape(*iq.shape[:2], -1).swapaxes(0, 1)
    # Real parts of all frames, then imaginary parts: the innermost loops run over frames and fill vector registers.
    traces = np.concatenate([by_element.real, by_element.imag], axis=2)
    image = np.zeros((len(voxels), traces.shape[2]), dtype=np.float32)
    transmit_s = voxels @ plane_wave_direction(tilt_rad) / sound_speed_m_s - start_s
    phase = 2.0 * np.pi * np.arange(PHASORS) / PHASORS
    turn = np.column_stack([np.cos(phase), np.sin(phase)]).astype(np.float32)
    _sum_elements(
        image, traces, elements, voxels, transmit_s, 0.5 / f_number, 1.0 / sound_speed_m_s, sampling_rate_hz,
        demodulation_hz, start_s * demodulation_hz, turn,
    )  # fmt: skip
    real, imaginary = np.split(image, 2, axis=1)
    return (real + 1j * imaginary).reshape(*voxel_m.shape[:-1], *frames)


def plane_wave_direction(tilt_rad: Float[np.ndarray, " 2"]) -> NDArray[np.float64]:
    """Give the unit vector along which a plane wave travels, from its angles towards x and y."""
    x, y = np.sin(tilt_rad)
    return np.array([x, y, np.sqrt(1.0 - x * x - y * y)])


@njit
@no_type_check
def _sum_elements(
    image, traces, elements, voxels, transmit_s, half_per_depth, per_speed, rate, carrier, start_cycles, turn
):
    """Elements outermost: the trace of one stays in the first cache."""
    n_times, n_turn, n_frames = traces.shape[1], len(turn), traces.shape[2] // 2
    one, two = np.float32(1.0), np.float32(2.0)
    for e in range(len(elements)):
        trace = traces[e]
        x_e, y_e, z_e = elements[e]
        for v in range(len(voxels)):
            dx, dy, dz = voxels[v, 0] - x_e, voxels[v, 1] - y_e, voxels[v, 2] - z_e
            half = dz * half_per_depth
            if abs(dx) > half or abs(dy) > half:
                continue
            delay = transmit_s[v] + np.sqrt(dx * dx + dy * dy + dz * dz) * per_speed
            at = delay * rate
            if at < 1.0 or at >= n_times - 2:
                continue
            i = int(at)
            w = np.float32(at - i)
            # Lagrange weights of samples -1, 0, 1 and 2 around a share w between 0 and 1.
            w_a, w_b = w * (w - one) * (w - two) / np.float32(-6.0), (w + one) * (w - one) * (w - two) / two
            w_c, w_d = (w + one) * w * (w - two) / -two, (w + one) * w * (w - one) / np.float32(6.0)
            a, b, c, d = trace[i - 1], trace[i], trace[i + 1], trace[i + 2]
            cycles = delay * carrier + start_cycles
            cosine, sine = turn[int((cycles - np.floor(cycles)) * n_turn + 0.5) % n_turn]
            value = image[v]
            for f in range(n_frames):
                real = w_a * a[f] + w_b * b[f] + w_c * c[f] + w_d * d[f]
                g = f + n_frames
                imaginary = w_a * a[g] + w_b * b[g] + w_c * c[g] + w_d * d[g]
                value[f] += real * cosine - imaginary * sine
                value[g] += real * sine + imaginary * cosine
