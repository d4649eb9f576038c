"""How well maps, localisations and tracks agree with the truth, and how good a map is without one.

The scores of maps and the matching of positions are imported from here; the rest from its module, as thinning
(`centre_line`) and fitting (`saturation`, `vessel_width`) need libraries that take time to load.
"""

from sparse_ulm.metrics.maps import (
    ROUNDING,
    TOLERANCES_WAVELENGTHS,
    dice,
    map_scores,
    overlap_counts,
    scores_from_counts,
    tolerant_overlap,
)
from sparse_ulm.metrics.matching import (
    Matching,
    match_frames,
    match_localisations,
    pala_pairing,
    pool_matchings,
)

__all__ = [
    "ROUNDING",
    "TOLERANCES_WAVELENGTHS",
    "Matching",
    "dice",
    "map_scores",
    "match_frames",
    "match_localisations",
    "overlap_counts",
    "pala_pairing",
    "pool_matchings",
    "scores_from_counts",
    "tolerant_overlap",
]
