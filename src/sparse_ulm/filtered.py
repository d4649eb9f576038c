"""A recording behind a clutter filter, read as if its file were filtered: window by window, however it is then cut."""

from collections import OrderedDict
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch

from sparse_ulm.acquisition import Acquisition
from sparse_ulm.clutter import ClutterFilter, filter_clutter
from sparse_ulm.conventions import Frames
from sparse_ulm.errors import RecordingError, UserError

N_KEPT = 2
"""Filtered windows that are remembered, of all recordings together: blocks that look into their neighbours filter each
window once, and recordings that are done hold no memory."""

_kept: OrderedDict[tuple["FilteredFrames", int], Frames] = OrderedDict()


def filtered(acquisition: Acquisition, clutter: ClutterFilter) -> Acquisition:
    """Put a recording behind a filter; one that is off, or a stored correlation map, which is past it, stays."""
    if clutter.is_off or acquisition.content == "correlation":
        return acquisition
    return replace(acquisition, read=FilteredFrames(acquisition, clutter))


def unfiltered(acquisition: Acquisition) -> Acquisition:
    """Give the recording as its file has it."""
    return acquisition.read.acquisition if isinstance(acquisition.read, FilteredFrames) else acquisition


class FilteredFrames:
    """Read filtered frames: `(start, stop)` as `Acquisition.read` takes them.

    The recording is divided into windows of as many frames, about `window_frames`, and each is filtered together with
    `overlap_frames` on either side, which smooth its ends. A frame's window does not depend on what is read, and so
    no result on how blocks are cut.
    """

    def __init__(self, acquisition: Acquisition, clutter: ClutterFilter) -> None:
        """Keep the recording and the filter; nothing is read."""
        self.acquisition, self.clutter = acquisition, clutter
        n_windows = max(1, round(acquisition.n_frames / clutter.window_frames))
        self.bounds = np.linspace(0, acquisition.n_frames, n_windows + 1).astype(int).tolist()

    def __call__(self, start: int, stop: int) -> Frames:
        """Read, filter, cut.

        Raises:
            RecordingError: If frames cannot be read, or not be filtered so.
        """
        parts = []
        for index, (first, last) in enumerate(pairwise(self.bounds)):
            if first < stop and start < last:
                window = self._window(index)
                parts.append(window[..., max(start, first) - first : min(stop, last) - first])
        return np.concatenate(parts, axis=3)

    def _window(self, index: int) -> Frames:
        key = (self, index)
        if key not in _kept:
            _kept[key] = self._filter(self.bounds[index], self.bounds[index + 1])
            if len(_kept) > N_KEPT:
                _kept.popitem(last=False)
        _kept.move_to_end(key)
        return _kept[key]

    def _filter(self, first: int, last: int) -> Frames:
        source, overlap = self.acquisition, self.clutter.overlap_frames
        begin, end = max(0, first - overlap), min(source.n_frames, last + overlap)
        iq = torch.from_numpy(np.ascontiguousarray(source.frames(begin, end)))
        try:
            kept = filter_clutter(iq, self.clutter, frame_rate_hz=source.geometry.frame_rate_hz)
        except UserError as error:
            raise RecordingError(f"{source.path.name}, frames {begin}:{end}: {error}") from error
        own = kept[..., first - begin : last - begin].numpy()
        # A bubble brightens an image. What is darker than its mean would come out as bright, in the magnitude.
        return own.real.clip(min=0.0).astype(own.dtype) if source.content == "envelope" else own
