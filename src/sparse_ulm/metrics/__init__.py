"""How well maps, localisations and tracks agree with the truth, and how good a map is without one."""

from sparse_ulm.metrics.maps import (
    ROUNDING,
    dice,
    map_scores,
    overlap_counts,
    scores_from_counts,
    tolerant_overlap,
)
from sparse_ulm.metrics.matching import Matching, match_localisations

__all__ = [
    "ROUNDING",
    "Matching",
    "dice",
    "map_scores",
    "match_localisations",
    "overlap_counts",
    "scores_from_counts",
    "tolerant_overlap",
]
