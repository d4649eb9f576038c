"""Hand-made vessels, grids and bubbles for the tests of the simulation."""

import numpy as np

from sparse_ulm.acquisition import Geometry
from sparse_ulm.simulation.flow import FlowLaw
from sparse_ulm.simulation.tracks import Tracks
from sparse_ulm.simulation.vessels import VesselTree

UNEQUAL_VOXEL_M = (50e-6, 60e-6, 35e-6)


def straight_vessel(n_nodes: int = 101, step_m: float = 10e-6, radius_m: float = 10e-6) -> VesselTree:
    """One vessel along x from the origin."""
    positions = np.zeros((n_nodes, 3))
    positions[:, 0] = np.arange(n_nodes) * step_m
    return VesselTree(positions, np.full(n_nodes, radius_m), np.arange(-1, n_nodes - 1))


def steady_law(**changes: float) -> FlowLaw:
    """1 mm/s at 20 um, no pulse."""
    values = {
        "speed_at_20_um_m_s": 1e-3,
        "speed_exponent": 1.0,
        "slowest_m_s": 1e-6,
        "fastest_m_s": 1.0,
        "leaf_weight_exponent": 0.0,
        "pulsatility": 0.0,
        "heart_rate_hz": 5.0,
        "midway_birth_share": 0.0,
    }
    return FlowLaw(**(values | changes))


def make_geometry(voxel_size_m: tuple[float, float, float] = UNEQUAL_VOXEL_M) -> Geometry:
    """A grid away from the origin, 15.4 MHz: a wavelength of 100 um."""
    return Geometry.from_voxel_size(
        voxel_size_m,
        (-3e-4, 2e-4, 5e-3),
        frame_rate_hz=500.0,
        transmit_frequency_hz=15.4e6,
        sound_speed_m_s=1540.0,
    )


def one_bubble(
    geometry: Geometry, position_voxel: list[float], amplitude: float = 1.0, phase_rad: float = 0.0
) -> Tracks:
    """A bubble in frame 0."""
    return Tracks(
        np.zeros(1, dtype=np.int64),
        np.zeros(1, dtype=np.int64),
        geometry.to_scanner_m(np.array([position_voxel], dtype=np.float64)),
        np.array([amplitude]),
        np.array([phase_rad]),
    )
