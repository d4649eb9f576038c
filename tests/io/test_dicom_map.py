"""Maps as DICOM Parametric Maps: each voxel where the NIfTI has it, with its value and unit; no word of a patient."""

import re
import tracemalloc
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from dicom_checks import errors_of

from sparse_ulm.acquisition import Geometry, as_rows
from sparse_ulm.errors import UserError
from sparse_ulm.io.dicom_map import BLOCK_DENSITY, SPEED, TRACK_DENSITY, check_dicom_grid, save_dicom_maps
from sparse_ulm.io.dicom_tags import ALLOWED_TAGS, DicomTags
from sparse_ulm.io.nifti import save_sparse_map
from sparse_ulm.mapping.sparse_map import SparseMap

hd = pytest.importorskip("highdicom")

SHAPE = (5, 4, 7)
NO_TAGS = DicomTags({})
LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])


def oblique(*, mirrored=False):
    """Axes of unequal steps, turned about two axes, with an origin; mirrored, they are left-handed."""
    a, b = np.radians([25.0, 140.0])
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    turn = turn @ np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([0.10e-3, -0.13e-3 if mirrored else 0.13e-3, 0.06e-3])
    affine[:3, 3] = [-3.1e-3, 2.7e-3, 9.4e-3]
    return Geometry(as_rows(affine), 500.0, 8e6, 1540.0)


def maps_of(shape=SHAPE):
    """A density and a speed of some voxels, all values different."""
    key = np.sort(np.random.default_rng(3).choice(np.prod(shape), 11, replace=False)).astype(np.int64)
    counts = np.arange(1, 12, dtype=np.float32)
    speeds = np.linspace(0.125, 21.7, 11, dtype=np.float32)
    speeds[4] = np.nan  # a voxel that only a track of one sample passed
    return {TRACK_DENSITY: SparseMap(shape, key, counts), SPEED: SparseMap(shape, key, speeds, np.nan)}


@pytest.fixture
def write(tmp_path):
    def write(maps=None, geometry=None, tags=NO_TAGS):
        save_dicom_maps(tmp_path, "rec", maps or maps_of(), geometry or oblique(), tags)
        return {path.stem.split("_")[1]: path for path in tmp_path.glob("*.dcm")}

    return write


def pixels_of(path):
    """Give a file's frames (frame, row, column) as stored, and the data set."""
    found = pydicom.dcmread(path)
    name, dtype = ("FloatPixelData", "<f4") if "FloatPixelData" in found else ("PixelData", "<u2")
    stored = np.frombuffer(found[name].value, dtype)
    return stored.reshape(int(found.NumberOfFrames), found.Rows, found.Columns), found


def centres_by_hand(found):
    """Give RAS positions in mm of (frame, row, column) by the equation of PS3.3 C.7.6.2.1.1."""
    shared = found.SharedFunctionalGroupsSequence[0]
    orientation = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float)
    between_rows, between_columns = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    row, column = np.indices((found.Rows, found.Columns))[..., None]
    in_plane = column * between_columns * orientation[:3] + row * between_rows * orientation[3:]
    corners = [f.PlanePositionSequence[0].ImagePositionPatient for f in found.PerFrameFunctionalGroupsSequence]
    return (np.array(corners, dtype=float)[:, None, None] + in_plane) * LPS_TO_RAS


def by_position(centres_mm, values):
    """Sort voxels by where they are, so that two ways of storing them can be compared."""
    rounded = np.round(centres_mm.reshape(-1, 3), 7)
    order = np.lexsort(rounded.T)
    return centres_mm.reshape(-1, 3)[order], values.reshape(-1)[order]


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("kind", ["density", "speed"])
def test_voxels_lie_where_those_of_the_nifti_lie(write, tmp_path, kind, mirrored):
    geometry = oblique(mirrored=mirrored)
    stored, found = pixels_of(write(geometry=geometry)[kind])
    save_sparse_map(tmp_path / "map.nii.gz", maps_of()[TRACK_DENSITY if kind == "density" else SPEED], geometry)
    image = nibabel.load(tmp_path / "map.nii.gz")
    index = np.indices(image.shape).reshape(3, -1).T
    wanted = by_position(nibabel.affines.apply_affine(image.affine, index), np.asarray(image.dataobj))
    centres, values = by_position(centres_by_hand(found), stored)
    np.testing.assert_allclose(centres, wanted[0], atol=1e-6)  # the NIfTI holds its affine as float32
    np.testing.assert_array_equal(values, wanted[1])
    assert np.nanmax(values) > 0


@pytest.mark.parametrize("kind", ["density", "speed"])
def test_highdicom_reads_the_volume(write, kind):
    volume = hd.imread(write()[kind]).get_volume(apply_real_world_transform=False)
    index = np.indices(volume.spatial_shape).reshape(3, -1).T
    found = by_position(nibabel.affines.apply_affine(volume.affine, index) * LPS_TO_RAS, volume.array)
    dense = maps_of()[TRACK_DENSITY if kind == "density" else SPEED].dense()
    index = np.indices(dense.shape).reshape(3, -1).T
    wanted = by_position(oblique().to_scanner_m(index.astype(float)) * 1e3, dense)
    np.testing.assert_allclose(found[0], wanted[0], atol=1e-9)
    np.testing.assert_array_equal(found[1], wanted[1])


def test_spacings_are_those_of_the_axes(write):
    shared = pydicom.dcmread(write()["speed"]).SharedFunctionalGroupsSequence[0]
    measures = shared.PixelMeasuresSequence[0]
    assert [float(v) for v in measures.PixelSpacing] == pytest.approx([0.06, 0.10])  # between rows (z), columns (x)
    assert float(measures.SpacingBetweenSlices) == pytest.approx(0.13)


def test_values_have_units(write):
    for kind, unit, low, high in (("density", "{tracks}", 0, 11), ("speed", "mm/s", 0.125, np.float32(21.7))):
        [mapping] = hd.imread(write()[kind]).SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
        code = mapping.MeasurementUnitsCodeSequence[0]
        assert (code.CodeValue, code.CodingSchemeDesignator) == (unit, "UCUM")
        assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1.0, 0.0)
        prefix = "" if kind == "density" else "DoubleFloat"
        assert mapping[f"{prefix}RealWorldValueFirstValueMapped"].value == low
        assert mapping[f"{prefix}RealWorldValueLastValueMapped"].value == high


def test_counts_that_uint16_cannot_hold_are_float32(write):
    key = np.array([2, 5], dtype=np.int64)
    for largest, dtype in ((65535.0, np.uint16), (65536.0, np.float32)):
        maps = {BLOCK_DENSITY: SparseMap(SHAPE, key, np.array([1.0, largest], dtype=np.float32))}
        path = write(maps)["density"]
        stored, _ = pixels_of(path)
        assert (stored.dtype, stored.max()) == (dtype, largest)
        assert errors_of(path) == []


@pytest.mark.parametrize("case", ["filled", "2D", "empty", "tagged", "odd"])
def test_the_verifier_has_no_error(write, case):
    shape = {"2D": (6, 1, 9), "odd": (3, 1, 5)}.get(case, SHAPE)
    maps = maps_of(shape)
    if case == "empty":
        none = SparseMap(SHAPE, np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32))
        maps = {TRACK_DENSITY: none, SPEED: none.with_values(none.values, elsewhere=np.nan)}
    given = {
        "PatientID": "0007", "PatientName": "Müller^Änne", "PatientSex": "F", "PatientBirthDate": "19700102",
        "StudyInstanceUID": "2.25.1234", "StudyID": "9", "StudyDate": "20260131", "StudyTime": "143000",
        "StudyDescription": "ULM", "AccessionNumber": "A1", "FrameOfReferenceUID": "2.25.99", "Laterality": "L",
    }  # fmt: skip
    assert sorted(given) == sorted(ALLOWED_TAGS)
    paths = write(maps, tags=DicomTags.of(True, given if case == "tagged" else {}))
    assert sorted(paths) == ["density", "speed"]
    for path in paths.values():
        assert errors_of(path) == []
        found = pydicom.dcmread(path)
        assert {k: str(found[k].value) for k in given} == given if case == "tagged" else found.PatientID == ""
        assert ("PatientIdentityRemoved" in found) == (case != "tagged")


def test_one_recording_is_one_study_with_a_series_for_each_map(write):
    density, speed = (pydicom.dcmread(path) for path in write().values())
    assert density.StudyInstanceUID == speed.StudyInstanceUID
    assert density.FrameOfReferenceUID == speed.FrameOfReferenceUID
    assert density.SeriesInstanceUID != speed.SeriesInstanceUID
    assert density.SOPInstanceUID != speed.SOPInstanceUID
    assert pydicom.dcmread(write()["speed"]).StudyInstanceUID != speed.StudyInstanceUID


def test_the_file_says_what_it_is_and_names_no_source(write):
    found = pydicom.dcmread(write()["speed"])
    assert found.SOPClassUID.name == "Parametric Map Storage"
    assert found.ContentQualification == "RESEARCH"
    assert "Research use only" in found.ContentDescription
    assert "Research use only" in found.ImageComments
    assert found.SoftwareVersions
    assert (found.PatientIdentityRemoved, found.PatientName, found.PatientID) == ("YES", "", "")
    names = {element.keyword for element in found.iterall()}
    assert not names & {"ReferencedSeriesSequence", "SourceImageSequence", "DerivationImageSequence"}
    assert "rec" not in str(found).lower().replace("recognizable", "").split()


def test_memory_follows_the_visited_voxels(tmp_path):
    shape = (300, 30, 500)  # 18 MB of float32
    maps = {SPEED: maps_of(shape)[SPEED]}
    save_dicom_maps(tmp_path, "warm", maps_of(), oblique(), NO_TAGS)  # imports and tables of highdicom
    tracemalloc.start()
    save_dicom_maps(tmp_path, "rec", maps, oblique(), NO_TAGS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "rec_speed.dcm").stat().st_size > 18_000_000
    assert peak < 6_000_000


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"PatientAddress": "Main Street"}, "dicom_tags names 'PatientAddress'; wanted only PatientID, PatientName"),
        ({"PatientID": 7}, "PatientID is a int; wanted text"),
        ({"StudyDate": "31.1.2026"}, "value of StudyDate is none that DICOM allows there (VR DA)"),
        ({"StudyInstanceUID": "mine"}, "value of StudyInstanceUID"),
        ({"StudyID": "0123456789abcdefg"}, "value of StudyID"),
    ],
)
def test_other_tags_are_refused(tags, words):
    for dicom in (True, False):
        with pytest.raises(UserError) as caught:
            DicomTags.of(dicom, tags)
        assert words in str(caught.value)
        assert str(next(iter(tags.values()))) not in str(caught.value)
    with pytest.raises(UserError, match="dicom is 'yes'; wanted true or false"):
        DicomTags.of("yes", {})  # type: ignore[arg-type]


def test_without_highdicom_the_cure_is_named(monkeypatch):
    monkeypatch.setattr("sparse_ulm.io.dicom_tags.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r'pip install "sparse-ulm\[dicom\]"'):
        DicomTags.of(True, {})
    assert DicomTags.of(False, {}) is None


def test_provenance_is_told_no_values():
    tags = DicomTags.of(True, {"PatientID": "SECRET", "StudyID": "4"})
    assert DicomTags.told(tags) == {"dicom": True, "dicom_tags": ["PatientID", "StudyID"]}
    assert DicomTags.told(None) == {"dicom": False, "dicom_tags": []}
    assert DicomTags.followed(tags) != DicomTags.followed(DicomTags.of(True, {"PatientID": "SECRET", "StudyID": "5"}))


def test_grids_that_dicom_cannot_hold_are_refused():
    check_dicom_grid("rec", (1024, 1024, 1023), oblique())
    with pytest.raises(UserError, match=r"rec: a map of 1024 x 1024 x 1024 voxels has 4\.0 GiB"):
        check_dicom_grid("rec", (1024, 1024, 1024), oblique())
    with pytest.raises(UserError, match="65535 voxels along an axis"):
        check_dicom_grid("rec", (65536, 2, 3), oblique())
    sheared = oblique().matrix_m
    sheared[:3, 0] += 0.01 * sheared[:3, 1]
    with pytest.raises(UserError, match="not at right angles"):
        check_dicom_grid("rec", SHAPE, Geometry(as_rows(sheared), 500.0, 8e6, 1540.0))


def test_python_of_the_page_runs(write, tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs/how-to/dicom.md").read_text(encoding="utf-8")
    [example] = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    write()
    monkeypatch.chdir(tmp_path)
    found: dict = {}
    exec(example, found)
    assert sorted(found["volume"].spatial_shape) == sorted(SHAPE)
    assert all(f"`{tag}`" in page for tag in ALLOWED_TAGS)
