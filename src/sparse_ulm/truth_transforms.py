"""MONAI dictionary transform for LocalisationNet: the truth beside a recording as positions, frame by frame."""

from collections.abc import Hashable, Mapping

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from sparse_ulm.blocks import truth_of
from sparse_ulm.transforms import Data


class LoadTruthPositionsd(MapTransform):
    """Turn the truth beside a recording into the bubbles of a block; after `ToSparseTensord`, whose noise it needs.

    float64 rows (x, y, z, frame, amplitude): positions in voxels from the first voxel's centre, frames from the
    block's first, amplitudes over the noise rms (NaN where the truth has none).
    """

    def __init__(self, keys: KeysCollection, *, block_frames: int) -> None:
        """Keep the number of frames of a block."""
        super().__init__(keys)
        self.block_frames = block_frames

    def __call__(self, data: Mapping[Hashable, object]) -> Data:
        """Read the truth of every key, an acquisition."""
        d: Data = dict(data)
        for key in self.key_iterator(d):
            truth = truth_of(d[key])
            frame = truth.frame - d["start"]
            rows = (frame >= 0) & (frame < self.block_frames)
            amplitude = np.full(len(truth), np.nan) if truth.amplitude is None else truth.amplitude
            over_noise = amplitude / d["noise_rms"] if d["noise_rms"] > 0 else np.full(len(truth), np.nan)
            table = np.column_stack([truth.position_voxel, frame, over_noise])[rows]
            d[key] = torch.from_numpy(table)
        return d
