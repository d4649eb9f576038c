"""Maps drawn again from files of tracks; the function that configs/redraw.yaml calls."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sparse_ulm.acquisition import Acquisition, Geometry
from sparse_ulm.blocks import with_distinct_names
from sparse_ulm.classical.smoothing import with_velocity
from sparse_ulm.errors import UserError
from sparse_ulm.io.atomic import whole_folder
from sparse_ulm.io.dicom_tags import DicomTags
from sparse_ulm.io.registry import find_recordings, open_recordings
from sparse_ulm.io.track_files import find_tracks, load_tracks
from sparse_ulm.localisations import Trajectories
from sparse_ulm.mapping.track_map import TrackMap
from sparse_ulm.mapping.track_map_files import require_maps, write_maps
from sparse_ulm.provenance import write_provenance


def redraw_folder(
    tracks: str | Path,
    recording: str | Path,
    output_dir: str | Path,
    *,
    maps: str | Sequence[str],
    geometry: dict[str, Any],
    dicom: bool = False,
    dicom_tags: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Draw the maps of all recordings from their tracks and write `OUTPUT_DIR/NAME/` for each.

    The grid comes from the recording rather than from an older map: tracks have times and voxels of the recording, and
    a map says no frame rate. Frames are not read.

    Args:
        tracks: Folder in which `track_files.find_tracks` looks, or the file of the one recording.
        recording: Folder of recordings, or one recording.
        output_dir: Where the folders go; another one than that of the tracks, for `provenance.json` would be replaced.
        maps: Kinds of maps (`track_map_files.MAPS`); density is always written.
        geometry: Keyword overrides for `io.open_recording`.
        dicom: Write density and speed as DICOM too.
        dicom_tags: What they say of patient and study (`dicom_tags.ALLOWED_TAGS`).

    Returns:
        The folders written.

    Raises:
        UserError: If a kind of map is unknown, tracks or a recording are missing or cannot be read, or the maps would
            be written to the folder of the tracks.
    """
    wanted, tags = require_maps(maps), DicomTags.of(dicom, dicom_tags)
    opened = [one for path in find_recordings(recording) for one in open_recordings(path, **geometry)]
    acquisitions = with_distinct_names(opened)
    if Path(tracks).is_file() and len(acquisitions) > 1:
        raise UserError(
            f"tracks {tracks} is one file, and recording {recording} holds {len(acquisitions)} recordings; wanted one. "
            "Pass --recording FILE."
        )
    files = [Path(tracks) if Path(tracks).is_file() else find_tracks(tracks, one.name) for one in acquisitions]
    folders = [Path(output_dir) / one.name for one in acquisitions]
    for file, folder in zip(files, folders, strict=True):
        if folder.resolve() == file.resolve().parent:
            raise UserError(
                f"{folder} holds the tracks; its provenance.json would be lost. Choose another --output_dir."
            )
    for acquisition, file, folder in zip(acquisitions, files, folders, strict=True):
        _redraw(acquisition, file, folder, maps=wanted, geometry=geometry, dicom=tags)
    return folders


def _redraw(
    acquisition: Acquisition,
    file: Path,
    folder: Path,
    *,
    maps: tuple[str, ...],
    geometry: dict[str, Any],
    dicom: DicomTags | None,
) -> None:
    """Write the maps of one recording."""
    started, grid = time.monotonic(), acquisition.geometry
    found = _complete(load_tracks(file, grid), grid)
    with whole_folder(folder) as temporary:
        track_map = TrackMap.of(found, grid, acquisition.shape[:3])
        write_maps(temporary, acquisition.name, track_map, maps=maps, dicom=dicom)
        write_provenance(
            temporary / "provenance.json",
            config={
                "method": "redraw",
                "maps": maps,
                "recording": acquisition.path,
                "affine_m": grid.affine_m,
                "frame_rate_hz": grid.frame_rate_hz,
                "geometry_overrides": geometry,
                **DicomTags.told(dicom),
            },
            inputs=[file],  # the frames are not read: hashing them would take longer than drawing
            weights=None,
            started=started,
        )


def _complete(tracks: Trajectories, geometry: Geometry) -> Trajectories:
    """Take velocities that a file does not hold from its positions."""
    is_known = np.isfinite(tracks.velocity_m_s).all(axis=1)
    found = with_velocity(tracks, geometry).velocity_m_s
    return replace(tracks, velocity_m_s=np.where(is_known[:, None], tracks.velocity_m_s, found))
