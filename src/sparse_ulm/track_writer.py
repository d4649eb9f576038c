"""The last step of inference with LocalisationNet: link each recording's bubbles, write its tracks and maps."""

import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.utils.enums import CommonKeys as Keys

from sparse_ulm.acquisition import Acquisition
from sparse_ulm.blocks import BlockItem, refuse_same_names
from sparse_ulm.classical.linking import Linker
from sparse_ulm.classical.pipeline import Result, join, make_linker, smooth_tracks
from sparse_ulm.classical.presets import GAUSSIAN_KALMAN, changed
from sparse_ulm.classical.run import Outputs, write_result
from sparse_ulm.errors import UserError
from sparse_ulm.io.atomic import whole_folder
from sparse_ulm.localisations import Localisations
from sparse_ulm.localise import N_COLUMNS, to_localisations
from sparse_ulm.mapping.track_map import TrackMap
from sparse_ulm.provenance import write_provenance


@dataclass
class _Open:
    """A recording whose blocks are coming in."""

    acquisition: Acquisition
    linker: Linker
    parts: list[Localisations] = field(default_factory=list)


class WriteTracks:
    """Handler: link the bubbles of each recording's blocks, and write its outputs when its last block is in.

    Writes to `OUTPUT_DIR/NAME/` what configs/classical.yaml writes: maps, picture, localisations, tracks, provenance.
    Nothing is written of a recording whose blocks could not all be read.

    Args:
        blocks: The data set's items, in order of time within a recording.
        output_dir: Where the folders go.
        threshold: A bubble is a summit of more confidence than this (`localise.find_summits`).
        linking: Changes to `presets.GAUSSIAN_KALMAN`; None values keep it.
        maps: Kinds of maps (`track_map_files.MAPS`); density is always written.
        track_formats: Kinds of files of tracks (`track_files.TRACK_FORMATS`); csv is always written.
        provenance: What `provenance.json` repeats: settings of the run.
        weights: File of the weights, hashed into `provenance.json`.

    Raises:
        UserError: If the threshold is impossible, or a kind of map or file is unknown.
    """

    def __init__(
        self,
        blocks: Sequence[BlockItem],
        *,
        output_dir: str | Path,
        threshold: float,
        linking: dict[str, Any],
        maps: str | Sequence[str],
        track_formats: str | Sequence[str],
        provenance: dict[str, Any],
        weights: str | Path,
    ) -> None:
        """Keep the settings; the output folder is made when the first recording is written."""
        if not threshold > 0.0:
            raise UserError(f"bubble_threshold is {threshold}; wanted a positive sum of probabilities, such as 1.5.")
        self.blocks, self.output_dir, self.threshold = blocks, Path(output_dir), threshold
        self.preset = changed(GAUSSIAN_KALMAN, **linking)
        self.outputs = Outputs.of(maps=maps, track_formats=track_formats)
        self.provenance, self.weights = provenance, weights
        self.open_recordings: dict[str, _Open] = {}

    def attach(self, engine: Engine) -> None:
        """Count the blocks at the start, take every batch's samples."""
        engine.add_event_handler(Events.STARTED, self._count_blocks)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def _count_blocks(self, engine: Engine) -> None:
        self.open_recordings.clear()
        self.n_blocks = Counter(item["image"].name for item in self.blocks)
        self.acquisition = {item["image"].name: item["image"] for item in self.blocks}
        self.started = time.monotonic()
        refuse_same_names(self.blocks, self.output_dir)

    def __call__(self, engine: Engine) -> None:
        """Add the samples of one batch."""
        state: Any = engine.state
        for item, sample in zip(state.batch, state.output, strict=True):
            name = item["recording"]
            if name not in self.open_recordings:
                acquisition = self.acquisition[name]
                self.open_recordings[name] = _Open(acquisition, make_linker(self.preset, acquisition.geometry))
            recording = self.open_recordings[name]
            found = self._own(sample[Keys.PRED], item)
            recording.linker.add(found)
            recording.parts.append(found)
            if len(recording.parts) == self.n_blocks[name]:
                self._write(self.open_recordings.pop(name))

    def _own(self, table: Any, item: dict[str, Any]) -> Localisations:
        """Bubbles of the block's own frames; those of its context belong to its neighbours."""
        # A block without a site is answered without the network, by the empty table of a map.
        bubbles = table.cpu() if len(table) else torch.zeros(0, N_COLUMNS)
        found = to_localisations(
            bubbles, start=item["start"], threshold=self.threshold, noise_rms=item["noise_rms"], shape=item["shape"]
        )
        first, last = item["core"]
        own = np.flatnonzero((found.frame >= first) & (found.frame < last))
        return Localisations(
            found.frame[own], found.position_voxel[own], found.amplitude[own], found.deviation_voxel[own]
        )

    def _write(self, recording: _Open) -> None:
        """Write one recording's outputs."""
        acquisition, localisations = recording.acquisition, join(recording.parts)
        tracks = smooth_tracks(recording.linker, localisations, self.preset)
        if not len(tracks):
            warnings.warn(
                f"{acquisition.name}: no track among {len(localisations)} localisations; its map is empty. "
                "Check bubble_threshold, min_length, clutter removal and the recording itself.",
                stacklevel=2,
            )
        track_map = TrackMap.of(tracks, acquisition.geometry, acquisition.shape[:3])
        result = Result(localisations, tracks, track_map)
        with whole_folder(self.output_dir / acquisition.name) as folder:
            write_result(folder, result, acquisition, self.outputs)
            write_provenance(
                folder / "provenance.json",
                config=self.provenance | {"linking": asdict(self.preset)} | asdict(self.outputs),
                inputs=[acquisition.path],
                weights=Path(self.weights),
                started=self.started,
            )
