"""MONAI transforms that train CandidateNet: a block as dense features, its truth as a dense mask per frame."""

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from sparse_ulm.networks.candidate import candidate_features
from sparse_ulm.sparsify import measure_noise_rms

Data = dict[Hashable, Any]


class ToCandidateFeaturesd(MapTransform):
    """Describe every voxel of a demodulated block, float32 (4, x, y, z, t); drops `correlation`."""

    def __init__(self, keys: KeysCollection, noise_measure: str) -> None:
        """Keep how the noise is measured (`sparsify.measure_noise_rms`)."""
        super().__init__(keys)
        self.noise_measure = noise_measure

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Make the features of every key."""
        d = dict(data)
        for key in self.key_iterator(d):
            noise_rms = measure_noise_rms(d[key], noise_measure=self.noise_measure)
            d[key] = candidate_features(d[key], d.pop("correlation"), noise_rms=noise_rms)
        return d


class ToTargetMaskd(MapTransform):
    """Turn truth rows (x, y, z, frame) on the input's grid into a float32 mask (1, x, y, z, t).

    The rows come from `transforms.LoadTruthd` with `slot_frames: 1` and `upsampling: [1, 1, 1]`.

    Args:
        keys: The truth.
        like: Key of the features, whose grid the mask takes.
        dilation: Voxels by which a bubble's own voxel grows to every side in space: what a network of small kernels
            needs around a bubble to tell where in the voxel it is. Not in time.
    """

    def __init__(self, keys: KeysCollection, *, like: str, dilation: int) -> None:
        """Keep the settings."""
        super().__init__(keys)
        self.like, self.dilation = like, dilation

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Make the mask of every key."""
        d = dict(data)
        for key in self.key_iterator(d):
            mask = torch.zeros(d[self.like].shape[1:])
            mask[d[key].long().unbind(1)] = 1.0
            frames = mask.movedim(-1, 0)[:, None]
            size = 2 * self.dilation + 1
            grown = torch.nn.functional.max_pool3d(frames, size, stride=1, padding=self.dilation)
            d[key] = grown[:, 0].movedim(0, -1)[None].contiguous()
        return d
