"""Tracks as VTK PolyData `.vtp`, for 3D Slicer and ParaView: one polyline per track.

Coordinates are the millimetres of our NIfTI files (RAS), not turned into LPS. 3D Slicer takes a model to be LPS unless
the file says otherwise; the field "SPACE" with the value "RAS" says so, as in the files that Slicer writes itself
(vtkMRMLModelStorageNode.cxx of Slicer, and its announcement "Model files are now saved in LPS coordinate system").
ParaView shows the numbers as they are.

Values are float64: what is read is what was written, but for the rounding of millimetres to voxels.
"""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Float, Int

from sparse_ulm.acquisition import Geometry
from sparse_ulm.errors import RecordingError
from sparse_ulm.io.atomic import atomic_path
from sparse_ulm.io.damage import reading
from sparse_ulm.io.track_samples import TrackSamples
from sparse_ulm.io.vtk_xml import ROOT, VtkXml, array_element, string_element
from sparse_ulm.localisations import Trajectories

SPACE = "RAS"
_SIGNS = {"RAS": (1.0, 1.0, 1.0), "LPS": (-1.0, -1.0, 1.0)}


def write_vtp(path: Path, trajectories: Trajectories, geometry: Geometry, shape: tuple[int, int, int]) -> None:
    """Write tracks with, per point, frame, time_s, velocity_mm_s, amplitude, deviation_mm; per cell, track_id.

    A track of one point is a vertex, for VTK's filters want two points in a line.

    Args:
        path: The file; it appears whole or not at all.
        trajectories: Tracks in voxels of the recording, sorted by track and then by time.
        geometry: Of the recording.
        shape: Of the recording; not needed here, but all formats are written alike.

    Raises:
        UserError: If the file cannot be written.
    """
    samples = TrackSamples.of(trajectories, geometry)
    starts = np.flatnonzero(np.r_[True, np.diff(samples.track_id) != 0][: len(trajectories)])
    length = np.diff(np.r_[starts, len(trajectories)])
    is_vertex = length == 1
    in_vertex = np.repeat(is_vertex, length)
    verts, lines = np.flatnonzero(in_vertex), np.flatnonzero(~in_vertex)
    # VTK numbers the cells of a file verts first, then lines.
    track_id = trajectories.track_id[np.r_[starts[is_vertex], starts[~is_vertex]]]
    point_data = {
        "frame": samples.frame,
        "time_s": samples.frame / geometry.frame_rate_hz,
        "velocity_mm_s": samples.velocity_mm_s,
        "amplitude": samples.amplitude,
        "deviation_mm": samples.deviation_mm,
    }
    elements = [
        '<?xml version="1.0"?>',
        ROOT.format(kind="PolyData"),
        f"<PolyData><FieldData>{string_element('SPACE', SPACE)}</FieldData>",
        f'<Piece NumberOfPoints="{len(trajectories)}" NumberOfVerts="{len(verts)}" '
        f'NumberOfLines="{int((~is_vertex).sum())}" NumberOfStrips="0" NumberOfPolys="0">',
        '<PointData Vectors="velocity_mm_s">',
        *(array_element(name, values) for name, values in point_data.items()),
        f"</PointData><CellData>{array_element('track_id', track_id)}</CellData>",
        f"<Points>{array_element('Points', samples.position_mm)}</Points>",
        _cells("Verts", verts, np.ones(len(verts), dtype=np.int64)),
        _cells("Lines", lines, length[~is_vertex]),
        "</Piece></PolyData></VTKFile>",
    ]
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(elements) + "\n", encoding="ascii")


def read_vtp(path: Path, geometry: Geometry) -> Trajectories:
    """Read tracks, sorted by track and then by time; also from files that Slicer or ParaView saved.

    Args:
        path: PolyData of one piece with lines (and vertices), field SPACE (RAS or LPS), and frame or time_s per point.
            Cells without track_id are numbered as they come; cells of one track_id are one track; what else is missing
            is NaN.
        geometry: Of the recording.

    Raises:
        RecordingError: If the file cannot be read, does not say its space, has neither frame nor time_s, or a number is
            not finite.
    """
    with reading(path, as_format="VTK XML PolyData"):
        file = VtkXml(path)
        space = file.text("SPACE")
        if space not in _SIGNS:
            raise RecordingError(
                f"{path.name}: field SPACE is {space!r}; wanted RAS or LPS, which differ in signs. Add the field."
            )
        samples = _read_piece(path, file, geometry, np.asarray(_SIGNS[space]))
    return samples.trajectories(geometry, where=f"{path.name} point", first_row=0)


def _read_piece(path: Path, file: VtkXml, geometry: Geometry, signs: Float[np.ndarray, " 3"]) -> TrackSamples:
    """Read the one piece of a file, cell by cell: the order of its points says nothing."""
    [piece] = file.root.iter("Piece")
    points, per_cell = file.arrays(piece.find("PointData")), file.arrays(piece.find("CellData"))
    rows, length = _cells_of(file, piece)
    if not len(rows):
        return TrackSamples.none()
    if "frame" not in points and "time_s" not in points:
        raise RecordingError(
            f"{path.name}: has {', '.join(sorted(points)) or 'nothing'} per point; wanted frame or time_s. Add one."
        )
    frame = points["frame"] if "frame" in points else points["time_s"] * geometry.frame_rate_hz
    track_id = per_cell["track_id"][: len(length), 0] if "track_id" in per_cell else np.arange(len(length))
    unknown = np.full((len(frame), 3), np.nan)
    return TrackSamples(
        np.repeat(track_id, length).astype(np.float64),
        frame[rows, 0].astype(np.float64),
        file.arrays(piece.find("Points"))["Points"][rows] * signs,
        points.get("velocity_mm_s", unknown)[rows] * signs,
        points.get("amplitude", unknown)[rows, 0].astype(np.float64),
        points.get("deviation_mm", unknown)[rows].astype(np.float64),
    )


def _cells_of(file: VtkXml, piece: ElementTree.Element) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " cells"]]:
    """Give the points of all vertices and lines, cell after cell, and the number of points of each cell."""
    rows, length = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for kind in ("Verts", "Lines"):
        cells = file.arrays(piece.find(kind))
        if "connectivity" in cells:
            rows.append(cells["connectivity"][:, 0].astype(np.int64))
            length.append(np.diff(np.r_[0, cells["offsets"][:, 0].astype(np.int64)]))
    return np.concatenate(rows), np.concatenate(length)


def _cells(kind: str, rows: Int[np.ndarray, " m"], length: Int[np.ndarray, " cells"]) -> str:
    """Give the element of all cells of one kind: their points, and where each cell ends."""
    offsets = np.cumsum(length).astype(np.int64)
    return f"<{kind}>{array_element('connectivity', rows)}{array_element('offsets', offsets)}</{kind}>"
