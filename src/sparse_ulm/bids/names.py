"""Names of files in BIDS: key-label pairs such as `sub-01_ses-02_run-1`, and what a recording is called in them."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from sparse_ulm.errors import UserError

DATATYPE, SUFFIX = "angio", "ulm"
"""The datatype of the open proposal BEP040 (functional ultrasound); BIDS has no suffix for these maps yet."""

_LABEL = "[A-Za-z0-9]+"
ENTITIES = re.compile(f"sub-{_LABEL}(_(?!sub-|desc-)[a-z]+-{_LABEL})*")
"""`sub-` and other pairs. `desc-` is left to us: it tells the maps apart."""


def entities_of(recordings: Sequence[str], given: Mapping[str, str]) -> dict[str, str]:
    """Find what recordings are called in BIDS.

    Args:
        recordings: Names of recordings. Those that are BIDS names themselves keep all of their pairs but the suffix:
            "sub-01_ses-02_pwd" is sub-01_ses-02.
        given: Pairs of those that are not, or are to have others, such as {"rat7": "sub-07_ses-1"}.

    Returns:
        Pairs by name of the recording.

    Raises:
        UserError: If a recording has no subject, pairs are no BIDS name, two recordings share them, or one that is not
            there is given pairs.
    """
    unknown = sorted(set(given) - set(recordings))
    if unknown:
        raise UserError(f"names has {unknown[0]!r}; wanted some of {', '.join(recordings)}. Correct it.")
    found: dict[str, str] = {}
    for name in recordings:
        entities = str(given[name]) if name in given else re.sub("_[A-Za-z][A-Za-z0-9]*$", "", name)
        if name not in given and ENTITIES.fullmatch(name):
            entities = name
        if ENTITIES.fullmatch(entities) is None:
            told = "names says" if name in given else "is named"
            raise UserError(
                f"{name}: {told} {entities!r}; wanted pairs of letters and digits as sub-01_ses-02_run-1, sub- in "
                f'front and desc- nowhere. No subject is guessed: give it, as --names "{{{name}: sub-01}}".'
            )
        if entities in found.values():
            raise UserError(
                f"{name}: is {entities}, and so is another recording; wanted one name each. Give it one more pair, as "
                f'--names "{{{name}: {entities}_run-2}}".'
            )
        found[name] = entities
    return found


def folder_of(entities: str) -> Path:
    """Give the folder of a recording's files inside the dataset.

    >>> folder_of("sub-01_ses-02_run-1").as_posix()
    'sub-01/ses-02/angio'
    """
    pairs = [pair for pair in entities.split("_") if pair.startswith(("sub-", "ses-"))]
    return Path(*pairs, DATATYPE)


def file_name(entities: str, kind: str, ending: str) -> str:
    """Give the name of a file.

    >>> file_name("sub-01", "axial_velocity", ".nii.gz")
    'sub-01_desc-axialVelocity_ulm.nii.gz'
    """
    first, *others = kind.split("_")
    label = first + "".join(word.capitalize() for word in others)
    return f"{entities}_desc-{label}_{SUFFIX}{ending}"
