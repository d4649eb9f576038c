"""Ultrasound in DICOM, written by pydicom to the standard's layout, with a patient in every tag that may name one."""

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CINE, VOLUME = "1.2.840.10008.5.1.4.1.1.3.1", "1.2.840.10008.5.1.4.1.1.6.2"
SECRETS = {
    "PatientName": "ZIMMERMANN^HILDEGARD", "PatientID": "PID-883-17", "PatientBirthDate": "19431207",
    "AccessionNumber": "ACC-5561", "StudyID": "STD-9914", "StudyDate": "20190823", "StudyTime": "101112.131415",
    "ReferringPhysicianName": "QUACKSALVER^OTTO", "InstitutionName": "St Nowhere Clinic",
    "StudyDescription": "liver follow-up", "DeviceSerialNumber": "SN-77812", "PatientComments": "lives in Elm Street",
}  # fmt: skip
OPTIONS = {"transmit_frequency_hz": 7.0e6, "sound_speed_m_s": 1540.0, "dynamic_range_db": 60.0}


def base(sop_class, pixels):
    """A data set with pixels (frames, rows, columns[, rgb]) and the secrets."""
    found = Dataset()
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found.file_meta.MediaStorageSOPClassUID = found.SOPClassUID = sop_class
    found.file_meta.MediaStorageSOPInstanceUID = found.SOPInstanceUID = generate_uid()
    found.StudyInstanceUID, found.SeriesInstanceUID = generate_uid(), generate_uid()
    for keyword, value in SECRETS.items():
        setattr(found, keyword, value)
    found.Modality = "US"
    found.NumberOfFrames, found.Rows, found.Columns = pixels.shape[:3]
    found.SamplesPerPixel = 3 if pixels.ndim == 4 else 1
    found.PhotometricInterpretation = "RGB" if pixels.ndim == 4 else "MONOCHROME2"
    if pixels.ndim == 4:
        found.PlanarConfiguration = 0
    found.BitsAllocated = found.BitsStored = 8 * pixels.itemsize
    found.HighBit, found.PixelRepresentation = found.BitsStored - 1, 0
    found.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    return found


def region(left=3, top=2, right=9, bottom=6, **changes):
    """An ultrasound region: a calibrated 2D image of tissue, unless it is told otherwise."""
    found = Dataset()
    edges = {"MinX0": left, "MinY0": top, "MaxX1": right, "MaxY1": bottom}
    for edge, value in edges.items():
        setattr(found, f"RegionLocation{edge}", value)
    values = {
        "RegionSpatialFormat": 1, "RegionDataType": 1, "RegionFlags": 0, "PhysicalUnitsXDirection": 3,
        "PhysicalUnitsYDirection": 3, "PhysicalDeltaX": 0.012, "PhysicalDeltaY": 0.008, "ReferencePixelX0": 2,
        "ReferencePixelY0": 0, "ReferencePixelPhysicalValueX": 0.0, "ReferencePixelPhysicalValueY": 0.1,
    } | changes  # fmt: skip
    for keyword, value in values.items():
        if value is not None:
            setattr(found, keyword, value)
    return found


def write_cine(path, pixels, *, regions=None, **changes):
    """Write a cine of 25 ms a frame; None takes an element out."""
    found = base(CINE, pixels)
    found.SequenceOfUltrasoundRegions = [region()] if regions is None else regions
    found.FrameTime, found.BurnedInAnnotation = 25.0, "YES"
    found.FrameIncrementPointer = 0x00181063
    return _save(found, path, changes)


def write_volume(path, pixels, places, *, spacing=(0.08, 0.12), orientation=(1, 0, 0, 0, 1, 0), **changes):
    """Write an Enhanced US Volume; `places` gives each frame's corner in mm, its time in s and its data type."""
    found = base(VOLUME, pixels)
    shared = Dataset()
    measures, turned = Dataset(), Dataset()
    measures.PixelSpacing = list(spacing)
    turned.ImageOrientationVolume = list(map(float, orientation))
    shared.PixelMeasuresSequence, shared.PlaneOrientationVolumeSequence = [measures], [turned]
    found.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for corner_mm, time_s, kind in places:
        frame, position, time, data_type = Dataset(), Dataset(), Dataset(), Dataset()
        position.ImagePositionVolume, time.TemporalPositionTimeOffset = list(map(float, corner_mm)), float(time_s)
        data_type.DataType = kind
        frame.PlanePositionVolumeSequence, frame.TemporalPositionSequence = [position], [time]
        frame.ImageDataTypeSequence = [data_type]
        frames.append(frame)
    found.PerFrameFunctionalGroupsSequence = frames
    found.BurnedInAnnotation = "NO"
    return _save(found, path, changes)


def _save(found, path, changes):
    for keyword, value in changes.items():
        if value is None:
            delattr(found, keyword)
        else:
            setattr(found, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    found.save_as(path, enforce_file_format=True)
    return path


def random_pixels(*shape, seed=0, dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)
