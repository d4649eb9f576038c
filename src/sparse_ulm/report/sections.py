"""What the page says of one recording: facts, pictures, plots, and the map for the viewer."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from nibabel.filebasedimages import ImageFileError

from sparse_ulm.acquisition import Acquisition
from sparse_ulm.conventions import METRES_PER_MM
from sparse_ulm.errors import UserError
from sparse_ulm.report.bubbles import Bubbles, Tracks, first_visits_s, read_bubbles, read_tracks
from sparse_ulm.report.pictures import drawn_pictures, written_pictures
from sparse_ulm.report.plots import (
    Picture,
    plot_bubbles_per_frame,
    plot_deviations,
    plot_filling,
    plot_speeds,
    plot_track_lengths,
)
from sparse_ulm.report.volumes import ReadMap, ViewerVolume, read_map, viewer_volume
from sparse_ulm.run_facts import RecordingFacts

T = TypeVar("T")

DAMAGE = (UserError, OSError, ValueError, EOFError, zlib.error, ImageFileError)
"""What reading a damaged file raises: the rest of the page is made all the same."""


@dataclass
class Section:
    """What the page says of one recording.

    Attributes:
        recording: Its facts.
        counts: Numbers of frames, bubbles, tracks, visited voxels, by their labels; None where not known.
        facts: Further lines of text, by their labels.
        pictures: Of the maps.
        plots: Of their quality.
        volume: For the viewer; None where there is no map, or no room for it.
        notes: What a reader must know.
        is_short: True where the page had no room for pictures, plots and the map.
    """

    recording: RecordingFacts
    counts: dict[str, int | None] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    pictures: list[Picture] = field(default_factory=list)
    plots: list[Picture] = field(default_factory=list)
    volume: ViewerVolume | None = None
    notes: list[str] = field(default_factory=list)
    is_short: bool = False

    @property
    def n_bytes(self) -> int:
        """What it adds to the page, before pictures are encoded."""
        pictures = sum(len(one.png) for one in (*self.pictures, *self.plots))
        return pictures + (0 if self.volume is None else len(self.volume.base64))


def describe(recording: RecordingFacts, *, is_short: bool) -> Section:
    """Make the section of a recording.

    Args:
        recording: Its facts.
        is_short: Leave out pictures, plots and the map.
    """
    section = Section(recording, notes=list(recording.notes), is_short=is_short)
    if not recording.is_done:
        return section
    found = _Tables(section)
    _add_facts(section, found)
    if is_short:
        return section
    section.pictures += _attempt(section, lambda: written_pictures(recording)) or []
    section.pictures += _attempt(section, lambda: drawn_pictures(recording)) or []
    density = found.density
    if density is not None and len(density.values.values):
        section.volume = _attempt(section, lambda: viewer_volume(density))
    _add_plots(section, found)
    return section


class _Tables:
    """Files of a recording, each read once; None where there is none or it is damaged, which the section notes."""

    def __init__(self, section: Section) -> None:
        recording = section.recording
        self.acquisition: Acquisition | None = recording.open()
        self.bubbles: Bubbles | None = _attempt(section, lambda: read_bubbles(recording.file("localisations.csv")))
        self.tracks: Tracks | None = _attempt(section, lambda: read_tracks(recording.file("tracks.csv")))
        path = recording.file("density.nii.gz")
        self.density: ReadMap | None = _attempt(section, lambda: read_map(path)) if path.is_file() else None
        known = 0 if self.acquisition is None else self.acquisition.n_frames
        self.n_frames = recording.entry.n_frames or known

    def frame_rate_hz(self) -> float | None:
        """Give the frame rate, of the recording or, to the digits of its times, of the table of tracks."""
        if self.acquisition is not None:
            return self.acquisition.geometry.frame_rate_hz
        if self.tracks is None or not len(self.tracks.time_s):
            return None
        last = int(np.argmax(self.tracks.time_s))
        time_s = float(self.tracks.time_s[last])
        return float(self.tracks.frame[last]) / time_s if time_s > 0 else None


def _add_facts(section: Section, found: _Tables) -> None:
    """Add numbers and lines of text."""
    bubbles, tracks, density, rate_hz = found.bubbles, found.tracks, found.density, found.frame_rate_hz()
    section.counts = {
        "frames": found.n_frames or None,
        "bubbles": None if bubbles is None else len(bubbles.frame),
        "tracks": None if tracks is None else len(tracks.first),
        "visited voxels": None if density is None else len(density.values.values),
    }
    facts = {"Input": section.recording.entry.path, "Method": section.recording.method}
    facts |= _acquisition_facts(found.acquisition)
    if rate_hz is not None and found.n_frames:
        facts["Duration"] = f"{found.n_frames / rate_hz:.4g} s ({found.n_frames} frames at {rate_hz:.6g} Hz)"
    if density is not None:
        x, y, z = density.values.shape
        size_um = np.linalg.norm(density.affine_mm[:3, :3], axis=0) * 1.0e3
        facts["Map"] = f"{x} × {y} × {z} voxels of {size_um[0]:.4g} × {size_um[1]:.4g} × {size_um[2]:.4g} µm"
        if not len(density.values.values):
            section.notes.append(f"{section.recording.name}: the density map is empty.")
    section.facts = {label: text for label, text in facts.items() if text}


def _acquisition_facts(acquisition: Acquisition | None) -> dict[str, str]:
    """Tell of the recording, where it still lies where the run found it."""
    if acquisition is None:
        return {"Recording": "not where the run found it; its grid and rates are not shown"}
    (x, y, z, _), geometry = acquisition.shape, acquisition.geometry
    size = " × ".join(f"{step / METRES_PER_MM:.4g}" for step in geometry.voxel_size_m)
    return {
        "Recording": f"{x} × {y} × {z} voxels of {size} mm",
        "Transmit frequency": f"{geometry.transmit_frequency_hz / 1.0e6:.5g} MHz",
        "Sound speed": f"{geometry.sound_speed_m_s:.5g} m/s",
        "Wavelength": f"{geometry.wavelength_m * 1.0e6:.4g} µm",
    }


def _add_plots(section: Section, found: _Tables) -> None:
    """Add the plots that the method has data for."""
    bubbles, tracks, density = found.bubbles, found.tracks, found.density
    made: list[Picture | None] = []
    if bubbles is not None and len(bubbles.frame):
        n_frames = found.n_frames or int(bubbles.frame.max()) + 1
        made.append(plot_bubbles_per_frame(bubbles, tracks, n_frames=n_frames))
        made.append(plot_deviations(bubbles))
    if tracks is not None and len(tracks.first):
        made += [plot_track_lengths(tracks), plot_speeds(tracks)]
        rate_hz = found.frame_rate_hz()
        if density is not None and rate_hz is not None and found.n_frames:
            visits = first_visits_s(tracks, density.affine_mm, density.values.shape)
            made.append(plot_filling(visits, duration_s=found.n_frames / rate_hz))
    section.plots = [one for one in made if one is not None]


def _attempt(section: Section, make: Callable[[], T]) -> T | None:
    """Make a part of the section; a damaged file is noted and stops no other part."""
    try:
        return make()
    except DAMAGE as error:
        section.notes.append(f"{section.recording.name}: {' '.join(str(error).split())}")
        return None
