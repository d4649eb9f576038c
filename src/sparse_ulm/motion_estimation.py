"""Motion estimated from a recording before any filter: averages of windows, registered upon one of them."""

from dataclasses import replace
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from sparse_ulm.acquisition import Acquisition
from sparse_ulm.errors import RecordingError
from sparse_ulm.filtered import unfiltered
from sparse_ulm.motion import Motion, MotionSettings
from sparse_ulm.registration import Registered, Registration, Volume, simpleitk

N_CANDIDATES = 9
"""Windows among which the reference is looked for, spread evenly: bounds memory and reading."""

LEAST_CORRELATION = 0.3
"""Windows that resemble the reference less after registration are rejected. Our choice, not tuned."""


def check_motion(acquisition: Acquisition, settings: MotionSettings) -> None:
    """Refuse what motion cannot be estimated of, without reading a sample.

    Raises:
        RecordingError: If it is a stored correlation map, or too short for two windows.
        UserError: If SimpleITK is missing.
    """
    if settings.is_off:
        return
    simpleitk()
    if acquisition.content == "correlation":
        raise RecordingError(
            f"{acquisition.path.name} holds a correlation map, which has no tissue; wanted IQ to estimate motion of. "
            "Set motion to none."
        )
    if len(window_bounds(acquisition.n_frames, settings.window_frames)) < 3:
        raise RecordingError(
            f"{acquisition.path.name}: motion_window_frames is {settings.window_frames} for {acquisition.n_frames} "
            "frames; wanted at least two windows. Choose shorter ones, or set motion to none."
        )


def report_motion(folder: Path, acquisition: Acquisition, settings: MotionSettings) -> Motion | None:
    """Estimate the motion of a recording and write `NAME_motion.csv`; None where it is off.

    Raises:
        RecordingError: As `estimate_motion`.
    """
    if settings.is_off:
        return None
    motion = estimate_motion(acquisition, settings)
    motion.write(folder / f"{acquisition.name}_motion.csv")
    return motion


def estimate_motion(acquisition: Acquisition, settings: MotionSettings) -> Motion:
    """Estimate the motion of a recording: rigid or not, over windows that are laid on the recording.

    Averages are means of |IQ|, which a bubble or its phase hardly changes and tissue fills. They are registered
    outward from the reference, each from where its neighbour was found, so that tissue may go far in small steps.

    Args:
        acquisition: The recording; a clutter filter in front of it is looked past. A window is read at a time.
        settings: Not off.

    Raises:
        RecordingError: If `check_motion` refuses it, or nothing resembles the reference.
    """
    check_motion(acquisition, settings)
    source = unfiltered(acquisition)
    bounds = window_bounds(source.n_frames, settings.window_frames)
    windows = list(pairwise(bounds))
    number, reference = find_reference(source, windows)
    registration = Registration(reference, source.geometry.voxel_size_m, non_rigid=settings.kind == "non_rigid")
    found = _register_outward(source, windows, number, registration)
    good = np.array([one is not None for one in found])
    if good.sum() < 2:
        raise RecordingError(
            f"{source.path.name}: no window of {settings.window_frames} frames resembles another; wanted tissue, as it "
            "is before any filter. Set motion to none, or motion_window_frames to more."
        )
    centre_frame = np.array([0.5 * (first + last - 1) for first, last in windows])
    motion = Motion(
        source.geometry,
        registration.nodes_voxel,
        centre_frame[good],
        np.stack([one.displacement_voxel for one in found if one is not None]),
        np.repeat(~good, np.diff(bounds)),
        windows[number],
    )
    rejected = motion.rejected | _too_far(motion, windows, settings.limit_m)
    return replace(motion, rejected=rejected)


def window_bounds(n_frames: int, window_frames: int) -> list[int]:
    """Divide a recording into windows of as many frames, about, whatever its blocks are."""
    n_windows = max(1, round(n_frames / window_frames))
    return [int(bound) for bound in np.linspace(0, n_frames, n_windows + 1).astype(int)]


def find_reference(source: Acquisition, windows: list[tuple[int, int]]) -> tuple[int, Volume]:
    """Choose the window that resembles the others most, so that the map lies where tissue is most of the time.

    The middle one could lie in a breath, from which most other frames are far (our choice).
    """
    chosen = np.unique(np.round(np.linspace(0, len(windows) - 1, min(N_CANDIDATES, len(windows)))).astype(int))
    averages = np.stack([average(source, *windows[number]) for number in chosen])
    with np.errstate(invalid="ignore"):
        alike = np.nan_to_num(np.corrcoef(averages.reshape(len(chosen), -1)))
    best = int(alike.mean(axis=0).argmax())
    return int(chosen[best]), averages[best]


def average(source: Acquisition, first: int, last: int) -> Volume:
    """Average |IQ| over frames."""
    return np.abs(source.frames(first, last)).mean(axis=3, dtype=np.float64).astype(np.float32)


def _register_outward(
    source: Acquisition, windows: list[tuple[int, int]], reference: int, registration: Registration
) -> list[Registered | None]:
    """Register all windows; None for those that fail or resemble the reference too little."""
    found: list[Registered | None] = [None] * len(windows)
    start: tuple[float, ...] | None = None
    for number in chain(range(reference, len(windows)), range(reference - 1, -1, -1)):
        if number == reference - 1:
            start = None
        try:
            one = registration.register(average(source, *windows[number]), start=start)
        except RuntimeError:
            continue
        if one.correlation >= LEAST_CORRELATION:
            found[number], start = one, one.parameters
    return found


def _too_far(motion: Motion, windows: list[tuple[int, int]], limit_m: float | None) -> Bool[np.ndarray, " frames"]:
    """Tell which frames are farther from the reference, or of a window that moves farther, than the limit."""
    if limit_m is None:
        return np.zeros(len(motion.rejected), dtype=bool)
    too_far = motion.largest_m() > limit_m
    axes = motion.geometry.matrix_m[:3, :3]
    for first, last in windows:
        begin, end = motion.field_voxel(np.array([first - 0.5, last - 0.5]))
        jump_m: Float[np.ndarray, "gx gy gz"] = np.linalg.norm((end - begin) @ axes.T, axis=3)
        too_far[first:last] |= jump_m.max() > limit_m
    return too_far
