"""Files of tracks: every format gives back what was written, and other programs read the right millimetres."""

import sys

import jaxtyping
import nibabel
import numpy as np
import pytest
import SimpleITK
import vtk
from nibabel.affines import apply_affine
from track_file_cases import GEOMETRIES, SHAPE, some_tracks
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from sparse_ulm.conventions import refinement
from sparse_ulm.errors import RecordingError, UserError
from sparse_ulm.io.nifti import save_map
from sparse_ulm.io.track_files import TRACK_FORMATS, find_tracks, load_tracks, require_track_formats, save_tracks
from sparse_ulm.localisations import Trajectories

ALL = tuple(TRACK_FORMATS)
OBLIQUE = GEOMETRIES["oblique"]
NM_IN_VOXELS = 1.0e-9 / 0.05e-3
"""A nanometre in the finest voxels: the last digit of the table."""

TOLERANCE = {
    # A table has nanometres and six digits; .trk has float32, 4 nm at 80 mm, through two affines of float32.
    "csv": {"position_voxel": NM_IN_VOXELS, "deviation_voxel": NM_IN_VOXELS, "velocity_m_s": 1e-9, "amplitude": 1e-5},
    "trk": {"position_voxel": 40 * NM_IN_VOXELS, "deviation_voxel": 1e-6, "velocity_m_s": 1e-8, "amplitude": 1e-6},
    "parquet": dict.fromkeys(("position_voxel", "deviation_voxel", "velocity_m_s", "amplitude"), 1e-11),
    "vtp": dict.fromkeys(("position_voxel", "deviation_voxel", "velocity_m_s", "amplitude"), 1e-11),
}


def write(folder, tracks, geometry, *formats):
    save_tracks(folder / "rec", tracks, geometry, shape=SHAPE, formats=formats)
    return folder / f"rec_tracks.{formats[-1]}"


def assert_same(read, tracks, name):
    np.testing.assert_array_equal(read.track_id, tracks.track_id)
    np.testing.assert_array_equal(read.frame, tracks.frame)
    for column, tolerance in TOLERANCE[name].items():
        np.testing.assert_allclose(
            getattr(read, column), getattr(tracks, column), atol=tolerance, rtol=tolerance, err_msg=column
        )


@pytest.mark.parametrize("where", GEOMETRIES)
@pytest.mark.parametrize("name", ALL)
def test_what_is_written_is_read(tmp_path, name, where):
    tracks = some_tracks(5, 1, 2, 7, 1, 1, 30)
    path = write(tmp_path, tracks, GEOMETRIES[where], name)
    assert_same(load_tracks(path, GEOMETRIES[where]), tracks, name)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("lengths", [(), (1,), (1, 1)], ids=["none", "one point", "two points"])
def test_few_points_are_tracks_too(tmp_path, name, lengths):
    tracks = some_tracks(*lengths)
    assert_same(load_tracks(write(tmp_path, tracks, OBLIQUE, name), OBLIQUE), tracks, name)


def test_csv_comes_first_and_unknown_formats_are_refused(monkeypatch):
    assert require_track_formats(["vtp", "csv", "trk"]) == ("csv", "vtp", "trk")
    assert require_track_formats("trk") == ("csv", "trk")
    assert require_track_formats([]) == ("csv",)
    with pytest.raises(UserError, match=r"^track_formats names 'tck'; wanted some of csv, parquet, trk, vtp"):
        require_track_formats(["trk", "tck"])
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=r"^[^\n]*pyarrow, which is not installed; run `pip install pyarrow`"):
        require_track_formats(["parquet"])


def test_tracks_are_found_where_they_are_written(tmp_path):
    tracks = some_tracks(3, 4)
    in_folder, beside = tmp_path / "rec", tmp_path
    in_folder.mkdir()
    write(beside, tracks, OBLIQUE, "trk")
    assert find_tracks(tmp_path, "rec") == tmp_path / "rec_tracks.trk"
    write(in_folder, tracks, OBLIQUE, "vtp", "csv")
    assert find_tracks(tmp_path, "rec") == in_folder / "rec_tracks.csv"
    with pytest.raises(RecordingError, match="holds no tracks of other"):
        find_tracks(tmp_path, "other")
    with pytest.raises(RecordingError, match=r"rec\.tck: no file of tracks"):
        load_tracks(tmp_path / "rec.tck", OBLIQUE)
    with pytest.raises(RecordingError, match=r"none_tracks\.vtp: no such file"):
        load_tracks(tmp_path / "none_tracks.vtp", OBLIQUE)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("damage", ["empty", "half", "noise"])
def test_a_damaged_file_is_one_line(tmp_path, name, damage, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    path = write(tmp_path, some_tracks(5, 6), OBLIQUE, name)
    content = path.read_bytes()
    noise = np.random.default_rng(0).integers(0, 256, 3000, dtype=np.uint8).tobytes()
    # Half a table of numbers still is one, but for its last line.
    path.write_bytes({"empty": b"", "half": content[: len(content) // 2], "noise": noise}[damage])
    with pytest.raises(RecordingError) as caught:
        load_tracks(path, OBLIQUE)
    assert str(caught.value).startswith("rec_tracks.")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["csv", "trk", "vtp", "parquet"])
def test_positions_that_are_not_finite_are_refused(tmp_path, name):
    tracks = some_tracks(3, 4)
    tracks.position_voxel[5, 1] = np.nan
    with pytest.raises(RecordingError, match=r"rec_tracks\.\w+ \w+ \d+: track_id, frame and position are .*nan"):
        load_tracks(write(tmp_path, tracks, OBLIQUE, name), OBLIQUE)


def test_numbers_that_trk_cannot_hold_are_refused(tmp_path):
    tracks = some_tracks(3)
    tracks.track_id[:] = 2**24 + 1
    with pytest.raises(UserError, match=r"track_id reaches 16777217, and \.trk holds .* Write csv or vtp"):
        write(tmp_path, tracks, OBLIQUE, "trk")
    assert_same(load_tracks(write(tmp_path, tracks, OBLIQUE, "vtp"), OBLIQUE), tracks, "vtp")


def test_tractograms_of_others_are_completed(tmp_path):
    """Streamlines with times alone, in another voxel order than ours."""
    streamlines = [np.array([[1.0, 2, 3], [1.5, 2, 3]]), np.array([[4.0, 5, 6]])]
    times = [np.array([[0.004], [0.006]]), np.array([[0.0]])]
    tractogram = nibabel.streamlines.Tractogram(
        streamlines, data_per_point={"time_s": times}, affine_to_rasmm=np.eye(4)
    )
    nibabel.streamlines.save(tractogram, tmp_path / "a.trk", header={"voxel_order": b"LPS", "dimensions": (9, 9, 9)})
    tracks = load_tracks(tmp_path / "a.trk", OBLIQUE)
    assert tracks.track_id.tolist() == [0, 0, 1]
    np.testing.assert_allclose(tracks.frame, [2, 3, 0], rtol=1e-6)
    np.testing.assert_allclose(OBLIQUE.to_scanner_m(tracks.position_voxel) * 1e3, np.vstack(streamlines), atol=1e-6)
    assert np.isnan(tracks.velocity_m_s).all()
    del tractogram.data_per_point["time_s"]
    nibabel.streamlines.save(tractogram, tmp_path / "b.trk")
    with pytest.raises(RecordingError, match="has nothing per point; wanted frame or time_s"):
        load_tracks(tmp_path / "b.trk", OBLIQUE)


def read_by_vtk(path):
    reader = vtk.vtkXMLPolyDataReader()
    reader.SetFileName(str(path))
    reader.Update()
    return reader.GetOutput()


def vtk_columns(data):
    return {data.GetArrayName(i): vtk_to_numpy(data.GetArray(i)) for i in range(data.GetNumberOfArrays())}


def test_vtk_reads_what_we_write(tmp_path):
    tracks = some_tracks(5, 1, 4)
    mesh = read_by_vtk(write(tmp_path, tracks, OBLIQUE, "vtp"))
    assert (mesh.GetNumberOfVerts(), mesh.GetNumberOfLines()) == (1, 2)
    position_mm = OBLIQUE.to_scanner_m(tracks.position_voxel) * 1e3
    np.testing.assert_allclose(vtk_to_numpy(mesh.GetPoints().GetData()), position_mm, rtol=1e-14)
    points, cells = vtk_columns(mesh.GetPointData()), vtk_columns(mesh.GetCellData())
    np.testing.assert_array_equal(points["frame"], tracks.frame)
    np.testing.assert_allclose(points["time_s"], tracks.frame / 500.0)
    np.testing.assert_allclose(points["velocity_mm_s"], tracks.velocity_m_s * 1e3)
    np.testing.assert_allclose(points["amplitude"], tracks.amplitude)
    steps_mm = np.asarray(OBLIQUE.voxel_size_m) * 1e3
    np.testing.assert_allclose(points["deviation_mm"], tracks.deviation_voxel * steps_mm)
    first, middle, last = dict.fromkeys(tracks.track_id.tolist())
    assert cells["track_id"].tolist() == [middle, first, last]  # vertices come before lines
    ids = vtk.vtkIdList()
    mesh.GetCellPoints(2, ids)
    assert [ids.GetId(i) for i in range(ids.GetNumberOfIds())] == [6, 7, 8, 9]
    assert mesh.GetFieldData().GetAbstractArray("SPACE").GetValue(0) == "RAS"


MODES = {
    "ascii": lambda w: (w.SetDataModeToAscii(), w.SetCompressorTypeToNone()),
    "base64": lambda w: (w.SetDataModeToBinary(), w.SetCompressorTypeToNone()),
    "base64 compressed": lambda w: (w.SetDataModeToBinary(), w.SetCompressorTypeToZLib(), w.SetBlockSize(64)),
    "appended": lambda w: (w.SetDataModeToAppended(), w.EncodeAppendedDataOn(), w.SetCompressorTypeToNone()),
    "appended compressed": lambda w: (w.SetDataModeToAppended(), w.EncodeAppendedDataOn(), w.SetCompressorTypeToZLib()),
    "raw": lambda w: (w.SetDataModeToAppended(), w.EncodeAppendedDataOff(), w.SetCompressorTypeToNone()),
    "raw compressed": lambda w: (w.SetDataModeToAppended(), w.EncodeAppendedDataOff(), w.SetCompressorTypeToZLib()),
    "big-endian": lambda w: (w.SetDataModeToBinary(), w.SetCompressorTypeToNone(), w.SetByteOrderToBigEndian()),
    "64 bits": lambda w: (w.SetDataModeToBinary(), w.SetCompressorTypeToZLib(), w.SetHeaderTypeToUInt64()),
}
"""Ways in which vtk, and so Slicer and ParaView, save."""


def save_by_vtk(mesh, path, mode):
    writer = vtk.vtkXMLPolyDataWriter()
    writer.SetInputData(mesh)
    writer.SetFileName(str(path))
    MODES[mode](writer)
    assert writer.Write() == 1
    return path


@pytest.mark.parametrize("mode", MODES)
def test_what_vtk_writes_is_read(tmp_path, mode):
    tracks = some_tracks(5, 1, 40)
    mesh = read_by_vtk(write(tmp_path, tracks, OBLIQUE, "vtp"))
    saved = save_by_vtk(mesh, tmp_path / "saved.vtp", mode)
    read = load_tracks(saved, OBLIQUE)
    if mode == "ascii":  # numbers of six digits or more
        np.testing.assert_allclose(read.position_voxel, tracks.position_voxel, atol=1e-3)
    else:
        assert_same(read, tracks, "vtp")


def test_lps_is_turned_and_a_space_must_be_stated(tmp_path):
    tracks = some_tracks(5, 6)
    mesh = read_by_vtk(write(tmp_path, tracks, OBLIQUE, "vtp"))
    signs = np.array([-1.0, -1.0, 1.0])
    points = vtk.vtkPoints()
    points.SetData(numpy_to_vtk(vtk_to_numpy(mesh.GetPoints().GetData()) * signs, deep=True))
    mesh.SetPoints(points)
    velocity = numpy_to_vtk(vtk_columns(mesh.GetPointData())["velocity_mm_s"] * signs, deep=True)
    velocity.SetName("velocity_mm_s")
    mesh.GetPointData().AddArray(velocity)
    mesh.GetFieldData().GetAbstractArray("SPACE").SetValue(0, "LPS")
    assert_same(load_tracks(save_by_vtk(mesh, tmp_path / "lps.vtp", "base64"), OBLIQUE), tracks, "vtp")
    mesh.GetFieldData().RemoveArray("SPACE")
    with pytest.raises(RecordingError, match="field SPACE is None; wanted RAS or LPS"):
        load_tracks(save_by_vtk(mesh, tmp_path / "none.vtp", "base64"), OBLIQUE)


@pytest.mark.parametrize("where", GEOMETRIES)
def test_a_known_point_has_the_same_millimetres_in_every_program(tmp_path, where):
    """One bubble that stays at the centre of one voxel of the map: files of tracks and maps, by other libraries."""
    geometry, index, factor = GEOMETRIES[where], np.array([37, 50, 61]), refinement(SHAPE)
    grid = geometry.refined(factor)
    place_mm = apply_affine(grid.affine_mm, index)
    at = geometry.to_voxel(place_mm[None] * 1e-3)
    tracks = Trajectories(np.zeros(2, np.int64), np.arange(2.0), np.repeat(at, 2, 0), np.zeros((2, 3)), np.ones(2))
    write(tmp_path, tracks, geometry, "trk", "vtp")

    tractogram = nibabel.streamlines.load(tmp_path / "rec_tracks.trk")
    np.testing.assert_allclose(tractogram.streamlines[0], [place_mm, place_mm], atol=2e-5)
    np.testing.assert_allclose(tractogram.affine, grid.affine_mm, rtol=1e-6)
    assert tractogram.header["dimensions"].tolist() == [88, 96, 104]
    # TrackVis: voxel millimetres from the corner of the first voxel, along the axes of the map.
    raw = np.frombuffer((tmp_path / "rec_tracks.trk").read_bytes()[1004:1016], "<f4")
    np.testing.assert_allclose(raw / (np.asarray(grid.voxel_size_m) * 1e3), index + 0.5, atol=2e-3)

    mesh = read_by_vtk(tmp_path / "rec_tracks.vtp")
    np.testing.assert_allclose(mesh.GetPoint(0), place_mm, rtol=1e-12)

    density = np.zeros(np.multiply(SHAPE, factor), np.float32)
    density[tuple(index)] = 1
    save_map(tmp_path / "map.nii.gz", density, grid)
    image = nibabel.load(tmp_path / "map.nii.gz")
    found = np.argwhere(np.asarray(image.dataobj) > 0)[0]
    np.testing.assert_allclose(apply_affine(image.affine, found), place_mm, atol=2e-5)
    itk = SimpleITK.ReadImage(str(tmp_path / "map.nii.gz"))
    z, y, x = np.argwhere(SimpleITK.GetArrayFromImage(itk) > 0)[0].tolist()
    lps = np.array(itk.TransformIndexToPhysicalPoint((x, y, z)))
    np.testing.assert_allclose(lps * [-1, -1, 1], place_mm, atol=2e-5)
