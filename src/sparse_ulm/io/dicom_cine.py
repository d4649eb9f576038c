"""Ultrasound Multi-frame Image Storage (PS3.3 A.7, C.8.5.5): a 2D cine, its image marked by an ultrasound region."""

from pathlib import Path

import numpy as np
from pydicom import Dataset

from sparse_ulm.errors import RecordingError
from sparse_ulm.io.dicom_layout import DicomLayout, numbers, rate_hz
from sparse_ulm.io.statements import Statement

TWO_D, TISSUE, CENTIMETRES = 1, 1, 3
"""Region Spatial Format, Region Data Type and Physical Units of an image in space (PS3.3 C.8.5.5.1)."""

MM_PER_CM, SECONDS_PER_MS = 10.0, 1.0e-3
NAME = "region_"


def lay_out_cine(path: Path, header: Dataset, region: str | None) -> DicomLayout:
    """Find the one 2D region of tissue and what the file says of its grid and its frames.

    Columns run along x and rows along depth. Pixels outside of the region, where names and dates are burned in, are
    not part of the recording.

    Args:
        path: For messages.
        header: The file's elements.
        region: As "region_2", where there are several.

    Raises:
        RecordingError: If no region is stated, several are and none is chosen, or it is not measured in centimetres.
    """
    regions = {f"{NAME}{i}": one for i, one in enumerate(header.get("SequenceOfUltrasoundRegions") or [], start=1)}
    name, chosen = _choose(path, regions, region)
    left, top, right, bottom = (
        int(chosen[f"RegionLocation{edge}"].value) for edge in ("MinX0", "MinY0", "MaxX1", "MaxY1")
    )
    if not (0 <= left <= right < header.Columns and 0 <= top <= bottom < header.Rows):
        raise RecordingError(
            f"{path.name}: {name} spans columns {left} to {right} and rows {top} to {bottom} of an image of "
            f"{header.Columns} x {header.Rows}; wanted it inside. Export the cine again."
        )
    space = _state_grid(path, name, chosen)
    width_mm = space.voxel_size_mm[0]
    return DicomLayout(
        "DICOM Ultrasound Multi-frame",
        tuple((frame,) for frame in range(int(header.NumberOfFrames))),
        (top, left),
        (bottom - top + 1, right - left + 1),
        (space, _state_rate(path, header)),
        Statement("the thickness shown for 2D", (None, width_mm, None)),
        ("text is burned in: that inside of the region stays",) if header.get("BurnedInAnnotation") == "YES" else (),
    )


def _choose(path: Path, regions: dict[str, Dataset], wanted: str | None) -> tuple[str, Dataset]:
    """Choose the region that holds a 2D image of tissue."""
    if not regions:
        raise RecordingError(
            f"{path.name}: no ultrasound region is stated, so that nobody can tell image from burned-in text, or its "
            "scale; wanted SequenceOfUltrasoundRegions. Export the cine again, with calibration."
        )
    images = {
        name: one
        for name, one in regions.items()
        if (one.get("RegionSpatialFormat"), one.get("RegionDataType")) == (TWO_D, TISSUE)
    }
    if (wanted is not None and wanted not in images) or not images:
        raise RecordingError(
            f"{path.name}: {wanted or 'none of its ultrasound regions'} is a 2D image of tissue; wanted one of "
            f"{', '.join(images) or 'that kind'}. Correct variable, or export a B-mode cine."
        )
    if wanted is None and len(images) > 1:
        raise RecordingError(
            f"{path.name}: {len(images)} regions are 2D images of tissue; wanted one. Choose with variable: "
            f"{', '.join(images)}."
        )
    name = wanted or next(iter(images))
    return name, images[name]


def _state_grid(path: Path, name: str, region: Dataset) -> Statement:
    """State the pixels' size, and where the first lies, if the file has a reference pixel."""
    units = region.get("PhysicalUnitsXDirection"), region.get("PhysicalUnitsYDirection")
    step_cm = [float(region.get(f"PhysicalDelta{axis}") or 0.0) for axis in "XY"]
    if units != (CENTIMETRES, CENTIMETRES) or not min(step_cm) > 0:
        raise RecordingError(
            f"{path.name}: {name} has steps of {step_cm[0]:g} and {step_cm[1]:g} in units {units[0]} and {units[1]}; "
            "wanted positive steps in centimetres (3). Export the cine again, with calibration."
        )
    x_mm, z_mm = (float(f"{step * MM_PER_CM:.12g}") for step in step_cm)
    reference = [region.get(f"ReferencePixel{axis}0") for axis in "XY"]
    value_cm = [region.get(f"ReferencePixelPhysicalValue{axis}") for axis in "XY"]
    origin_mm = None
    if None not in (*reference, *value_cm):
        first = np.multiply(value_cm, MM_PER_CM) - np.multiply(reference, [x_mm, z_mm])
        origin_mm = (float(first[0]), 0.0, float(first[1]))
    return Statement(f"{name} of {path.name}", (x_mm, None, z_mm), origin_mm)


def _state_rate(path: Path, header: Dataset) -> Statement:
    """State the frame rate by Frame Time, Frame Time Vector (its first entry is 0) or, rounded as it is, Cine Rate."""
    times = {
        "FrameTime": numbers(header.get("FrameTime")),
        "FrameTimeVector": numbers(header.get("FrameTimeVector"))[1:],
    }
    for keyword, periods_ms in times.items():
        if periods_ms:
            rate = rate_hz(np.multiply(periods_ms, SECONDS_PER_MS))
            return Statement(f"{keyword} of {path.name}", frame_rate_hz=rate)
    rates = [rate for rate in numbers(header.get("CineRate")) if rate > 0]
    return Statement(f"CineRate of {path.name}", frame_rate_hz=rates[0] if rates else None)
