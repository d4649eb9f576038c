"""Point-spread functions by SIMUS3 (PyMUST, LGPL, a development-time package) and delay-and-sum, for training.

Every kernel is one bubble under a matrix array of its own: frequency, pitch, aperture, bandwidth, pulse, plane waves,
F-number, place, missing rows and aberration are drawn at random. Kernels are stored in wavelengths, so that they serve
recordings of any frequency: `configs/simulate.yaml --psf_table_share 0.4 --psf_tables FILE`.

Two families: `train`, and `left_out`, whose probes (wide pitch, narrow band) training never shows: thresholds are
chosen on it.

Run:  pip install --no-deps pymust==0.1.9
      python benchmarks/simus3_kernels.py --family train --n_kernels 150 --seed 1 --output kernels.npz
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Complex64, Float
from numpy.typing import NDArray
from tqdm import tqdm

from sparse_ulm.io.atomic import atomic_path
from sparse_ulm.simulation.imaging import TabulatedPsf
from sparse_ulm.simulation.sidelobes import tabulated_psf

sys.path.insert(0, str(Path(__file__).parent))  # benchmarks are scripts, not a package

from physics.delay_and_sum import delay_and_sum

SOUND_SPEED_M_S = 1540.0
HALF_WIDTH_WAVELENGTHS = np.array([4.0, 4.0, 3.0])
STEP_WAVELENGTHS = np.array([0.25, 0.25, 0.1])
"""A quarter of a wavelength laterally and a tenth axially are fine enough for linear interpolation without carrier."""

FAMILIES: dict[str, dict[str, tuple[float, float]]] = {
    "train": {"pitch_wavelengths": (0.8, 2.2), "bandwidth": (0.6, 0.95), "cycles": (1.0, 2.0), "f_number": (0.8, 1.5)},
    "left_out": {
        "pitch_wavelengths": (2.2, 3.0),
        "bandwidth": (0.45, 0.6),
        "cycles": (1.0, 2.0),
        "f_number": (0.7, 1.3),
    },
}


@dataclass(frozen=True)
class Draw:
    """One probe and one bubble; lengths in metres, angles in radians."""

    frequency_hz: float
    pitch_m: float
    n_elements: int
    bandwidth: float
    cycles: float
    f_number: float
    tilts_rad: Float[np.ndarray, "waves 2"]
    bubble_m: Float[np.ndarray, " 3"]
    present: Bool[np.ndarray, " rows"]
    screen_rad: Float[np.ndarray, "rows rows"]

    @property
    def wavelength_m(self) -> float:
        """Sound speed over frequency."""
        return SOUND_SPEED_M_S / self.frequency_hz

    @property
    def element_m(self) -> NDArray[np.float64]:
        """(elements, 3) centres, y fastest."""
        axis = (np.arange(self.n_elements) - (self.n_elements - 1) / 2.0) * self.pitch_m
        x, y = np.meshgrid(axis, axis, indexing="ij")
        return np.column_stack([x.ravel(), y.ravel(), np.zeros(x.size)])


def draw(rng: np.random.Generator, family: str) -> Draw:
    """Draw a probe of a family, and a bubble under it."""
    ranges = FAMILIES[family]
    frequency_hz = rng.uniform(6e6, 16e6)
    pitch_m = rng.uniform(*ranges["pitch_wavelengths"]) * SOUND_SPEED_M_S / frequency_hz
    n = int(np.clip(round(rng.uniform(4e-3, 10e-3) / pitch_m), 16, 32))
    half = 0.5 * n * pitch_m
    present = np.ones(n, dtype=bool)
    if rng.uniform() < 0.4:
        first = int(rng.integers(n))
        present[first : first + int(rng.integers(1, n // 4))] = False
    else:
        rng.integers(n, size=2)
    return Draw(
        frequency_hz=frequency_hz,
        pitch_m=pitch_m,
        n_elements=n,
        bandwidth=rng.uniform(*ranges["bandwidth"]),
        cycles=rng.uniform(*ranges["cycles"]),
        f_number=rng.uniform(*ranges["f_number"]),
        tilts_rad=_tilts(rng),
        bubble_m=np.array([*rng.uniform(-0.6, 0.6, size=2) * half, rng.uniform(5e-3, 16e-3)]),
        present=present,
        screen_rad=_screen(rng, n),
    )


def _tilts(rng: np.random.Generator) -> NDArray[np.float64]:
    """1 to 9 plane waves in a cross, 2 to 5 degrees apart."""
    n, step = int(rng.choice([1, 1, 3, 5, 9])), np.deg2rad(rng.uniform(2.0, 5.0))
    arm = np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1], [2, 0], [-2, 0], [0, 2], [0, -2]], dtype=np.float64)
    return arm[:n] * step


def _screen(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """Smooth phase over the receive array, 0 to 45 degrees rms, without mean slope; none in half of the draws."""
    weights = rng.normal(size=(3, 3))
    rms = rng.uniform(0.0, np.pi / 4.0) * (rng.uniform() < 0.5)
    position = (np.arange(n) + 0.5) / n
    waves = np.stack([np.cos(np.pi * k * position) for k in range(1, 4)])
    screen = np.einsum("ij,ix,jy->xy", weights, waves, waves)
    return rms * screen / np.sqrt((screen**2).mean())


def kernel(probe: Draw) -> TabulatedPsf:
    """Image the bubble on the fine grid round it."""
    wavelength = probe.wavelength_m
    axes = [
        np.arange(-(h := round(w / s)), h + 1) * s
        for w, s in zip(HALF_WIDTH_WAVELENGTHS, STEP_WAVELENGTHS, strict=True)
    ]
    voxel_m = probe.bubble_m + np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1) * wavelength
    used = np.tile(probe.present, probe.n_elements)
    image = np.zeros(voxel_m.shape[:3], dtype=np.complex64)
    for tilt in probe.tilts_rad:
        iq, rate = channel_iq(probe, tilt)
        iq *= np.exp(1j * probe.screen_rad.ravel()).astype(np.complex64)
        image += delay_and_sum(
            iq[:, used],
            start_s=0.0,
            sampling_rate_hz=rate,
            demodulation_hz=probe.frequency_hz,
            element_m=probe.element_m[used],
            voxel_m=voxel_m,
            tilt_rad=tilt,
            f_number=probe.f_number,
            sound_speed_m_s=SOUND_SPEED_M_S,
        )
    return tabulated_psf(image, STEP_WAVELENGTHS * wavelength)


def channel_iq(probe: Draw, tilt: Float[np.ndarray, " 2"]) -> tuple[Complex64[np.ndarray, "times elements"], float]:
    """Simulate the channels of one transmit, in baseband; times from when the plane wave passes the origin."""
    import pymust
    from scipy.signal import hilbert

    element_m = probe.element_m
    delay_s = element_m[:, :2] @ np.sin(tilt) / SOUND_SPEED_M_S
    first_s = float(delay_s.min())  # SIMUS3 wants delays from 0 up
    param = pymust.utils.Param()
    param.fc, param.c, param.fs = probe.frequency_hz, SOUND_SPEED_M_S, 4.0 * probe.frequency_hz
    param.bandwidth, param.attenuation, param.TXnow = 100.0 * probe.bandwidth, 0.5, probe.cycles
    param.width = param.height = 0.92 * probe.pitch_m
    param.elements = element_m[:, :2].T
    x, y, z = (np.array([v]) for v in probe.bubble_m)
    echoes = pymust.simus3(x, y, z, np.ones(1), (delay_s - first_s)[None], param)[0]
    echoes = np.pad(echoes, ((0, int(8 * param.fs * 1e-6)), (0, 0)))  # voxels below the bubble need later samples
    time_s = np.arange(len(echoes)) / param.fs
    analytic = hilbert(echoes, axis=0)
    # A delay of first_s is put back by counting time from there.
    baseband = analytic * np.exp(-2j * np.pi * probe.frequency_hz * time_s)[:, None]
    return _started_at(baseband, first_s, param.fs, probe.frequency_hz), param.fs


def _started_at(
    baseband: NDArray[np.complexfloating], start_s: float, rate_hz: float, carrier_hz: float
) -> NDArray[np.complex64]:
    """Shift baseband data that starts at `start_s` (negative) to start at 0, by a phase ramp over frequency."""
    frequency = np.fft.fftfreq(len(baseband), 1.0 / rate_hz) + carrier_hz
    turned = np.fft.fft(baseband, axis=0) * np.exp(-2j * np.pi * frequency * start_s)[:, None]
    return np.fft.ifft(turned, axis=0).astype(np.complex64)


def main(arguments: list[str] | None = None) -> Path:
    """Make the kernels of one family and write them."""
    options = parse(arguments)
    psfs, wavelengths = [], []
    for i in tqdm(range(options.n_kernels), desc="Kernels", disable=None):
        rng = np.random.default_rng(np.random.SeedSequence(options.seed, spawn_key=(i,)))
        probe = draw(rng, options.family)
        psfs.append(kernel(probe))
        wavelengths.append(probe.wavelength_m)
    lam = np.asarray(wavelengths)[:, None]
    with atomic_path(options.output) as temporary:
        np.savez(
            temporary,
            envelope=np.stack([p.envelope for p in psfs]),
            step_wavelengths=STEP_WAVELENGTHS,
            fwhm_wavelengths=np.stack([p.fwhm_m for p in psfs]) / lam,
            carrier_over_2k0=np.stack([p.carrier_rad_m for p in psfs]) * lam / (4.0 * np.pi),
        )
    return Path(options.output)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=sorted(FAMILIES), required=True)
    parser.add_argument("--n_kernels", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--output", required=True, help=".npz")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
