"""Verasonics workspaces saved as .mat: what a wavelength is there, in which PData states lengths.

It is `Resource.Parameters.speedOfSound` [m/s] over `Trans.frequency` [MHz], which is the probe's and need not be the
transmitted one. Files of the PALA layout hold neither.
Source: zea 0.1.8, data/convert/verasonics.py, `wavelength`.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sparse_ulm.io.statements import Statement, positive_number

SOUND_SPEED_FIELD = ("Resource", "Parameters", "speedOfSound")
FREQUENCY_FIELD = ("Trans", "frequency")

ReadField = Callable[..., Any]
"""(path, variable, field, …) -> its value, or None where there is none."""


@dataclass(frozen=True)
class Workspace:
    """What a workspace says of wavelengths; None where it is silent.

    Attributes:
        stated: The sound speed, which is that of beamforming too.
        probe_frequency_hz: Frequency of the wavelengths that lengths are in.
    """

    stated: Statement
    probe_frequency_hz: float | None


def read_workspace(path: Path, structs: Collection[str], read_field: ReadField) -> Workspace:
    """Read sound speed and probe frequency from the structs of a .mat.

    Args:
        path: The file.
        structs: Names of the structs in it.
        read_field: Of the file's version.

    Raises:
        RecordingError: If one is there and no positive number.
    """
    sound_speed_m_s = _number(path, structs, read_field, SOUND_SPEED_FIELD)
    frequency_mhz = _number(path, structs, read_field, FREQUENCY_FIELD)
    return Workspace(
        Statement(f"Resource of {path.name}", sound_speed_m_s=sound_speed_m_s),
        None if frequency_mhz is None else float(f"{frequency_mhz * 1.0e6:.12g}"),
    )


def _number(path: Path, structs: Collection[str], read_field: ReadField, field: tuple[str, ...]) -> float | None:
    """Read one number in a struct of structs."""
    value = read_field(path, *field) if field[0] in structs else None
    numbers = np.ravel(value) if value is not None else np.zeros(0)
    if not numbers.size:
        return None
    return positive_number(numbers.item() if numbers.size == 1 else numbers.tolist(), ".".join(field), path.name)
