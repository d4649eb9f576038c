"""How a bubble looks in each family, and that our shortcuts through eSDIva change nothing.

Prints, at the least and the greatest depth of each family, on its axis and at its side: widths, the carrier's share of
2 k0, how far the maximum lies from the bubble; and the complex correlation and gain of the image against channel data
by eSDIva's own `Reception.pulse_echo_rf` with 2 x 2 patches per element and attenuation path by path.

Run:  python benchmarks/physics/esdiva_checks.py
"""

from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from typing import Any

import numba
import numpy as np
from delay_and_sum import delay_and_sum
from esdiva_channels import ChannelSimulator, band_pass
from families import FAMILIES, Family
from matrix_imaging import Imager, measure_point_spread
from matrix_probe import MatrixProbe
from numpy.typing import NDArray
from scipy import fft

from sparse_ulm.simulation.placement import Box

STEP_WAVELENGTHS = np.array([0.5, 0.5, 0.35])
BOX_WAVELENGTHS = np.array([6.5, 6.5, 5.5])
"""Half of the box that recordings of 16 x 16 x 16 voxels simulate: the field of view and its margin."""


def main() -> None:
    """Print the table."""
    numba.set_num_threads(1)
    print("| family | x y z mm | FWHM λ | carrier / 2 k0 | maximum minus bubble μm | correlation | gain |")
    print("|---|---|---|---|---|---|---|")
    for name, family in FAMILIES.items():
        ideal = replace(family, aberration_rad=0.0)
        for depth_m, aside_m in ((family.depth_m[0], 0.0), (family.depth_m[1], family.lateral_m)):
            print(row(name, ideal, np.array([aside_m, aside_m, depth_m])))


def row(name: str, family: Family, bubble_m: NDArray[np.float64]) -> str:
    """Measure a bubble that lies near a corner of the field of view whose middle is two wavelengths away."""
    probe = family.probe
    reach = BOX_WAVELENGTHS * probe.wavelength_m
    middle = bubble_m + np.array([2.0, -2.0, 2.0]) * probe.wavelength_m
    simulator = ChannelSimulator(probe, Box(middle - reach, middle + reach), np.zeros(len(probe.position_m)))
    spread = measure_point_spread(simulator, bubble_m)
    grid = np.stack(np.meshgrid(*[np.arange(-6.0, 7.0)] * 3, indexing="ij"), axis=-1)
    voxel_m = bubble_m + grid * STEP_WAVELENGTHS * probe.wavelength_m
    ours = Imager(simulator, voxel_m).image(bubble_m[None], np.ones(1), np.random.default_rng(0))
    theirs = image_by_esdiva(probe, bubble_m, voxel_m)
    product = np.abs((ours * theirs.conj()).sum())
    norms = np.linalg.norm(ours.ravel()), np.linalg.norm(theirs.ravel())
    cells = [
        name,
        _numbers(bubble_m * 1e3, 1),
        _numbers(spread.fwhm_m / probe.wavelength_m, 2),
        _numbers(spread.carrier_over_2k0, 2),
        _numbers(spread.peak_offset_m * 1e6, 0),
        f"{product / norms[0] / norms[1]:.5f}",
        # Ours has the spectra's scale and theirs that of samples, so only the gain's spread over rows means something.
        f"{norms[0] / norms[1]:.4g}",
    ]
    return f"| {' | '.join(cells)} |"


def image_by_esdiva(
    probe: MatrixProbe, bubble_m: NDArray[np.float64], voxel_m: NDArray[np.float64]
) -> NDArray[np.complex64]:
    """Image a bubble from the channel data of eSDIva's public interface, through the same receive filter."""
    from esdiva import Reception

    image = np.zeros(voxel_m.shape[:-1], dtype=np.complex64)
    for tilt in probe.tilts_rad:
        transmit, receive = _transducer(probe), _transducer(probe)
        delays = probe.position_m[:, :2] @ np.sin(tilt) / probe.sound_speed_m_s
        transmit.delays, transmit.apodization = delays - delays.min(), probe.is_element.astype(np.float64)
        reception = Reception(
            transmit,
            receive,
            c=probe.sound_speed_m_s,
            fs=probe.sampling_rate_hz,
            alpha0=probe.attenuation_db_cm_mhz,
            excitation=probe.pulse(),
            verbose=False,
        )
        rf, coordinates = reception.pulse_echo_rf(bubble_m[None] * 1e3, np.ones(1))
        image += delay_and_sum(
            _analytic(rf[probe.is_element], probe),
            # eSDIva counts from the last firing; the wave crosses the origin -min(delays) after the first.
            start_s=coordinates["t0"] + float(delays.max()),
            sampling_rate_hz=probe.sampling_rate_hz,
            demodulation_hz=0.0,
            element_m=probe.position_m[probe.is_element],
            voxel_m=voxel_m,
            tilt_rad=tilt,
            f_number=probe.f_number,
            sound_speed_m_s=probe.sound_speed_m_s,
        )
    return image


def _analytic(rf: NDArray[np.float32], probe: MatrixProbe) -> NDArray[np.complex64]:
    """(times, elements) analytic signals in the receive band, zeros behind them so that nothing wraps round."""
    n = 2 * rf.shape[1]
    share = fft.fftfreq(n, 1.0 / probe.sampling_rate_hz) / probe.centre_frequency_hz
    return np.ascontiguousarray(fft.ifft(fft.fft(rf, n, axis=1) * band_pass(share), axis=1).T.astype(np.complex64))


def _transducer(probe: MatrixProbe) -> Any:
    from esdiva.transducers import MatrixArrayTransducer

    width_mm, kerf_mm = (probe.pitch_m - probe.kerf_m) * 1e3, probe.kerf_m * 1e3
    n_x, n_y = probe.n_elements
    with redirect_stdout(StringIO()):
        transducer = MatrixArrayTransducer(
            n_elements_x=n_x,
            n_elements_y=n_y,
            element_width_mm=width_mm,
            element_height_mm=width_mm,
            kerf_x_mm=kerf_mm,
            kerf_y_mm=kerf_mm,
            no_sub_x=2,
            no_sub_y=2,
            frequency_Hz=probe.centre_frequency_hz,
        )
    transducer.baffle = "soft" if probe.soft_baffle else "rigid"
    return transducer


def _numbers(values: NDArray[np.float64], decimals: int) -> str:
    return " ".join(f"{v + 0.0:.{decimals}f}" for v in np.round(values, decimals))


if __name__ == "__main__":
    main()
