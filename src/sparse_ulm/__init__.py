"""Sparse-tensor networks for ultrasound localisation microscopy in 3D."""

__version__ = "0.1.0"
