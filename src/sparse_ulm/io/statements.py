"""What one source (header, sidecar, option) states about a recording, with the checks on single numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparse_ulm.conventions import METRES_PER_MM
from sparse_ulm.errors import RecordingError


@dataclass(frozen=True)
class Quantity:
    """One physical quantity: how it is called in messages, in the sidecar and as an option, and what is believable."""

    name: str
    unit: str
    key: str
    option: str
    believable: tuple[float, float]


VOXEL_SIZE = Quantity("voxel size", "mm", "VoxelSize", "voxel_size_mm", (1.0e-5, 1.0e2))
FRAME_RATE = Quantity("frame rate", "Hz", "CompoundSamplingFrequency", "frame_rate_hz", (1.0e-3, 1.0e7))
FREQUENCY = Quantity("transmit frequency", "Hz", "UltrasoundTransmitFrequency", "transmit_frequency_hz", (1.0e4, 1.0e9))
SOUND_SPEED = Quantity("sound speed", "m/s", "BeamformingSoundVelocity", "sound_speed_m_s", (1.0e2, 1.0e4))
SCALARS = (FRAME_RATE, FREQUENCY, SOUND_SPEED)
ORIGIN_KEY, AXES_KEY = "Origin", "Axes"


@dataclass(frozen=True)
class Statement:
    """What one source says; None where it is silent.

    Attributes:
        source: Name for messages, as "rec.json" or "the header of rec.nii".
        voxel_size_mm: Along x, y, z; None for an axis it is silent on.
        origin_mm: Scanner position of the first voxel's centre.
        directions: 3x3, columns of unit length: where x, y and z point in the scanner. None is along its axes.
        frame_rate_hz: Volumes per second, after compounding.
        transmit_frequency_hz: Centre frequency of the transmitted pulse.
        sound_speed_m_s: Sound speed used in beamforming.
        axes: Order of the stored array's axes, as ("x", "z", "t").
    """

    source: str
    voxel_size_mm: tuple[float | None, float | None, float | None] = (None, None, None)
    origin_mm: tuple[float, float, float] | None = None
    directions: tuple[tuple[float, ...], ...] | None = None
    frame_rate_hz: float | None = None
    transmit_frequency_hz: float | None = None
    sound_speed_m_s: float | None = None
    axes: tuple[str, ...] | None = None


Number = float | int
Options = dict[str, Sequence[Number] | Number | None]
"""voxel_size_mm, frame_rate_hz, transmit_frequency_hz and sound_speed_m_s as the caller gave them."""


def state_options(options: Options) -> Statement:
    """Turn the caller's keywords into a statement.

    Raises:
        RecordingError: If one is not a positive number, or the voxel size is not three of them.
    """
    return state_values(options, {quantity: quantity.option for quantity in (VOXEL_SIZE, *SCALARS)}, "the options")


def state_values(values: dict, keys: dict[Quantity, str], source: str, **others: object) -> Statement:  # type: ignore[type-arg]
    """Check the quantities in `values`, each under its name in `keys`, and make a statement of them.

    Raises:
        RecordingError: If one is not a positive number, or the voxel size is not three of them.
    """
    given = {quantity: values[key] for quantity, key in keys.items() if values.get(key) is not None}
    checked: dict[str, object] = {
        q.option: positive_number(v, keys[q], source) for q, v in given.items() if q in SCALARS
    }
    if VOXEL_SIZE in given:
        checked["voxel_size_mm"] = three_numbers(given[VOXEL_SIZE], keys[VOXEL_SIZE], source, positive=True)
    return Statement(source, **checked, **others)  # type: ignore[arg-type]


def positive_number(value: object, key: str, source: str) -> float:
    """Check one number of a header, a sidecar or an option.

    Raises:
        RecordingError: If it is not a finite, positive number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 < value < 1.0e300:
        raise RecordingError(f"{source}: {key} is {value!r}; wanted one positive number. Correct it.")
    return float(value)


def three_numbers(
    value: object, key: str, source: str, *, positive: bool = False, unit: str = "mm"
) -> tuple[float, float, float]:
    """Check a triple (x, y, z) of a header, a sidecar or an option.

    Raises:
        RecordingError: If it is not three finite numbers, or they must be positive and are not.
    """
    try:
        x, y, z = (float(v) for v in value)  # type: ignore[attr-defined]
    except (TypeError, ValueError, OverflowError):
        x = y = z = np.nan
    if not np.isfinite([x, y, z]).all() or (positive and min(x, y, z) <= 0):
        kind = "positive numbers" if positive else "numbers"
        raise RecordingError(f"{source}: {key} is {value!r}; wanted three {kind}, x, y and z, in {unit}. Correct it.")
    return x, y, z


def metres(lengths_mm: Sequence[float]) -> list[float]:
    """Turn millimetres into metres, rounded to 12 digits so that every file format gives the same floats.

    >>> metres([0.3])
    [0.0003]
    """
    return [float(f"{length * METRES_PER_MM:.12g}") for length in lengths_mm]


def millimetres(lengths_m: Sequence[float]) -> list[float]:
    """Turn metres into millimetres, rounded to 12 digits.

    >>> millimetres([0.0003])
    [0.3]
    """
    return [float(f"{length / METRES_PER_MM:.12g}") for length in lengths_m]
