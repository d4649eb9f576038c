"""What a DICOM map may say of a patient and a study: nothing, but for a short list of tags that the user gives."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from pydicom.config import RAISE
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement

from sparse_ulm.errors import UserError

PATIENT_TAGS = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex")
STUDY_TAGS = ("StudyInstanceUID", "StudyID", "StudyDate", "StudyTime", "StudyDescription", "AccessionNumber")
ALLOWED_TAGS = (*PATIENT_TAGS, *STUDY_TAGS, "FrameOfReferenceUID", "Laterality")
"""Our choice: what an archive needs to file a map beside its patient and study, and to lay it over other images."""


@dataclass(frozen=True)
class DicomTags:
    """That maps are written as DICOM too, and the tags that the user gave for them.

    Attributes:
        given: Values by keyword of `ALLOWED_TAGS`; all others are empty, or made anew where DICOM wants one.
    """

    given: Mapping[str, str]

    @classmethod
    def of(cls, dicom: Any, tags: Mapping[str, Any] | None) -> "DicomTags | None":
        """Take a config's keys; None where no DICOM is wanted.

        Raises:
            UserError: If highdicom is not installed, a tag is none of `ALLOWED_TAGS`, or its value is none of DICOM's.
        """
        given = {keyword: _checked(keyword, value) for keyword, value in (tags or {}).items()}
        if not isinstance(dicom, bool):
            raise UserError(f"dicom is {dicom!r}; wanted true or false. Correct it.")
        if not dicom:
            return None
        if find_spec("highdicom") is None:
            raise UserError('dicom is true and highdicom is missing. Install it: pip install "sparse-ulm[dicom]"')
        return cls(given)

    @property
    def identifies(self) -> bool:
        """Tell whether anything but UIDs and a side of the body is given."""
        return any(self.given.get(keyword) for keyword in (*PATIENT_TAGS, *STUDY_TAGS) if keyword != "StudyInstanceUID")

    @staticmethod
    def told(tags: "DicomTags | None") -> dict[str, Any]:
        """Give what `provenance.json` may repeat: which tags were given, and never their values."""
        return {"dicom": tags is not None, "dicom_tags": sorted(tags.given) if tags else []}

    @staticmethod
    def followed(tags: "DicomTags | None") -> dict[str, Any]:
        """Give what results follow from; the manifest keeps no more than a fingerprint of it."""
        return {"dicom_values": dict(tags.given) if tags else {}}


def _checked(keyword: str, value: Any) -> str:
    """Refuse a tag that is not allowed, and a value that DICOM does not.

    Values do not appear in the message: it may be logged.
    """
    if keyword not in ALLOWED_TAGS:
        raise UserError(f"dicom_tags names {keyword!r}; wanted only {', '.join(ALLOWED_TAGS)}. Leave it out.")
    if not isinstance(value, str):
        raise UserError(
            f"dicom_tags: {keyword} is a {type(value).__name__}; wanted text. Quote it, so that no zero is lost."
        )
    vr, tag = dictionary_VR(keyword), tag_for_keyword(keyword)
    try:
        DataElement(tag or 0, vr, value, validation_mode=RAISE)
    except ValueError:
        raise UserError(
            f"dicom_tags: the value of {keyword} is none that DICOM allows there (VR {vr}); wanted such as "
            f"{_EXAMPLES.get(vr, 'short text')}. Correct it."
        ) from None  # its own message would repeat the value
    return value


_EXAMPLES = {"DA": "20260131", "TM": "143000", "UI": "2.25.1234", "CS": "F, M or O", "PN": "FAMILY^GIVEN"}
