"""The items of a data set: blocks of frames of recordings, listed without reading a sample."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sparse_ulm.acquisition import Acquisition, block_ranges
from sparse_ulm.clutter import ClutterFilter
from sparse_ulm.errors import RecordingError, UserError
from sparse_ulm.filtered import filtered
from sparse_ulm.io import find_recordings, open_recordings, read_correlation_truth
from sparse_ulm.io.names import recording_stem, recording_suffix, split_group
from sparse_ulm.io.truth import Truth, read_truth

BlockItem = dict[str, Any]
"""One block: its acquisition (`image`, and again as `label` where truth is wanted), the frames `start` to `stop` that
are read, and of them the frames `core` = (first, one past the last) that are the block's own."""


class RecordingBlocks(Sequence[BlockItem]):
    """All blocks of all recordings in a folder (or of one file), listed when first needed.

    Being lazy, it can be built before the data is there, as MONAI's `check_properties` does; a folder without
    recordings is an error once the blocks are asked for by `require`.

    Args:
        dataset_dir: Folder of recordings, or one recording.
        block_frames: Frames per block; a recording's last block may be shorter.
        with_truth: Add `label`, from which `transforms.LoadTruthd` reads the truth beside the recording.
        geometry: Keyword overrides for `io.open_recording` (voxel_size_mm, frame_rate_hz, ...); None values are left
            out.
        context_frames: Frames read before and behind a block's own, where the recording has them.
        clutter: Fields of `clutter.ClutterFilter`, which recordings are read through; None values are left out.
        keep_going: Set recordings aside that cannot be opened, in place of raising.

    Attributes:
        unreadable: Those set aside, and why.
    """

    def __init__(
        self,
        dataset_dir: str | Path,
        *,
        block_frames: int,
        with_truth: bool = False,
        geometry: dict[str, Any] | None = None,
        context_frames: int = 0,
        clutter: dict[str, Any] | None = None,
        keep_going: bool = False,
    ) -> None:
        """Keep the settings; nothing is read."""
        self.keep_going = keep_going
        self.unreadable: list[tuple[Path, RecordingError]] = []
        self._selected: list[BlockItem] | None = None
        self.clutter = ClutterFilter.of(clutter)
        self.dataset_dir = Path(dataset_dir)
        self.block_frames, self.context_frames = block_frames, context_frames
        self.with_truth = with_truth
        self.geometry = {key: value for key, value in (geometry or {}).items() if value is not None}
        self._items: list[BlockItem] | None = None

    def __len__(self) -> int:
        """Return the number of blocks; 0 while the folder does not exist or is empty."""
        if self._items is None and not self._has_recordings():
            return 0
        return len(self._chosen())

    def __getitem__(self, index: Any) -> Any:
        """Return one item, or a list of them for a slice."""
        return self._chosen()[index]

    def __iter__(self) -> Iterator[BlockItem]:
        """Iterate over the items, recording by recording, in time order."""
        return iter(self._chosen())

    def by_recording(self) -> dict[str, list[BlockItem]]:
        """Give all items by the name of their recording, whatever is selected."""
        groups: dict[str, list[BlockItem]] = {}
        for item in self._listed():
            groups.setdefault(item["image"].name, []).append(item)
        return groups

    def select(self, name: str | None, starts: Iterable[int] = ()) -> None:
        """Be the blocks of one recording that begin with these frames; None for all blocks of all."""
        wanted = set(starts)
        items = None if name is None else [i for i in self.by_recording()[name] if i["core"][0] in wanted]
        self._selected = items

    def require(self) -> None:
        """Refuse an empty data set.

        Raises:
            RecordingError: If the folder is missing or holds no recording.
        """
        if not self._exists():
            raise RecordingError(
                f"dataset_dir {self.dataset_dir} does not exist; wanted a folder of recordings or one recording. "
                "Pass --dataset_dir."
            )
        self._listed()

    def _exists(self) -> bool:
        return split_group(self.dataset_dir)[0].exists()

    def _has_recordings(self) -> bool:
        try:
            return bool(find_recordings(self.dataset_dir))
        except RecordingError:
            return False

    def _chosen(self) -> list[BlockItem]:
        return self._listed() if self._selected is None else self._selected

    def _open(self, path: Path) -> list[Acquisition]:
        try:
            return [filtered(acquisition, self.clutter) for acquisition in open_recordings(path, **self.geometry)]
        except RecordingError as error:
            if not self.keep_going:
                raise
            self.unreadable.append((path, error))
            return []

    def _listed(self) -> list[BlockItem]:
        if self._items is None:
            self.unreadable.clear()
            opened = [acquisition for path in find_recordings(self.dataset_dir) for acquisition in self._open(path)]
            self._items = [
                self._item(acquisition, start, stop)
                for acquisition in with_distinct_names(opened)
                for start, stop in block_ranges(acquisition.n_frames, self.block_frames)
            ]
        return self._items

    def _item(self, acquisition: Acquisition, start: int, stop: int) -> BlockItem:
        first, last = max(0, start - self.context_frames), min(acquisition.n_frames, stop + self.context_frames)
        item: BlockItem = {"image": acquisition, "start": first, "stop": last, "core": (start, stop)}
        if self.with_truth:
            item["label"] = acquisition
        return item


def with_distinct_names(acquisitions: Sequence[Acquisition]) -> list[Acquisition]:
    """Add the file's ending to names that several recordings share (`rec.npz`, `rec.mat`): outputs would collide."""
    count = Counter(acquisition.name for acquisition in acquisitions)
    return [
        replace(a, name=a.name + recording_suffix(a.path).replace(".", "_")) if count[a.name] > 1 else a
        for a in acquisitions
    ]


def refuse_same_names(blocks: Iterable[BlockItem], output_dir: str | Path) -> None:
    """Refuse what cannot be written to OUTPUT_DIR/NAME/.

    Raises:
        UserError: If `with_distinct_names` left two recordings one name, or `output_dir` is a file.
    """
    path_of: dict[str, Path] = {}
    for item in blocks:
        name, path = item["image"].name, item["image"].path
        if path_of.setdefault(name, path) != path:
            raise UserError(
                f"{path_of[name].name} and {path.name} would both be written to {Path(output_dir) / name}; wanted "
                "recordings of different names. Rename one, or run them one by one with --dataset_dir FILE."
            )
    if Path(output_dir).exists() and not Path(output_dir).is_dir():
        raise UserError(f"output_dir {output_dir} is a file; wanted a folder to write to. Choose another.")


def truth_of(acquisition: Acquisition) -> Truth:
    """Read the truth of a simulated recording: `NAME_truth.csv` beside it, or its own group in a training HDF5.

    Raises:
        RecordingError: If there is none.
    """
    if acquisition.content == "correlation":
        return _stored_truth(acquisition)
    path = acquisition.path.with_name(f"{recording_stem(acquisition.path)}_truth.csv")
    if not path.exists():
        raise RecordingError(
            f"{acquisition.path.name} has no {path.name} beside it; training and evaluation need simulated recordings "
            "with their truth (configs/simulate.yaml writes both)."
        )
    return read_truth(path, acquisition.geometry)


def _stored_truth(acquisition: Acquisition) -> Truth:
    """Read the truth of a training HDF5's group."""
    track_id, frame, position_voxel = read_correlation_truth(
        acquisition.path, acquisition.details["group"], acquisition.geometry
    )
    # Rows without a track are bubbles of their own: with one number for all, neighbours in time would be joined.
    track_id = np.where(track_id < 0, -1 - np.arange(len(track_id)), track_id)
    if acquisition.spatial_dims == 2:
        position_voxel[:, 1] = 0.0  # the method's 2D set is a projection along y
    return Truth(track_id, frame, position_voxel)
