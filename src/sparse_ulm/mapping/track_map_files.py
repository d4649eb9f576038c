"""Maps of tracks as NIfTI, by their names in the configs (`NAME_speed.nii.gz`), and pictures of density and flow."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sparse_ulm.conventions import METRES_PER_MM
from sparse_ulm.errors import UserError
from sparse_ulm.io.nifti import save_map, save_vector_map
from sparse_ulm.mapping.figure import save_projections
from sparse_ulm.mapping.track_map import TrackMap
from sparse_ulm.mapping.velocity_figure import save_velocity_projections

LABEL = "Microbubble density (tracks per voxel)"


@dataclass(frozen=True)
class MapKind:
    """One kind of map.

    Attributes:
        values: Gives it, in the units of the file.
        description: What it is, with its unit, for the file's header.
        vector_name: Name of the vectors in the header, at most 15 characters; None for numbers.
    """

    values: Callable[[TrackMap], np.ndarray]
    description: str
    vector_name: str | None = None


MAPS = {
    "density": MapKind(TrackMap.density, "tracks through each voxel, count"),
    "speed": MapKind(lambda m: m.speed() / METRES_PER_MM, "mean speed of tracks, mm/s"),
    "velocity": MapKind(lambda m: m.velocity() / METRES_PER_MM, "mean velocity, mm/s", "velocity mm/s"),
    "axial_velocity": MapKind(lambda m: m.axial_velocity() / METRES_PER_MM, "mean velocity away from the probe, mm/s"),
    "direction": MapKind(TrackMap.direction, "direction of the mean velocity, unit vector", "direction"),
    "counts": MapKind(TrackMap.counts, "localisations in each voxel, count"),
    "uncertainty": MapKind(lambda m: m.uncertainty() / METRES_PER_MM, "mean localisation standard deviation, mm"),
}
"""By their names; lengths and speeds in mm and mm/s. `track_map` says what is NaN."""


def require_maps(names: str | Sequence[str]) -> tuple[str, ...]:
    """Check names of maps before any work is done, and put density in front: it is always written.

    Raises:
        UserError: If one is unknown.

    >>> require_maps(["speed"])
    ('density', 'speed')
    """
    wanted = [names] if isinstance(names, str) else list(names)
    unknown = [name for name in wanted if name not in MAPS]
    if unknown:
        raise UserError(f"maps names {unknown[0]!r}; wanted some of {', '.join(MAPS)}. Correct it.")
    return tuple(dict.fromkeys(["density", *wanted]))


def write_maps(folder: Path, name: str, track_map: TrackMap, *, maps: Sequence[str]) -> None:
    """Write `NAME_KIND.nii.gz` of every kind, `NAME_density.png`, and with the axial velocity its picture.

    Args:
        folder: Existing folder.
        name: Of the recording.
        track_map: With all tracks.
        maps: Keys of `MAPS`.

    Raises:
        UserError: If a file cannot be written.
    """
    grid = track_map.geometry.refined(track_map.factor)
    for kind, made in ((kind, MAPS[kind]) for kind in maps):
        path, values = folder / f"{name}_{kind}.nii.gz", made.values(track_map)
        if made.vector_name is None:
            save_map(path, values, grid, description=made.description)
        else:
            save_vector_map(path, values, grid, name=made.vector_name, description=made.description)
    save_projections(folder / f"{name}_density.png", track_map.density(), grid, label=LABEL, title=name)
    if "axial_velocity" in maps:
        velocity_mm_s = MAPS["axial_velocity"].values(track_map)
        save_velocity_projections(folder / f"{name}_axial_velocity.png", velocity_mm_s, grid, title=name)
