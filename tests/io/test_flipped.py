"""Files whose bits were flipped are read, or refused in one line: never a crash, never a hang.

Formats that keep a sum of their content are never read wrong. Others cannot know: a flipped sample is another sample.
"""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import iconeus_files
import numpy as np
import pytest
from dicom_files import random_pixels, region, write_cine, write_volume
from whole_files import FOREIGN, SAMPLES, TARGETS, write_all

from sparse_ulm.errors import RecordingError
from sparse_ulm.io import open_recordings

SUMMED = ("a.nii.gz", "a.npz", "small.npz", "v7.mat")
"""Formats that keep a sum of their samples."""

DATA = Path(__file__).parent / "data"
OTHERS = ["cine.dcm", "volume.dcm", "confusius_0_8_0.zarr", "rec.hraw"]
OPTIONS = {
    "cine.dcm": {"dynamic_range_db": 60.0},
    "volume.dcm": {"dynamic_range_db": 60.0},
    "rec.hraw": {"voxel_size_mm": (0.1, 0.2, 0.05), "frame_rate_hz": 500.0},
}
PHYSICS = {"transmit_frequency_hz": 7.7e6, "sound_speed_m_s": 1540.0}
HEADER_BYTES = 2048
N_FLIPPED = 40


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one whole recording in each format."""
    folder = tmp_path_factory.mktemp("whole")
    write_all(folder)
    write_cine(folder / "cine.dcm", random_pixels(4, 8, 12), regions=[region()])
    places = [((0.0, 0.0, 0.1 * plane), 0.02 * time, "TISSUE_INTENSITY") for time in range(2) for plane in range(3)]
    write_volume(folder / "volume.dcm", random_pixels(6, 5, 7), places)
    iconeus_files.write(folder, SAMPLES)
    shutil.copytree(DATA / "confusius_0_8_0.zarr", folder / "confusius_0_8_0.zarr")
    return folder


def flip(content: bytes, rng: np.random.Generator) -> bytes:
    """Flip one to eight bits, anywhere or among the first bytes."""
    flipped = bytearray(content)
    reach = min(len(flipped), HEADER_BYTES) if rng.random() < 0.5 else len(flipped)
    for at in rng.integers(0, reach, size=rng.integers(1, 9)):
        flipped[at] ^= 1 << int(rng.integers(8))
    return bytes(flipped)


def damaged(whole: Path, name: str, folder: Path, rng: np.random.Generator) -> Path:
    """Copy a recording, with what belongs to it, and flip bits of one of its files."""
    target = folder / name
    if (whole / name).is_dir():
        shutil.copytree(whole / name, target)
        files = sorted(path for path in target.rglob("*") if path.is_file())
        chosen = files[rng.integers(len(files))]
    else:
        shutil.copy(whole / name, target)
        stem = name.split(".")[0]
        for beside in (whole / f"{stem}.json", whole / f"{stem}.raw"):
            if beside.exists():
                shutil.copy(beside, folder)
        chosen = target
    chosen.write_bytes(flip(chosen.read_bytes(), rng))
    return target


def read(path: Path) -> list[np.ndarray]:
    options = PHYSICS | OPTIONS[path.name] if path.name in OPTIONS else {}
    return [one.frames(0, min(8, one.n_frames)) for one in open_recordings(path, **options)]


def outcomes(whole: Path, name: str, make_folder: Callable[[], Path], seeds: range) -> dict[str, int]:
    """Count what becomes of flipped copies; every one but a refusal in one line, or a read, fails."""
    counts = {"read": 0, "refused": 0, "several lines": 0}
    for seed in seeds:
        folder = make_folder()
        path = damaged(whole, name, folder, np.random.default_rng([seed, len(name)]))
        started = time.monotonic()
        try:
            found = read(path)
        except RecordingError as error:
            counts["refused" if "\n" not in str(error) else "several lines"] += 1
        else:
            counts["read"] += 1
            if name in SUMMED:
                np.testing.assert_array_equal(found[0], SAMPLES)
        assert time.monotonic() - started < 20.0
        shutil.rmtree(folder)
    assert counts["several lines"] == 0
    return counts


@pytest.mark.parametrize("name", TARGETS + FOREIGN + OTHERS)
def test_flipped_bits_are_refused_in_one_line_or_read(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    assert len(read(whole / name)) == 1
    counts = outcomes(whole, name, lambda: tmp_path_factory.mktemp("flipped"), range(N_FLIPPED))
    assert counts["refused"] > 0


def test_a_file_on_which_libhdf5_ends_the_process_ends_none(
    whole: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Of a thousand, the one on which HDF5 2.0.0 met a segmentation fault while it read an attribute."""
    outcomes(whole, "a.uff", lambda: tmp_path_factory.mktemp("flipped"), range(985, 986))


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS + FOREIGN + OTHERS)
def test_thousands_of_flipped_files(whole: Path, tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    outcomes(whole, name, lambda: tmp_path_factory.mktemp("flipped"), range(1000))
