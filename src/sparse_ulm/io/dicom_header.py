"""The header of a map as DICOM: where its frames lie, what its values are, and nothing of where it came from."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from pydicom import Dataset
from pydicom.sr.coding import Code

from sparse_ulm import __version__
from sparse_ulm.acquisition import Geometry
from sparse_ulm.io.dicom_tags import PATIENT_TAGS, DicomTags
from sparse_ulm.mapping.sparse_map import SparseMap

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Scanner axes of NIfTI are right, anterior, superior, and those of DICOM left, posterior, superior."""

US_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.6.1"
RESEARCH_USE = "Research use only. Not a medical device."


@dataclass(frozen=True)
class MapMeaning:
    """What the values of a map are.

    Attributes:
        label: At most 16 characters, as "density".
        explanation: At most 64 characters.
        unit: UCUM code, as "mm/s".
        is_count: Whether values are whole numbers, which are stored as uint16 where they fit.
    """

    label: str
    explanation: str
    unit: str
    is_count: bool = False


def stored_dtype(found: SparseMap, meaning: MapMeaning) -> np.dtype[Any]:
    """Choose uint16 for counts that fit, else float32: the integers of a Parametric Map have no more bits."""
    fits = meaning.is_count and found.values.max(initial=0.0) <= np.iinfo(np.uint16).max
    return np.dtype("<u2") if fits else np.dtype("<f4")


def make_header(
    found: SparseMap, geometry: Geometry, meaning: MapMeaning, tags: DicomTags, *, series_number: int
) -> Dataset:
    """Let highdicom describe the map by frames of one pixel, and put in the true size.

    highdicom wants the whole volume in memory, and an image that the map was made of. Frames of one pixel have the
    same places and spacings, and a source that says nothing is taken out again: a recording is no DICOM object.

    Args:
        found: The map; frames follow `dicom_map.frames`.
        geometry: Of its grid.
        meaning: Of its values.
        tags: Of patient and study, with `StudyInstanceUID` and `FrameOfReferenceUID`.
        series_number: From 1 on.

    Returns:
        A Parametric Map without pixel data.
    """
    import highdicom

    n_x, n_y, n_z = found.shape
    dtype = stored_dtype(found, meaning)
    low, high = _range(found, dtype)
    pixels = highdicom.Volume(
        np.zeros((n_y, 1, 1), dtype=dtype),
        _frame_affine_mm(geometry, n_y),
        coordinate_system="PATIENT",
        frame_of_reference_uid=tags.given["FrameOfReferenceUID"],
    )
    header = highdicom.pm.ParametricMap(
        [_no_source(tags)],
        pixels,
        series_instance_uid=highdicom.UID(),
        series_number=series_number,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="sparse-ulm",
        manufacturer_model_name="sparse-ulm",
        software_versions=__version__,
        device_serial_number=__version__,  # DICOM demands one; a program has no other
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[
            highdicom.pm.RealWorldValueMapping(
                lut_label=meaning.label,
                lut_explanation=meaning.explanation,
                unit=Code(meaning.unit, "UCUM", meaning.unit.strip("{}")),
                value_range=(low, high),
                slope=1.0,
                intercept=0.0,
            )
        ],
        voi_lut_transformations=[_window(float(high))],
        content_label=meaning.label.upper(),
        content_description=RESEARCH_USE,
        series_description=f"ULM {meaning.label}, research use only",
    )
    return _completed(header, tags, rows=n_z, columns=n_x)


def _frame_affine_mm(geometry: Geometry, n_y: int) -> Float[np.ndarray, "4 4"]:
    """Give the affine from (frame, row, column) to DICOM's millimetres; it is right-handed.

    highdicom sorts frames so that they are: those of a mirrored grid run against y.
    """
    affine = np.asarray((RAS_TO_LPS @ geometry.affine_mm)[:, [1, 2, 0, 3]])
    if is_mirrored(geometry):
        affine[:, 3] += (n_y - 1) * affine[:, 0]
        affine[:, 0] *= -1.0
    return affine


def is_mirrored(geometry: Geometry) -> bool:
    """Tell whether x, y and z are left-handed."""
    return bool(np.linalg.det(geometry.matrix_m[:3, :3]) < 0)


def _no_source(tags: DicomTags) -> Dataset:
    """Make the image that highdicom takes patient, study and frame of reference from."""
    import highdicom

    source = Dataset()
    source.SOPClassUID, source.SOPInstanceUID, source.SeriesInstanceUID = (
        US_IMAGE_STORAGE,
        highdicom.UID(),
        highdicom.UID(),
    )
    source.Rows = source.Columns = 1
    source.PixelSpacing, source.SliceThickness = [1.0, 1.0], 1.0
    source.ImagePositionPatient, source.ImageOrientationPatient = [0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    source.SpecificCharacterSet = "ISO_IR 192"
    for keyword in (*PATIENT_TAGS, "AccessionNumber", "StudyID", "StudyDate", "StudyTime"):
        setattr(source, keyword, "")
    for keyword, value in tags.given.items():
        setattr(source, keyword, value)
    return source


def _completed(header: Dataset, tags: DicomTags, *, rows: int, columns: int) -> Dataset:
    """Put in the size and what highdicom leaves out; take out pixels and the source that there is not."""
    header.Rows, header.Columns = rows, columns
    header.Laterality = tags.given.get("Laterality", "")
    header.PositionReferenceIndicator = ""
    header.ImageComments = RESEARCH_USE
    if not tags.identifies:
        header.PatientIdentityRemoved = "YES"
        header.DeidentificationMethod = "No tag of the recording is copied; others by allow-list"
    for keyword in ("ReferencedSeriesSequence", "SourceImageSequence", "PixelData", "FloatPixelData"):
        if keyword in header:
            delattr(header, keyword)
    for frame in header.PerFrameFunctionalGroupsSequence:
        del frame.DerivationImageSequence
    return header


def _range(found: SparseMap, dtype: np.dtype[Any]) -> tuple[float, float] | tuple[int, int]:
    """Give smallest and largest value of the whole map; of an empty one, 0 and 0."""
    known = found.values[np.isfinite(found.values)]
    low = min(float(known.min(initial=np.inf)), found.elsewhere if np.isfinite(found.elsewhere) else np.inf)
    low, high = (low if np.isfinite(low) else 0.0), float(known.max(initial=0.0))
    return (int(low), int(high)) if dtype.kind == "u" else (low, high)


def _window(high: float) -> Any:
    """Show 0 as black and the largest value as white, for want of a better choice."""
    import highdicom

    width = high if high > 0 else 1.0
    return highdicom.VOILUTTransformation(
        window_center=round(width / 2, 6), window_width=round(width, 6), voi_lut_function="LINEAR_EXACT"
    )
