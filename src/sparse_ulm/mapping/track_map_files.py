"""Maps of tracks as NIfTI, by their names in the configs (`NAME_speed.nii.gz`), pictures of density and flow, DICOM."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sparse_ulm.conventions import METRES_PER_MM
from sparse_ulm.errors import UserError
from sparse_ulm.io.dicom_map import SPEED, TRACK_DENSITY, save_dicom_maps
from sparse_ulm.io.dicom_tags import DicomTags
from sparse_ulm.io.nifti import save_sparse_map
from sparse_ulm.mapping.figure import save_projections
from sparse_ulm.mapping.sparse_map import SparseMap
from sparse_ulm.mapping.track_map import TrackMap
from sparse_ulm.mapping.velocity_figure import save_velocity_projections

LABEL = "Microbubble density (tracks per voxel)"


@dataclass(frozen=True)
class MapKind:
    """One kind of map.

    Attributes:
        found: Gives it, in the units of the file.
        description: What it is, with its unit, for the file's header.
        vector_name: Name of the vectors in the header, at most 15 characters; None for numbers.
    """

    found: Callable[[TrackMap], SparseMap]
    description: str
    vector_name: str | None = None


def _per_mm(found: SparseMap) -> SparseMap:
    """Turn metres into millimetres."""
    return found.with_values(found.values / METRES_PER_MM)


MAPS = {
    "density": MapKind(TrackMap.density, "tracks through each voxel, count"),
    "speed": MapKind(lambda m: _per_mm(m.speed()), "mean speed of tracks, mm/s"),
    "velocity": MapKind(lambda m: _per_mm(m.velocity()), "mean velocity, mm/s", "velocity mm/s"),
    "axial_velocity": MapKind(lambda m: _per_mm(m.axial_velocity()), "mean velocity away from the probe, mm/s"),
    "direction": MapKind(TrackMap.direction, "direction of the mean velocity, unit vector", "direction"),
    "counts": MapKind(TrackMap.counts, "localisations in each voxel, count"),
    "uncertainty": MapKind(lambda m: _per_mm(m.uncertainty()), "mean localisation standard deviation, mm"),
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


def write_maps(
    folder: Path, name: str, track_map: TrackMap, *, maps: Sequence[str], dicom: DicomTags | None = None
) -> None:
    """Write `NAME_KIND.nii.gz` of every kind, `NAME_density.png`, and with the axial velocity its picture.

    Args:
        folder: Existing folder.
        name: Of the recording.
        track_map: With all tracks.
        maps: Keys of `MAPS`.
        dicom: Writes `NAME_density.dcm` and `NAME_speed.dcm` too; None does not.

    Raises:
        UserError: If a file cannot be written.
    """
    grid = track_map.geometry.refined(track_map.factor)
    for kind, made in ((kind, MAPS[kind]) for kind in maps):
        path, found = folder / f"{name}_{kind}.nii.gz", made.found(track_map)
        save_sparse_map(path, found, grid, vector_name=made.vector_name, description=made.description)
    save_projections(folder / f"{name}_density.png", track_map.density(), grid, label=LABEL, title=name)
    if "axial_velocity" in maps:
        velocity_mm_s = MAPS["axial_velocity"].found(track_map)
        save_velocity_projections(folder / f"{name}_axial_velocity.png", velocity_mm_s, grid, title=name)
    if dicom is not None:
        found_of = {meaning: MAPS[meaning.label].found(track_map) for meaning in (TRACK_DENSITY, SPEED)}
        save_dicom_maps(folder, name, found_of, grid, dicom)
