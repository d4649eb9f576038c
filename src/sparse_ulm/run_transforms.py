"""Prepare a block of large volumes a few frames at a time: its samples never lie in memory together, its sites do."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from sparse_ulm.acquisition import memory_runs
from sparse_ulm.errors import UserError
from sparse_ulm.recording_levels import measure_levels
from sparse_ulm.sparse import SparseTensor, as_sparse_tensor
from sparse_ulm.transforms import Data, LoadIqBlockd, for_engine


class InRunsd(MapTransform):
    """Take a recording to a sparse tensor in runs of frames, and join what they keep.

    A block that is small enough is one run. Those of a larger one are seen with the carrier, the noise and the peak of
    all of them, as if the block were not divided; a budget of sites is shared out by frames, and a PSF that is
    estimated is that of each run.

    Args:
        keys: The one key of the block.
        load: The first of the steps, which knows how recordings given as paths are opened.
        steps: From `load` to `ToSparseTensord`.
        noise_measure: How the block's noise is measured (`sparsify.measure_noise_rms`); None where the steps take the
            recording's (`MeasureRecordingd`).
        max_run_bytes: Of complex64 samples in a run; the steps hold several copies.
        site_multiple: The range is rounded up to a multiple of it, per axis (the network's total stride).

    Raises:
        UserError: If `max_run_bytes` is not positive.

    Source: our choice, because 128 frames of 128x128x128 voxels take 2 GB a copy.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        load: LoadIqBlockd,
        steps: Callable[[Any], Any],
        noise_measure: str | None,
        max_run_bytes: float | int,
        site_multiple: Sequence[int],
    ) -> None:
        """Keep the settings."""
        super().__init__(keys)
        if not max_run_bytes > 0:
            raise UserError(f"max_run_bytes is {max_run_bytes}; wanted a positive number. Set max_run_megabytes.")
        self.load, self.steps, self.noise_measure = load, steps, noise_measure
        self.max_run_bytes, self.site_multiple = max_run_bytes, site_multiple

    def __call__(self, data: Mapping[Hashable, Any]) -> Data:
        """Prepare the block."""
        key = self.first_key(dict(data))
        acquisition = self.load.acquisition_of(data[key])
        start, stop = data.get("start", 0), data.get("stop", acquisition.n_frames)
        d = dict(data) | {key: acquisition, "start": start, "stop": stop}
        n_frames = stop - start
        ranges = memory_runs(start, stop, n_bytes=self.max_run_bytes, shape=acquisition.shape[:3])
        if len(ranges) == 1:
            return self.steps(d)
        if self.noise_measure is not None and acquisition.content != "correlation":
            d["levels"] = measure_levels(acquisition, noise_measure=self.noise_measure, runs=ranges)
        runs = [self.steps(d | {"start": a, "stop": b, "share_of_sites": (b - a) / n_frames}) for a, b in ranges]
        joined = self._joined([as_sparse_tensor(run[key]) for run in runs], [a - start for a, _ in ranges], n_frames)
        return runs[0] | {"start": start, key: joined}

    def _joined(self, runs: list[SparseTensor], starts: list[int], n_frames: int) -> Any:
        """Join along time."""
        coords = [x.coords + x.coords.new_tensor([0, 0, 0, 0, at]) for x, at in zip(runs, starts, strict=True)]
        frames = n_frames + -n_frames % self.site_multiple[3]
        spatial_range = (*runs[0].spatial_range[:4], frames)
        feats = torch.cat([x.feats for x in runs])
        return for_engine(SparseTensor(torch.cat(coords), feats, spatial_range=spatial_range, engine=runs[0].engine))
