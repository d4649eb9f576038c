"""The outputs of LocalisationNet: link a recording's bubbles, write its tracks and maps."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparse_ulm.acquisition import Acquisition
from sparse_ulm.block_store import BlockResult
from sparse_ulm.classical.outputs import Outputs, check_linking, write_linked
from sparse_ulm.classical.presets import GAUSSIAN_KALMAN, changed
from sparse_ulm.errors import UserError
from sparse_ulm.io.dicom_tags import DicomTags
from sparse_ulm.localise import N_COLUMNS, to_localisations
from sparse_ulm.motion import MotionSettings
from sparse_ulm.motion_estimation import check_motion


class TrackWriter:
    """Writer of `batch.run_recordings`: what configs/classical.yaml writes, of the network's bubbles.

    Args:
        threshold: A bubble is a summit of more confidence than this (`localise.find_summits`).
        linking: Changes to `presets.GAUSSIAN_KALMAN`; None values keep it.
        maps: Kinds of maps (`track_map_files.MAPS`); density is always written.
        track_formats: Kinds of files of tracks (`track_files.TRACK_FORMATS`); csv is always written.
        provenance: What `provenance.json` repeats: settings of the run.
        weights: File of the weights, hashed into `provenance.json`.
        dicom: Write density and speed as DICOM too.
        dicom_tags: What they say of patient and study (`dicom_tags.ALLOWED_TAGS`).
        motion: Fields of `motion.MotionSettings.of`.

    Raises:
        UserError: If the threshold or the motion is impossible, or a kind of map or file is unknown.
    """

    def __init__(
        self,
        *,
        threshold: float,
        linking: dict[str, Any],
        maps: str | Sequence[str],
        track_formats: str | Sequence[str],
        provenance: dict[str, Any],
        weights: str | Path,
        dicom: bool = False,
        dicom_tags: Mapping[str, Any] | None = None,
        motion: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep the settings."""
        if not threshold > 0.0:
            raise UserError(f"bubble_threshold is {threshold}; wanted a positive sum of probabilities, such as 1.5.")
        self.threshold = threshold
        self.preset = changed(GAUSSIAN_KALMAN, **linking)
        self.outputs = Outputs.of(maps=maps, track_formats=track_formats, dicom=dicom, dicom_tags=dicom_tags)
        self.motion = MotionSettings.of(motion)
        self.provenance = (
            provenance | {"linking": asdict(self.preset), "motion": asdict(self.motion)} | self.outputs.told()
        )
        self.weights = Path(weights)

    @property
    def settings(self) -> Mapping[str, Any]:
        """All that the outputs follow from."""
        chosen = {"threshold": self.threshold, "weights": self.weights}
        return self.provenance | chosen | DicomTags.followed(self.outputs.dicom)

    def check(self, acquisition: Acquisition) -> None:
        """Refuse settings of linking, smoothing and motion that are impossible for a recording."""
        self.outputs.check(acquisition)
        check_linking(acquisition, self.preset)
        check_motion(acquisition, self.motion)

    def result_of(self, table: Tensor, item: Mapping[str, Any]) -> BlockResult:
        """Take the bubbles of the block's own frames; those of its context belong to its neighbours."""
        # A block without a site is answered without the network, by the empty table of a map.
        bubbles = table.cpu() if len(table) else torch.zeros(0, N_COLUMNS)
        found = to_localisations(
            bubbles, start=item["start"], threshold=self.threshold, noise_rms=item["noise_rms"], shape=item["shape"]
        )
        first, last = item["core"]
        own = np.flatnonzero((found.frame >= first) & (found.frame < last))
        return {name: column[own] for name, column in vars(found).items()}

    def write(self, folder: Path, acquisition: Acquisition, results: Iterator[BlockResult], *, started: float) -> None:
        """Write one recording's outputs."""
        write_linked(
            folder,
            acquisition,
            results,
            self.preset,
            self.outputs,
            provenance=self.provenance,
            weights=self.weights,
            started=started,
            motion=self.motion,
            advice="Check bubble_threshold, min_length, clutter removal and the recording itself.",
        )
