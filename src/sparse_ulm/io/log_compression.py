"""Grey values of a clinical image back to amplitudes: what can be known of an envelope once it was log-compressed."""

from typing import Any

import numpy as np
from jaxtyping import Float32, Shaped
from numpy.typing import NDArray

from sparse_ulm.errors import RecordingError

BELIEVABLE_DB = (10.0, 200.0)
"""Displays show 40 to 100 dB; what lies outside of this is no dynamic range, but a ratio or a typing error."""

MAX_COLOUR = 16
"""Grey levels of 255 by which red, green and blue may differ: our choice, for lossy compression tints greys."""

ENVELOPE_NOTE = (
    "log-compressed envelope, no IQ: grey values are taken to be linear in decibels over dynamic_range_db; curves of "
    "the display, gain over depth and saturation are not undone, so that amplitudes and noise are rough, and there is "
    "no phase. Only the conventional pipeline can use it"
)


def require_dynamic_range(name: str, dynamic_range_db: float | int | None) -> float:
    """Check the decibels between black and white, which the scanner's display was set to.

    Raises:
        RecordingError: If it is not given: files do not say it, and it is never guessed.
    """
    low, high = BELIEVABLE_DB
    if dynamic_range_db is None:
        raise RecordingError(
            f"{name}: log-compressed, and no file says over how many decibels; wanted the dynamic range that the "
            "scanner showed. Give dynamic_range_db."
        )
    if isinstance(dynamic_range_db, bool) or not low <= dynamic_range_db <= high:
        raise RecordingError(f"dynamic_range_db is {dynamic_range_db!r}; wanted {low:g} to {high:g} dB. Correct it.")
    return float(dynamic_range_db)


def amplitudes(dynamic_range_db: float, *, n_bits: int) -> Float32[np.ndarray, " levels"]:
    """Give the amplitude of each grey level: 1 for white, less by the dynamic range for the darkest grey, 0 for black.

    Black is what lies below the range, outside of the sector, or masked: nothing is known of it but that it is dark.

    >>> amplitudes(40.0, n_bits=8)[[0, 255]].tolist()
    [0.0, 1.0]
    """
    levels = np.arange(2**n_bits) / (2**n_bits - 1)
    table = 10.0 ** ((levels - 1.0) * dynamic_range_db / 20.0)
    table[0] = 0.0
    return table.astype(np.float32)


def require_grey(name: str, pixels: Shaped[np.ndarray, "rows columns *rgb"], frame: int) -> NDArray[Any]:
    """Give one grey value a pixel; of red, green and blue, which must agree, the mean.

    Raises:
        RecordingError: If there is colour, as of flow laid over the image: it stands for something else.
    """
    if pixels.ndim == 2:
        return pixels
    spread = int(np.ptp(pixels.astype(np.int32), axis=-1).max())
    if spread > MAX_COLOUR:
        raise RecordingError(
            f"{name}: there is colour in frame {frame} (red, green and blue differ by {spread}); wanted a grey image. "
            "Export it without colour Doppler or tint, or choose another region with variable."
        )
    return np.rint(pixels.mean(axis=-1)).astype(pixels.dtype)
