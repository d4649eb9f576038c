"""The conventional pipeline: detection, sub-voxel localisation, linking. It needs no network."""
