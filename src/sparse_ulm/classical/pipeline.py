"""The conventional pipeline on one recording: filter, detect, localise, link, smooth, count; block by block."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from sparse_ulm.acquisition import Acquisition, Geometry, block_ranges, memory_runs
from sparse_ulm.classical.detection import find_bubbles
from sparse_ulm.classical.kalman import scanner_deviation_m
from sparse_ulm.classical.linking import Linker
from sparse_ulm.classical.localisation import localise
from sparse_ulm.classical.presets import Preset
from sparse_ulm.classical.smoothing import fill_gaps, smooth, smooth_along_bends
from sparse_ulm.conventions import Frames
from sparse_ulm.errors import UserError
from sparse_ulm.localisations import Localisations, Trajectories
from sparse_ulm.mapping.track_map import TrackMap
from sparse_ulm.sparsify import measure_noise_rms


@dataclass(frozen=True)
class Recorded:
    """What the pipeline must know of a recording that no file says.

    Attributes:
        block_frames: Frames that are read together.
        noise_measure: How the noise is measured (`sparsify.measure_noise_rms`).
        psf_fwhm_wavelengths: Full widths at half maximum of the PSF's envelope along x, y and z.
        max_run_megabytes: Of samples that are looked at together, complex64: a larger block is divided into runs of
            frames, each with the noise of its own.
    """

    block_frames: int
    noise_measure: str
    psf_fwhm_wavelengths: tuple[float, float, float]
    max_run_megabytes: float | int = 256

    def __post_init__(self) -> None:
        """Refuse widths that no PSF has.

        Raises:
            UserError: If a width or the size of a run is not positive.
        """
        if not self.max_run_megabytes > 0:
            raise UserError(f"max_run_megabytes is {self.max_run_megabytes}; wanted a positive number. Correct it.")
        if not all(width > 0 for width in self.psf_fwhm_wavelengths):
            raise UserError(f"psf_fwhm_wavelengths is {self.psf_fwhm_wavelengths}; wanted positive widths. Correct it.")

    def psf_fwhm_voxel(self, geometry: Geometry) -> tuple[float, float, float]:
        """Give the PSF's widths in voxels."""
        widths = np.asarray(self.psf_fwhm_wavelengths) * geometry.wavelength_m / geometry.voxel_size_m
        x, y, z = widths.tolist()
        return x, y, z


NO_LOCALISATIONS = Localisations(
    np.zeros(0, dtype=np.int64), np.zeros((0, 3)), np.zeros(0), np.full((0, 3), np.nan)
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """What comes of a recording.

    Attributes:
        localisations: All bubbles, linked or not.
        tracks: Those that were followed, smoothed, one sample per frame.
        map: Density, velocities and the rest on the super-resolved grid.
    """

    localisations: Localisations
    tracks: Trajectories
    map: TrackMap


def process(acquisition: Acquisition, preset: Preset, recorded: Recorded) -> Result:
    """Run the pipeline on a whole recording; tracks run on from block to block.

    Args:
        acquisition: The recording, behind its clutter filter (`filtered.filtered`); frames are read a block at a time.
        preset: How bubbles are found and followed.
        recorded: What no file says.

    Raises:
        UserError: If a setting is impossible or frames cannot be read.
    """
    ranges = block_ranges(acquisition.n_frames, recorded.block_frames)
    parts = (localise_frames(acquisition, preset, recorded, start=start, stop=stop) for start, stop in ranges)
    return link(acquisition, parts, preset)


def link(acquisition: Acquisition, parts: Iterable[Localisations], preset: Preset) -> Result:
    """Link and smooth the bubbles of a recording's blocks, and map their tracks.

    Args:
        acquisition: The recording.
        parts: Bubbles by block, in order of time.
        preset: How bubbles are followed.

    Raises:
        UserError: If a setting is impossible.
    """
    linker, found = make_linker(preset, acquisition.geometry), [NO_LOCALISATIONS]
    for part in parts:
        linker.add(part)
        found.append(part)
    localisations = join(found)
    tracks = smooth_tracks(linker, localisations, preset)
    return Result(localisations, tracks, TrackMap.of(tracks, acquisition.geometry, acquisition.shape[:3]))


def localise_frames(
    acquisition: Acquisition, preset: Preset, recorded: Recorded, *, start: int, stop: int
) -> Localisations:
    """Localise the bubbles of the frames `start` to `stop` - 1 of a recording, as many at a time as memory allows."""
    runs = memory_runs(start, stop, n_bytes=1e6 * recorded.max_run_megabytes, shape=acquisition.shape[:3])
    return join(
        localise_block(acquisition.frames(first, last), acquisition.geometry, preset, recorded, start=first)
        for first, last in runs
    )


def localise_block(
    frames: Frames, geometry: Geometry, preset: Preset, recorded: Recorded, *, start: int = 0
) -> Localisations:
    """Localise the bubbles of a block.

    Args:
        frames: The block.
        geometry: Of the recording.
        preset: How bubbles are found.
        recorded: Noise and PSF.
        start: Frame of the recording that the block begins with.
    """
    iq = torch.from_numpy(np.ascontiguousarray(frames))
    noise_rms = measure_noise_rms(iq, noise_measure=recorded.noise_measure)
    magnitude, psf_fwhm_voxel = iq.abs().numpy(), recorded.psf_fwhm_voxel(geometry)
    peaks = find_bubbles(
        magnitude,
        psf_fwhm_voxel=psf_fwhm_voxel,
        noise_rms=noise_rms,
        noise_factor=preset.noise_factor,
        n_brightest=preset.n_brightest,
        side_lobe_ratio=preset.side_lobe_ratio,
        local_contrast_db=preset.local_contrast_db,
        n_local_maxima=preset.n_local_maxima,
        drop_border=preset.drop_border,
    )
    found = localise(magnitude, peaks, method=preset.localisation, psf_fwhm_voxel=psf_fwhm_voxel, noise_rms=noise_rms)
    return Localisations(found.frame + start, found.position_voxel, found.amplitude, found.deviation_voxel)


def make_linker(preset: Preset, geometry: Geometry) -> Linker:
    """Make the linker that a preset describes."""
    return Linker(
        geometry=geometry,
        max_speed_m_s=preset.max_speed(frame_rate_hz=geometry.frame_rate_hz, wavelength_m=geometry.wavelength_m),
        max_gap_frames=preset.max_gap_frames,
        min_length=preset.min_length,
        method=preset.linking,  # type: ignore[arg-type]  # the linker refuses other names
        acceleration_m_s2=preset.acceleration_m_s2,
    )


def smooth_tracks(linker: Linker, localisations: Localisations, preset: Preset) -> Trajectories:
    """Fill gaps and smooth as a preset says.

    Args:
        linker: That has linked all localisations.
        localisations: In the order that the linker was given them.
        preset: Smooths by span, or by bends where it has no span.

    Raises:
        UserError: If the preset has neither.
    """
    raw, geometry = linker.finish(), linker.geometry
    if preset.smooth_span is not None:
        return smooth(fill_gaps(raw), geometry, span=preset.smooth_span)
    if preset.bend_radius_m is None:
        raise UserError("smooth_span and bend_radius_m are both null; wanted one of them. Set one.")
    deviation_m = scanner_deviation_m(localisations.deviation_voxel[linker.linked()], geometry)
    return smooth_along_bends(raw, deviation_m, geometry, bend_radius_m=preset.bend_radius_m)


def join(parts: Iterable[Localisations]) -> Localisations:
    """Put the localisations of consecutive blocks into one table."""
    parts = list(parts)
    column = partial(_column, parts)
    return Localisations(column("frame"), column("position_voxel"), column("amplitude"), column("deviation_voxel"))


def _column(parts: list[Localisations], name: str) -> np.ndarray:
    """Join one column of all parts; a recording has at least one block."""
    return np.concatenate([getattr(part, name) for part in parts])
