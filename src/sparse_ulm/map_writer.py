"""The last step of inference: add up each recording's blocks and write its maps, picture and provenance."""

import time
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from monai.utils.enums import CommonKeys as Keys

from sparse_ulm.blocks import BlockItem, refuse_same_names
from sparse_ulm.conventions import DensityMap
from sparse_ulm.errors import UserError
from sparse_ulm.io import save_map
from sparse_ulm.io.atomic import whole_folder
from sparse_ulm.mapping.accumulate import DensityAccumulator
from sparse_ulm.mapping.figure import save_projections
from sparse_ulm.provenance import write_provenance


class WriteMaps:
    """Handler: add up the maps of each recording's blocks, and write its folder of outputs when its last block is in.

    Writes `OUTPUT_DIR/NAME/NAME_density.nii.gz` (number of blocks in which a voxel was visited),
    `NAME_probability.nii.gz` (largest of any block), `NAME_density.png` and `provenance.json`. Nothing is written of a
    recording whose blocks could not all be read.

    Args:
        blocks: The data set's items, which tell how many blocks each recording has.
        output_dir: Where the folders go.
        threshold: A voxel is visited in a block when its probability exceeds this.
        upsampling: Refinement of the network's map per axis.
        provenance: What `provenance.json` repeats: settings of the run.
        weights: File of the weights, hashed into `provenance.json`.
    """

    def __init__(
        self,
        blocks: Sequence[BlockItem],
        *,
        output_dir: str | Path,
        threshold: float,
        upsampling: tuple[int, int, int] | list[int],
        provenance: dict[str, Any],
        weights: str | Path,
    ) -> None:
        """Keep the settings; the output folder is made when the first map is written."""
        if not 0.0 <= threshold < 1.0:
            raise UserError(f"probability_threshold is {threshold}; wanted a probability, 0 <= threshold < 1.")
        self.blocks, self.output_dir, self.threshold = blocks, Path(output_dir), threshold
        x, y, z = upsampling
        self.upsampling = (int(x), int(y), int(z))
        self.provenance, self.weights = provenance, weights
        self.open_maps: dict[str, DensityAccumulator] = {}

    def attach(self, engine: Engine) -> None:
        """Count the blocks at the start, take every batch's samples."""
        engine.add_event_handler(Events.STARTED, self._count_blocks)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def _count_blocks(self, engine: Engine) -> None:
        self.open_maps.clear()
        self.n_blocks = Counter(item["image"].name for item in self.blocks)
        self.started = time.monotonic()
        refuse_same_names(self.blocks, self.output_dir)

    def __call__(self, engine: Engine) -> None:
        """Add the samples of one batch."""
        state: Any = engine.state
        for item, sample in zip(state.batch, state.output, strict=True):
            name, geometry, shape = item["recording"], item["geometry"], item["shape"]
            if name not in self.open_maps:
                x, y, z = (size * factor for size, factor in zip(shape, self.upsampling, strict=True))
                self.open_maps[name] = DensityAccumulator(
                    (x, y, z), geometry.refined(self.upsampling), threshold=self.threshold
                )
            grid = self.open_maps[name]
            table = sample[Keys.PRED].cpu().numpy()
            index = table[:, :3].astype(np.int64)
            inside = (index < np.asarray(grid.shape_refined)).all(axis=1)  # the range is padded to the network's stride
            grid.add(index[inside], table[inside, 3])
            if grid.n_blocks == self.n_blocks[name]:
                self._write(name, self.open_maps.pop(name), item)

    def _write(self, name: str, grid: DensityAccumulator, item: dict[str, Any]) -> None:
        """Write one recording's outputs."""
        density = grid.density()
        if not density.any():
            warnings.warn(
                f"{name}: no voxel above the thresholds in {grid.n_blocks} blocks; its map is empty. "
                "Check noise_factor, clutter removal and the recording itself.",
                stacklevel=2,
            )
        with whole_folder(self.output_dir / name) as folder:
            self._write_files(folder, name, density, grid, item)

    def _write_files(
        self, folder: Path, name: str, density: DensityMap, grid: DensityAccumulator, item: dict[str, Any]
    ) -> None:
        geometry = grid.geometry_refined
        save_map(folder / f"{name}_density.nii.gz", density, geometry, description="blocks with a bubble, count")
        save_map(folder / f"{name}_probability.nii.gz", grid.probability(), geometry, description="largest probability")
        label = "Microbubble density (blocks per voxel)"
        save_projections(folder / f"{name}_density.png", density, geometry, label=label, title=name)
        write_provenance(
            folder / "provenance.json",
            config=self.provenance,
            inputs=[Path(item["path"])],
            weights=Path(self.weights),
            started=self.started,
        )
