"""Say whether recordings can be used, and what they hold: `python -m sparse_ulm.validate FILE_OR_FOLDER`.

Exit status 0 if every recording is usable; otherwise 1, with one line on stderr for each that is not.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from sparse_ulm.acquisition import Acquisition, block_ranges
from sparse_ulm.conventions import METRES_PER_MM, Frames
from sparse_ulm.errors import UserError
from sparse_ulm.io import find_recordings, open_recordings

CHUNK_BYTES = 1 << 26
"""Frames are read in pieces of about 64 MiB (at least one frame), so that memory does not grow with the recording."""

CLIPPED_SHARE_WARNING = 1.0e-3
"""Our choice: one sample in a thousand at the very end of the range is no longer chance."""

MAX_VOXEL_WAVELENGTHS = 1.5
"""Our choice: bubbles are one to two wavelengths wide, so a coarser grid undersamples them."""


@dataclass
class SampleStatistics:
    """What the samples say, gathered piece by piece.

    Attributes:
        n_samples: Samples seen.
        n_not_finite: How many are NaN or infinite.
        first_not_finite: (x, y, z, t) of the first of them.
        lowest_amplitude: Smallest magnitude of the finite samples.
        highest_amplitude: Largest magnitude.
        sum_amplitude: Their sum.
        extremes: Smallest and largest real and imaginary part, each with how many samples have exactly that value.
    """

    n_samples: int = 0
    n_not_finite: int = 0
    first_not_finite: tuple[int, ...] | None = None
    lowest_amplitude: float = np.inf
    highest_amplitude: float = 0.0
    sum_amplitude: float = 0.0
    extremes: dict[str, tuple[float, int]] = field(default_factory=dict)

    @property
    def clipped_share(self) -> float:
        """Share of samples at an extreme value of their real or imaginary part, besides the one that sets it."""
        beyond_first = sum(count - 1 for _, count in self.extremes.values())
        return beyond_first / self.n_samples if self.n_samples else 0.0

    @property
    def amplitude_range(self) -> tuple[float, float]:
        """Smallest and largest magnitude of the finite samples; (0, 0) if there are none."""
        return min(self.lowest_amplitude, self.highest_amplitude), self.highest_amplitude

    @property
    def mean_amplitude(self) -> float:
        """Mean magnitude of the finite samples."""
        n_finite = self.n_samples - self.n_not_finite
        return self.sum_amplitude / n_finite if n_finite else 0.0

    def add(self, frames: Frames, start: int) -> None:
        """Take in the frames that begin with frame `start`."""
        finite = np.isfinite(frames)
        n_bad = int(frames.size - np.count_nonzero(finite))
        if n_bad and self.first_not_finite is None:
            x, y, z, t = (int(i) for i in np.argwhere(~finite)[0])
            self.first_not_finite = (x, y, z, t + start)
        self.n_samples += frames.size
        self.n_not_finite += n_bad
        samples = frames[finite] if n_bad else frames.ravel(order="K")
        if samples.size:
            self._add_finite(samples)

    def _add_finite(self, samples: np.ndarray) -> None:
        """Update range, sum and extremes."""
        amplitude = np.abs(samples)
        self.lowest_amplitude = min(self.lowest_amplitude, float(amplitude.min()))
        self.highest_amplitude = max(self.highest_amplitude, float(amplitude.max()))
        self.sum_amplitude += float(amplitude.sum(dtype=np.float64))
        for part, values in (("real", samples.real), ("imaginary", samples.imag)):
            for side, sign in (("lowest", -1.0), ("highest", 1.0)):
                value = float(values.max() if sign > 0 else values.min())
                count = int(np.count_nonzero(values == value))
                key = f"{side} {part}"
                known, known_count = self.extremes.get(key, (-sign * np.inf, 0))
                if sign * value > sign * known:
                    self.extremes[key] = (value, count)
                elif value == known:
                    self.extremes[key] = (value, known_count + count)


def gather_statistics(acquisition: Acquisition) -> SampleStatistics:
    """Read a whole recording in bounded pieces and gather its statistics."""
    frame_bytes = int(np.prod(acquisition.shape[:3])) * np.dtype(np.complex64).itemsize
    pieces = block_ranges(acquisition.n_frames, max(1, CHUNK_BYTES // frame_bytes))
    statistics = SampleStatistics()
    for start, stop in tqdm(pieces, desc=acquisition.name, unit="piece", leave=False, disable=None):
        statistics.add(acquisition.read(start, stop), start)
    return statistics


def describe(acquisition: Acquisition, statistics: SampleStatistics) -> dict[str, Any]:
    """Put everything that is known about a recording in a flat report, lengths in millimetres."""
    geometry = acquisition.geometry
    voxel_size_m = np.array(geometry.voxel_size_m)
    origin_m = geometry.matrix_m[:3, 3]
    return {
        "name": acquisition.name,
        "path": str(acquisition.path),
        "format": acquisition.details["format"],
        "content": acquisition.content,
        "shape": list(acquisition.shape),
        "voxel_size_mm": _rounded(voxel_size_m / METRES_PER_MM),
        "origin_mm": _rounded(origin_m / METRES_PER_MM),
        "frame_rate_hz": geometry.frame_rate_hz,
        "transmit_frequency_hz": geometry.transmit_frequency_hz,
        "sound_speed_m_s": geometry.sound_speed_m_s,
        "wavelength_mm": _rounded([geometry.wavelength_m / METRES_PER_MM])[0],
        "voxel_per_wavelength": _rounded(voxel_size_m / geometry.wavelength_m),
        "duration_s": acquisition.n_frames / geometry.frame_rate_hz,
        "n_not_finite": statistics.n_not_finite,
        "clipped_share": statistics.clipped_share,
        "amplitude_range": statistics.amplitude_range,
        "amplitude_mean": statistics.mean_amplitude,
        **acquisition.details,
    }


def find_problem(acquisition: Acquisition, statistics: SampleStatistics) -> str | None:
    """Say in one line why the samples cannot be used, or None if they can."""
    if statistics.n_not_finite:
        return (
            f"{acquisition.name}: {statistics.n_not_finite} of {statistics.n_samples} samples are NaN or infinite, the "
            f"first at (x, y, z, t) = {statistics.first_not_finite}; wanted finite IQ. Mask or re-beamform them."
        )
    if statistics.highest_amplitude == 0.0:
        return f"{acquisition.name}: every sample is 0; wanted beamformed IQ. Check the export."
    return None


def find_warnings(report: dict[str, Any]) -> list[str]:
    """List what is usable but unusual."""
    warnings = list(report.get("notes", []))
    x, y, z = report["voxel_per_wavelength"]
    coarsest = max(x, z) if report["shape"][1] == 1 else max(x, y, z)
    if coarsest > MAX_VOXEL_WAVELENGTHS:
        warnings.append(f"voxels are {coarsest:g} wavelengths long: bubbles are undersampled, or a unit is wrong")
    if report["clipped_share"] > CLIPPED_SHARE_WARNING:
        warnings.append(f"{report['clipped_share']:.2%} of samples sit at the end of the range: clipped")
    return warnings


def validate(path: Path, options: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str | None]]:
    """Report on each recording of a file.

    Yields:
        The report and None, or what is known and the one line that says why it is not usable.
    """
    try:
        for acquisition in open_recordings(path, **options):
            statistics = gather_statistics(acquisition)
            report = describe(acquisition, statistics)
            problem = find_problem(acquisition, statistics)
            yield {**report, "usable": problem is None, "warnings": find_warnings(report)}, problem
    except UserError as error:
        yield {"name": path.name, "path": str(path), "usable": False}, str(error)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and give its exit status."""
    options = vars(_parser().parse_args(arguments))
    path, as_json = options.pop("path"), options.pop("json")
    try:
        results = [result for file in find_recordings(path) for result in validate(file, options)]
    except (UserError, OSError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    if as_json:
        reports = [{**report, "problem": problem} for report, problem in results]
        print(json.dumps(reports, indent=2, default=str))
    for report, problem in results:
        if problem is not None:
            print(problem, file=sys.stderr)
        if not as_json and "shape" in report:
            print(_format(report))
    return int(any(problem is not None for _, problem in results))


def _parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(prog="python -m sparse_ulm.validate", description=__doc__)
    parser.add_argument("path", type=Path, help="a recording, or a folder of them")
    parser.add_argument("--voxel_size_mm", type=float, nargs=3, metavar=("X", "Y", "Z"), help="where no file says it")
    parser.add_argument("--frame_rate_hz", type=float, help="volumes per second after compounding")
    parser.add_argument("--transmit_frequency_hz", type=float, help="centre frequency of the pulse")
    parser.add_argument("--sound_speed_m_s", type=float, help="sound speed used in beamforming")
    parser.add_argument("--variable", help="which array of a .mat or .npz, or region of a .dcm")
    parser.add_argument("--dynamic_range_db", type=float, help="decibels from black to white, of a .dcm")
    parser.add_argument("--json", action="store_true", help="print a JSON list, one object per recording")
    return parser


def _format(report: dict[str, Any]) -> str:
    """Lay a report out for people: one quantity a line, lists inline."""
    shown = {key: value for key, value in report.items() if key not in ("name", "sources", "notes", "warnings")}
    lines = [report["name"], *(f"  {key:22} {value}" for key, value in shown.items())]
    lines += [f"  {key:22} from {source}" for key, source in report["sources"].items()]
    lines += [f"  warning                {warning}" for warning in report["warnings"]]
    return "\n".join(lines)


def _rounded(values: Sequence[float] | np.ndarray) -> list[float]:
    """Round to six digits for reading."""
    return [float(f"{value:.6g}") for value in values]


if __name__ == "__main__":
    sys.exit(main())
