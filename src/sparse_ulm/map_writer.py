"""The outputs of TrajectoryMapNet: add up a recording's blocks, write its maps, picture and provenance."""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from sparse_ulm.acquisition import Acquisition
from sparse_ulm.block_store import BlockResult
from sparse_ulm.errors import UserError
from sparse_ulm.io.dicom_map import BLOCK_DENSITY, check_dicom_grid, save_dicom_maps
from sparse_ulm.io.dicom_tags import DicomTags
from sparse_ulm.io.nifti import save_sparse_map
from sparse_ulm.mapping.accumulate import DensityAccumulator
from sparse_ulm.mapping.figure import save_projections
from sparse_ulm.motion import MotionSettings
from sparse_ulm.motion_estimation import check_motion, report_motion
from sparse_ulm.provenance import write_provenance


class MapWriter:
    """Writer of `batch.run_recordings`: `NAME_density.nii.gz` and what belongs to it.

    Writes `NAME_density.nii.gz` (number of blocks in which a voxel was visited), `NAME_probability.nii.gz` (largest of
    any block), `NAME_density.png` and `provenance.json`.

    Args:
        threshold: A voxel is visited in a block when its probability exceeds this.
        upsampling: Refinement of the network's map per axis.
        provenance: What `provenance.json` repeats: settings of the run.
        weights: File of the weights, hashed into `provenance.json`.
        dicom: Write `NAME_density.dcm` too.
        dicom_tags: What it says of patient and study (`dicom_tags.ALLOWED_TAGS`).
        motion: Fields of `motion.MotionSettings.of`: voxels of every block are moved by its mean displacement, and
            `NAME_motion.csv` is written.

    Raises:
        UserError: If the threshold is no probability, a tag is not allowed, or motion is set to something impossible.
    """

    def __init__(
        self,
        *,
        threshold: float,
        upsampling: tuple[int, int, int] | list[int],
        provenance: dict[str, Any],
        weights: str | Path,
        dicom: bool = False,
        dicom_tags: Mapping[str, Any] | None = None,
        motion: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep the settings."""
        if not 0.0 <= threshold < 1.0:
            raise UserError(f"probability_threshold is {threshold}; wanted a probability, 0 <= threshold < 1.")
        self.threshold = threshold
        x, y, z = upsampling
        self.upsampling = (int(x), int(y), int(z))
        self.dicom, self.motion = DicomTags.of(dicom, dicom_tags), MotionSettings.of(motion)
        self.provenance = provenance | {"motion": asdict(self.motion)} | DicomTags.told(self.dicom)
        self.weights = Path(weights)

    @property
    def settings(self) -> Mapping[str, Any]:
        """All that the maps follow from."""
        chosen = {"threshold": self.threshold, "weights": self.weights}
        return self.provenance | chosen | DicomTags.followed(self.dicom)

    def check(self, acquisition: Acquisition) -> None:
        """Refuse a map that DICOM cannot hold, and a recording whose motion cannot be estimated."""
        if self.dicom is not None:
            check_dicom_grid(acquisition.name, self._shape(acquisition), acquisition.geometry)
        check_motion(acquisition, self.motion)

    def result_of(self, table: Tensor, item: Mapping[str, Any]) -> BlockResult:
        """Take the voxels of one block, and their probabilities, from the network's answer."""
        rows = table.cpu().numpy()
        index = rows[:, :3].astype(np.int32)
        shape = np.asarray(item["shape"]) * np.asarray(self.upsampling)
        inside = (index < shape).all(axis=1)  # the range is padded to the network's stride
        return {"index": index[inside], "probability": rows[inside, 3], "core": np.array(item["core"])}

    def write(self, folder: Path, acquisition: Acquisition, results: Iterator[BlockResult], *, started: float) -> None:
        """Write one recording's outputs."""
        name, geometry = acquisition.name, acquisition.geometry.refined(self.upsampling)
        shape = self._shape(acquisition)
        grid = DensityAccumulator(shape, geometry, threshold=self.threshold)
        motion = report_motion(folder, acquisition, self.motion)
        for result in results:
            index, probability = result["index"], result["probability"]
            if motion is not None:
                first, last = result["core"].tolist()
                moved = motion.voxels(index, self.upsampling, (first, last))
                if moved is None:
                    continue
                inside = ((moved >= 0) & (moved < np.array(shape))).all(axis=1)
                index, probability = moved[inside], probability[inside]
            grid.add(index, probability)
        density = grid.density()
        if not density.values.any():
            warnings.warn(
                f"{name}: no voxel above the thresholds in {grid.n_blocks} blocks; its map is empty. "
                "Check noise_factor, clutter removal and the recording itself.",
                stacklevel=2,
            )
        for kind, found, description in (
            ("density", density, "blocks with a bubble, count"),
            ("probability", grid.probability(), "largest probability"),
        ):
            save_sparse_map(folder / f"{name}_{kind}.nii.gz", found, geometry, description=description)
        if self.dicom is not None:
            save_dicom_maps(folder, name, {BLOCK_DENSITY: density}, geometry, self.dicom)
        label = "Microbubble density (blocks per voxel)"
        save_projections(folder / f"{name}_density.png", density, geometry, label=label, title=name)
        write_provenance(
            folder / "provenance.json",
            config=self.provenance | ({"motion_found": motion.summary()} if motion else {}),
            inputs=[acquisition.path],
            weights=self.weights,
            started=started,
        )

    def _shape(self, acquisition: Acquisition) -> tuple[int, int, int]:
        """Give the size of the map."""
        x, y, z = (size * factor for size, factor in zip(acquisition.shape[:3], self.upsampling, strict=True))
        return x, y, z
