"""From simulated channel data to beamformed volumes, and what one bubble looks like in them."""

from dataclasses import dataclass

import numpy as np
from delay_and_sum import delay_and_sum
from esdiva_channels import ChannelSimulator
from jaxtyping import Complex64, Float
from numpy.typing import NDArray

N_CLUTTER_SCATTERERS = 1000

Scene = tuple[NDArray[np.float64], NDArray[np.float64]]
"""(n, 3) positions of scatterers and their (n,) amplitudes."""


@dataclass
class Imager:
    """Images scatterers on a fixed set of voxels: channel data, noise on the channels, delay-and-sum, compounding.

    Attributes:
        simulator: Makes the channel data.
        voxel_m: (..., 3) voxel centres.
        gain: Factor on echoes.
        noise_gain: Factor on the white noise of the channels; 0 for none.
    """

    simulator: ChannelSimulator
    voxel_m: Float[np.ndarray, "*voxels xyz=3"]
    gain: float = 1.0
    noise_gain: float = 0.0

    def images(self, scenes: list[Scene], rng: np.random.Generator) -> Complex64[np.ndarray, "*voxels n"]:
        """Image several scenes, each with new noise: the sum over the plane waves."""
        volumes = np.zeros((*self.voxel_m.shape[:-1], len(scenes)), dtype=np.complex64)
        simulator = self.simulator
        for wave in range(len(simulator.probe.tilts_rad)):
            channels = []
            for position_m, amplitude in scenes:
                spectra = np.float32(self.gain) * simulator.spectrum(position_m, amplitude, wave)
                if self.noise_gain > 0.0:
                    spectra += np.float32(self.noise_gain) * simulator.noise(rng)
                channels.append(simulator.baseband(spectra))
            volumes += self._beamform(np.stack(channels, axis=-1), wave)
        return volumes

    def image(
        self, position_m: Float[np.ndarray, "n xyz=3"], amplitude: Float[np.ndarray, " n"], rng: np.random.Generator
    ) -> Complex64[np.ndarray, "*voxels"]:
        """Image one scene."""
        return self.images([(position_m, amplitude)], rng)[..., 0]

    def set_levels(self, middle_m: Float[np.ndarray, " xyz=3"], rng: np.random.Generator, *, noise_rms: float) -> None:
        """Set the gains: a scatterer of amplitude 1 at `middle_m` has magnitude 1 there, and the noise its rms."""
        there = Imager(self.simulator, middle_m[None])
        self.gain = 1.0 / float(np.abs(there.image(middle_m[None], np.ones(1), rng))[0])
        self.gain, self.noise_gain, echo_gain = 0.0, 1.0, self.gain
        unit = self.image(np.zeros((0, 3)), np.zeros(0), rng)
        self.gain, self.noise_gain = echo_gain, noise_rms / float(np.sqrt((np.abs(unit) ** 2).mean()))

    def _beamform(self, iq: Complex64[np.ndarray, "times elements n"], wave: int) -> NDArray[np.complex64]:
        simulator, probe = self.simulator, self.simulator.probe
        return delay_and_sum(
            iq,
            start_s=simulator.start_s,
            sampling_rate_hz=simulator.sampling_rate_hz,
            demodulation_hz=simulator.demodulation_hz,
            element_m=simulator.element_m,
            voxel_m=self.voxel_m,
            tilt_rad=probe.tilts_rad[wave],
            f_number=probe.f_number,
            sound_speed_m_s=probe.sound_speed_m_s,
        )


def residual_clutter(
    imager: Imager, n_frames: int, frame_rate_hz: float, rng: np.random.Generator, *, rms: float
) -> NDArray[np.complex64]:
    """Make what a clutter filter may leave: two patterns of static speckle that turn into each other at 1 to 5 Hz.

    Args:
        imager: Gives the voxels, and the box in which scatterers lie.
        n_frames: Frames.
        frame_rate_hz: Frames per second.
        rng: Source of all randomness.
        rms: Root of the mean squared magnitude.

    Returns:
        complex64 (*voxels, n_frames).
    """
    box = imager.simulator.box
    quiet = Imager(imager.simulator, imager.voxel_m)
    scenes: list[Scene] = []
    for _ in range(2):
        position = rng.uniform(box.low_m, box.high_m, size=(N_CLUTTER_SCATTERERS, 3))
        scenes.append((position, rng.normal(size=N_CLUTTER_SCATTERERS)))
    angle = 2.0 * np.pi * rng.uniform(1.0, 5.0) / frame_rate_hz * np.arange(n_frames)
    speckle = quiet.images(scenes, rng) @ np.stack([np.cos(angle), np.sin(angle)]).astype(np.complex64)
    return (speckle * (rms / np.sqrt((np.abs(speckle) ** 2).mean()))).astype(np.complex64)


@dataclass(frozen=True)
class PointSpread:
    """One bubble's image, measured on lines through its true position.

    Attributes:
        fwhm_m: (3,) full width at half of the maximum magnitude.
        peak_offset_m: (3,) place of the maximum on the line, minus the true position.
        carrier_over_2k0: (3,) slope of the phase within the half maximum, over 2 k0 of the centre frequency.
    """

    fwhm_m: Float[np.ndarray, " 3"]
    peak_offset_m: Float[np.ndarray, " 3"]
    carrier_over_2k0: Float[np.ndarray, " 3"]


def measure_point_spread(simulator: ChannelSimulator, bubble_m: Float[np.ndarray, " xyz=3"]) -> PointSpread:
    """Image a bubble on three lines through it, two wavelengths to either side in steps of a hundredth."""
    wavelength_m = simulator.probe.wavelength_m
    offset = np.arange(-200, 201) * 0.01 * wavelength_m
    voxel_m = bubble_m + offset[:, None] * np.eye(3)[:, None, :]
    lines = Imager(simulator, voxel_m).image(bubble_m[None], np.ones(1), np.random.default_rng(0))
    widths, peaks, slopes = [], [], []
    for line in lines:
        magnitude = np.abs(line)
        peak = int(magnitude.argmax())
        low, high = _half_way(magnitude[peak::-1]), _half_way(magnitude[peak:])
        inside = slice(peak - int(low), peak + int(high) + 1)
        widths.append((low + high) * 0.01 * wavelength_m)
        peaks.append(offset[peak])
        slopes.append(np.polyfit(offset[inside], np.unwrap(np.angle(line[inside])), 1)[0])
    return PointSpread(np.array(widths), np.array(peaks), np.array(slopes) * wavelength_m / (4.0 * np.pi))


def _half_way(line: Float[np.ndarray, " n"]) -> float:
    """Samples until the line falls to half of its first value, interpolated; its length if it never does."""
    below = np.flatnonzero(line < 0.5 * line[0])
    if below.size == 0:
        return float(len(line) - 1)
    i = int(below[0])
    return float(i - 1 + (line[i - 1] - 0.5 * line[0]) / (line[i - 1] - line[i]))
