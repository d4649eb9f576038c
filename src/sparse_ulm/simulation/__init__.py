"""Simulated recordings with known truth: vessels, flow, imaging, noise and tissue."""

from sparse_ulm.simulation.generate import draw_synthetic_tree, write_recordings
from sparse_ulm.simulation.growth import grow_vessel_tree
from sparse_ulm.simulation.parameters import (
    ParameterRanges,
    RecordingParameters,
    SimulationError,
    draw_parameters,
    parameter_ranges,
)
from sparse_ulm.simulation.recording import SimulatedRecording, simulate_recording
from sparse_ulm.simulation.tracks import Tracks
from sparse_ulm.simulation.vessels import VesselError, VesselTree, read_swc, write_swc

__all__ = [
    "ParameterRanges",
    "RecordingParameters",
    "SimulatedRecording",
    "SimulationError",
    "Tracks",
    "VesselError",
    "VesselTree",
    "draw_parameters",
    "draw_synthetic_tree",
    "grow_vessel_tree",
    "parameter_ranges",
    "read_swc",
    "simulate_recording",
    "write_recordings",
    "write_swc",
]
