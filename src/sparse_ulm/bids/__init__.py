"""The outputs of a run as a BIDS derivative dataset: `sub-01/angio/sub-01_desc-density_ulm.nii.gz` and its sidecar."""

from sparse_ulm.bids.export import export_bids

__all__ = ["export_bids"]
