"""An output folder made by hand: two tracks that anybody can follow, their maps, tables and manifest."""

import time
from pathlib import Path

import numpy as np

from sparse_ulm.acquisition import Geometry
from sparse_ulm.io.registry import save_recording
from sparse_ulm.io.tables import write_localisations
from sparse_ulm.io.track_files import save_tracks
from sparse_ulm.localisations import Localisations, Trajectories
from sparse_ulm.manifest import DONE, FAILED, Entry, Run
from sparse_ulm.mapping.track_map import TrackMap
from sparse_ulm.mapping.track_map_files import write_maps
from sparse_ulm.provenance import sha256_file, write_provenance

SHAPE, N_FRAMES = (5, 6, 7), 10
GEOMETRY = Geometry.from_voxel_size(
    (0.10e-3, 0.11e-3, 0.09e-3),
    (-0.2e-3, 0.3e-3, 5.0e-3),
    frame_rate_hz=500.0,
    transmit_frequency_hz=8.0e6,
    sound_speed_m_s=1540.0,
)
EVIL = "<script>document.title='stolen'<_script><b>$x_{&\"'"
"""Name of a recording: a tag, an entity, quotes, and what would be a formula."""


def two_tracks() -> Trajectories:
    """One bubble along z in frames 0 to 4, 2 voxels in all; one that rests in frames 3 to 9, in the first one's way."""
    z = np.r_[np.linspace(2.0, 4.0, 5), np.full(7, 3.0)]
    position = np.column_stack([np.full(12, 2.0), np.full(12, 3.0), z])
    velocity = np.zeros((12, 3))
    velocity[:5, 2] = 0.5 * 0.09e-3 * 500.0
    frame = np.r_[0:5, 3:10].astype(np.float64)
    deviation = np.column_stack([np.full(12, 0.1), np.full(12, 0.2), np.full(12, np.nan)])
    return Trajectories(np.r_[np.zeros(5, int), np.ones(7, int)], frame, position, velocity, np.ones(12), deviation)


def write_output(folder: Path, name: str) -> None:
    """Write what a run of the classical pipeline writes of one recording."""
    tracks = two_tracks()
    folder.mkdir(parents=True)
    write_maps(folder, name, TrackMap.of(tracks, GEOMETRY, SHAPE), maps=["density", "speed"])
    order = np.argsort(tracks.frame, kind="stable")
    bubbles = Localisations(
        tracks.frame[order].astype(np.int64),
        tracks.position_voxel[order],
        tracks.amplitude[order],
        tracks.deviation_voxel[order],
    )
    write_localisations(folder / f"{name}_localisations.csv", bubbles, GEOMETRY)
    save_tracks(folder / name, tracks, GEOMETRY, shape=SHAPE, formats=["csv"])


def make_run(folder: Path, *names: str) -> Path:
    """Write an output folder with recordings of these names, and one more that failed."""
    out = folder / "out"
    with Run(out, {}, resume=True, force=False) as run:
        for name in names:
            recording = folder / "in" / f"{name}.npz"
            save_recording(recording, np.zeros((*SHAPE, N_FRAMES), np.complex64), GEOMETRY)
            write_output(out / name, name)
            write_provenance(
                out / name / "provenance.json",
                config={"preset": "gaussian_kalman", "clutter": {"n_tissue_components": 4}, "name": "<i>settings</i>"},
                inputs=[recording],
                weights=None,
                started=time.monotonic(),
            )
            digests = {file.name: sha256_file(file) for file in sorted((out / name).iterdir())}
            run.note(name, Entry(str(recording), DONE, "f", N_FRAMES, 1, 1.25, outputs=digests))
        run.note("bad", Entry("in/bad.npz", FAILED, error="bad.npz: 3 <NaN> samples; wanted finite IQ."))
    return out
