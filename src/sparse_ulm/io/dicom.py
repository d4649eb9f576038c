"""DICOM ultrasound: multi-frame cines and Enhanced US Volumes, read as envelopes; nothing is read of the patient.

Both hold images that were log-compressed for the eye. Only the elements of `READ` are taken from a file, and of its
functional groups only places, offsets in time and kinds of data are looked at: no name, date or identifier is, and so
none can reach an output.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.pixels import iter_pixels

from sparse_ulm.acquisition import Acquisition
from sparse_ulm.conventions import Frames
from sparse_ulm.errors import RecordingError
from sparse_ulm.io.combine import combine
from sparse_ulm.io.damage import reading
from sparse_ulm.io.dicom_cine import lay_out_cine
from sparse_ulm.io.dicom_layout import DicomLayout
from sparse_ulm.io.dicom_volume import lay_out_volume
from sparse_ulm.io.log_compression import ENVELOPE_NOTE, amplitudes, require_dynamic_range, require_grey
from sparse_ulm.io.names import recording_stem
from sparse_ulm.io.sidecar import read_sidecar
from sparse_ulm.io.statements import Number, Statement

CINES = ("1.2.840.10008.5.1.4.1.1.3.1", "1.2.840.10008.5.1.4.1.1.3")
"""Ultrasound Multi-frame Image Storage, and its retired form."""

VOLUME = "1.2.840.10008.5.1.4.1.1.6.2"
"""Enhanced US Volume Storage."""

PIXELS = (
    "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "BitsStored",
    "PixelRepresentation", "BurnedInAnnotation", "LossyImageCompression",
)  # fmt: skip
READ = (
    "SOPClassUID", *PIXELS, "SequenceOfUltrasoundRegions", "FrameTime", "FrameTimeVector", "CineRate",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
GREY = ("MONOCHROME2", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
"""Kinds of pixels in which a grey image can be stored, white large."""


def open_dicom(
    path: Path, options: Statement, *, dynamic_range_db: Number | None = None, region: str | None = None
) -> Acquisition:
    """Open a cine or an Enhanced US Volume and its sidecar.

    Args:
        path: .dcm.
        options: What the caller states; transmit frequency and sound speed are always stated so, or by the sidecar.
        dynamic_range_db: Decibels from black to white.
        region: Of a cine with several 2D regions, the one wanted, as "region_2".

    Returns:
        An acquisition of content "envelope": real amplitudes, 1 for white, as complex64 without phase.

    Raises:
        RecordingError: If the file is damaged, of another kind, does not say where its image is, or its geometry or
            dynamic range is missing.
    """
    with reading(path, as_format="DICOM"):
        header = dcmread(path, stop_before_pixels=True, specific_tags=list(READ))
        lay_out = _layout_of(path, header)
        _require_pixels(path, header)
        layout = lay_out(path, header, region)
        decibels = require_dynamic_range(path.name, dynamic_range_db)
        stated = [read_sidecar(path), options, *layout.statements]
        geometry, sources = combine(path, stated, layout=layout.by_definition)
        n_bits = int(header.BitsStored)
        stored_shape = [int(header[keyword].value) for keyword in ("NumberOfFrames", "Rows", "Columns")]
    return Acquisition(
        name=recording_stem(path),
        path=path,
        shape=layout.shape,
        geometry=geometry,
        content="envelope",
        read=EnvelopeFrames(path, layout, decibels, n_bits),
        details={
            "format": layout.format_name,
            "dtype": f"{n_bits} bits, {header.PhotometricInterpretation}",
            "stored_shape": stored_shape,
            "dynamic_range_db": decibels,
            "sources": sources,
            "notes": [ENVELOPE_NOTE, *_lossy(header), *layout.notes],
        },
    )


@dataclass(frozen=True)
class EnvelopeFrames:
    """Reads frames from where they lie and turns grey into amplitude; what lies outside of the image is not taken."""

    path: Path
    layout: DicomLayout
    dynamic_range_db: float
    n_bits: int

    def __call__(self, start: int, stop: int) -> Frames:
        """Read frames start ... stop - 1."""
        x, y, z, _ = self.layout.shape
        grey = np.zeros((x, y, z, stop - start), dtype=np.uint16)
        wanted = [frame for planes in self.layout.frames[start:stop] for frame in planes]
        with reading(self.path, as_format="DICOM"):
            stored = iter_pixels(self.path, indices=wanted)
            for position, (frame, pixels) in enumerate(zip(wanted, stored, strict=True)):
                image = require_grey(self.path.name, pixels[self.layout.window], frame)
                grey[:, position % y, :, position // y] = image.T
            return amplitudes(self.dynamic_range_db, n_bits=self.n_bits)[grey].astype(np.complex64)


def _layout_of(path: Path, header: Dataset) -> Callable[[Path, Dataset, str | None], DicomLayout]:
    """Choose how a file is read, by its class."""
    kind = str(header.get("SOPClassUID", ""))
    if kind in CINES:
        return lay_out_cine
    if kind == VOLUME:
        return lay_out_volume
    raise RecordingError(
        f"{path.name}: a DICOM file of another class ({header.SOPClassUID.name if kind else 'none is named'}); wanted "
        "Ultrasound Multi-frame Image Storage or Enhanced US Volume Storage. Export a cine."
    )


def _require_pixels(path: Path, header: Dataset) -> None:
    """Refuse pixels that are no grey image."""
    kind, is_signed = str(header.PhotometricInterpretation), int(header.PixelRepresentation) != 0
    if kind not in GREY or is_signed or int(header.BitsStored) > 16:
        raise RecordingError(
            f"{path.name}: its pixels are {kind}, {'signed, ' if is_signed else ''}{header.BitsStored} bits; wanted "
            f"unsigned {', '.join(GREY)} of at most 16 bits. Export it as a grey image."
        )


def _lossy(header: Dataset) -> list[str]:
    """Note a compression that changed the pixels."""
    return ["lossy compression has changed its pixels"] if header.get("LossyImageCompression") == "01" else []
