"""One small recording whose samples tell where they belong, and its geometry."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tell_tale import tell_tale

from sparse_ulm.acquisition import Geometry

SIDECAR = {
    "VoxelSize": [0.1, 0.2, 0.05],
    "Origin": [1.0, -2.0, 3.5],
    "CompoundSamplingFrequency": 800.0,
    "UltrasoundTransmitFrequency": 7.7e6,
    "BeamformingSoundVelocity": 1540.0,
}


@pytest.fixture
def frames() -> np.ndarray:
    """3D: unequal sizes 5, 6, 7, 8."""
    return tell_tale(5, 6, 7, 8)


@pytest.fixture
def flat_frames() -> np.ndarray:
    """2D: one voxel along y."""
    return tell_tale(5, 1, 7, 8)


@pytest.fixture
def geometry() -> Geometry:
    """What `SIDECAR` says, in metres."""
    return Geometry.from_voxel_size(
        (1.0e-4, 2.0e-4, 5.0e-5),
        (1.0e-3, -2.0e-3, 3.5e-3),
        frame_rate_hz=800.0,
        transmit_frequency_hz=7.7e6,
        sound_speed_m_s=1540.0,
    )


@pytest.fixture
def flat_geometry() -> Geometry:
    """The same for 2D in the PALA layout, where y is as thick as the step along x."""
    return Geometry.from_voxel_size(
        (1.0e-4, 1.0e-4, 5.0e-5),
        (1.0e-3, -2.0e-3, 3.5e-3),
        frame_rate_hz=800.0,
        transmit_frequency_hz=7.7e6,
        sound_speed_m_s=1540.0,
    )


@pytest.fixture
def write_sidecar_of() -> Callable[..., None]:
    """Write STEM.json beside a recording; None as a value removes the key."""

    def write(path: Path, **changes: object) -> None:
        content = {key: value for key, value in {**SIDECAR, **changes}.items() if value is not None}
        path.with_name(path.name.split(".")[0] + ".json").write_text(json.dumps(content))

    return write
