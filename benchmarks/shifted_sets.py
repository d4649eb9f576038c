"""Recordings of another kind than those that trained the network: one set of options of configs/simulate.yaml each."""

import dataclasses
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from referee import config_values, fingerprint, make_recordings

from sparse_ulm.io.registry import save_recording
from sparse_ulm.io.truth import write_truth
from sparse_ulm.simulation import RecordingParameters, draw_parameters, draw_synthetic_tree, parameter_ranges
from sparse_ulm.simulation import simulate_recording as simulate
from sparse_ulm.simulation.generate import load_trees

IN_DISTRIBUTION = "in distribution"
LEFT_OUT = "kernels left out"
ABERRATED = "aberration 60°"
ABERRATION_RAD = np.pi / 3.0
"""Phase rms over the aperture; training draws 0 to 45 degrees."""

MEAN_SQUARE_OF_MODE = 0.35
"""As `simulation.parameters` takes it for its phase screen."""


def shifts(training: dict[str, Any], left_out_tables: Path | None) -> dict[str, dict[str, Any]]:
    """List the sets by name, with options of simulate.yaml.

    Args:
        training: The options that made the training recordings, which hold wherever a set changes nothing.
        left_out_tables: Kernels of the family that training never shows; None leaves that set out.
    """
    side_lobes = {"side_lobe_share": 1.0, "psf_table_share": 0.0, "psf_tables": None}
    sets: dict[str, dict[str, Any]] = {
        IN_DISTRIBUTION: {},
        LEFT_OUT: {"side_lobe_share": 0.0, "psf_table_share": 1.0, "psf_tables": left_out_tables},
        "white noise, 5 to 10 dB": {"white_noise_share": 1.0, "snr_db": [5.0, 10.0]},
        "200 Hz": {"frame_rate_hz": 200.0},
        "2000 Hz": {"frame_rate_hz": 2000.0},
        "residual clutter": {"tissue_share": 1.0, "tissue_db": [20.0, 40.0], "removed_components": [2, 4]},
        "a quarter of the rows missing": side_lobes | {"missing_row_share": [0.25, 0.25]},
        ABERRATED: side_lobes,
    }
    if left_out_tables is None:
        del sets[LEFT_OUT]
    return {name: training | changed for name, changed in sets.items()}


def make_set(work: Path, name: str, options: dict[str, Any], *, vessels: Sequence[str], seed: int, **size: Any) -> Path:
    """Make the recordings of one set, or find them made; `size` holds what all sets share."""
    if name == ABERRATED:
        return make_aberrated(work, vessels=vessels, seed=seed, **(options | size))
    return make_recordings(work, vessels=vessels, seed=seed, **(options | size))


def make_aberrated(work: Path, *, vessels: Sequence[str], seed: int, n_recordings: int, **options: Any) -> Path:
    """Simulate recordings whose phase screen has `ABERRATION_RAD` rms, which simulate.yaml has no range for.

    Everything else is drawn as by simulate.yaml with the same options, whose values hold where none is given. Such a
    screen moves the whole image by up to 0.8 wavelengths, which no method can know; the simulation puts the summit of
    every kernel at the bubble, so that the scores tell what the changed shape does.
    """
    options.pop("n_workers", None)
    defaults = config_values("simulate.yaml")
    drawn = {f.name: defaults[f.name] for f in dataclasses.fields(parameter_ranges()) if f.name in defaults}
    drawn |= {key: str(value) if isinstance(value, Path) else value for key, value in options.items()}
    sources = [v if v == "synthetic" else Path(v) for v in vessels]
    name = fingerprint([ABERRATED, ABERRATION_RAD, seed, n_recordings, sources, drawn])
    folder = work / "recordings" / name
    if folder.is_dir():
        return folder
    ranges, trees = parameter_ranges(**drawn), load_trees(list(map(str, vessels)))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial.") as temporary:
        partial = Path(temporary) / name
        partial.mkdir()
        for index in range(n_recordings):
            rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index,)))
            parameters = aberrate(draw_parameters(rng, ranges), ABERRATION_RAD)
            tree = trees[int(rng.integers(len(trees)))].tree
            recording = simulate(parameters, tree if tree is not None else draw_synthetic_tree(rng), rng)
            write_truth(partial / f"simulated_{index:04d}_truth.csv", recording.tracks, recording.geometry)
            save_recording(partial / f"simulated_{index:04d}.nii", recording.frames, recording.geometry)
        os.replace(partial, folder)
    return folder


def aberrate(parameters: RecordingParameters, rms_rad: float) -> RecordingParameters:
    """Scale the drawn phase screen to a root mean square over the aperture."""
    weights = np.asarray(parameters.aberration_rad)
    rms = float(np.sqrt(MEAN_SQUARE_OF_MODE * (weights**2).sum()))
    return dataclasses.replace(parameters, aberration_rad=tuple(float(w) for w in weights * (rms_rad / rms)))


def extra_sets(texts: Sequence[str]) -> dict[str, dict[float | None, list[Path]]]:
    """Read `NAME=DIR`: folders of recordings made elsewhere; the same name again is another seed.

    DIR holds one folder per concentration, named by its number ("0.05"), or recordings, whose concentration is None
    here and is read from their simulation.json.

    Raises:
        FileNotFoundError: If a folder does not exist.
    """
    sets: dict[str, dict[float | None, list[Path]]] = {}
    for text in texts:
        name, _, path = text.partition("=")
        if not Path(path).is_dir():
            raise FileNotFoundError(f"--extra {text}: {path} is no folder; wanted NAME=DIR with recordings.")
        for concentration, folder in _by_number(Path(path)):
            sets.setdefault(name, {}).setdefault(concentration, []).append(folder)
    return sets


def _by_number(folder: Path) -> list[tuple[float | None, Path]]:
    """List the folders whose name is a number; the folder itself, without a number, where there is none."""
    numbered: list[tuple[float | None, Path]] = [
        (number, one) for one in sorted(folder.iterdir()) if (number := _number(one)) is not None
    ]
    return numbered or [(None, folder)]


def _number(folder: Path) -> float | None:
    try:
        return float(folder.name) if folder.is_dir() else None
    except ValueError:
        return None
