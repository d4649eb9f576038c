"""What an evaluation reads: maps, the recordings and truth they belong to, and what the simulation drew for them."""

import json
from pathlib import Path
from typing import Any

from sparse_ulm.acquisition import Acquisition
from sparse_ulm.blocks import truth_of, with_distinct_names
from sparse_ulm.errors import RecordingError, UserError
from sparse_ulm.evaluation_table import LABEL
from sparse_ulm.io import find_recordings, open_recordings
from sparse_ulm.io.names import recording_stem
from sparse_ulm.io.truth import Truth

SIMULATION_SUMMARY = "simulation.json"
PSF_WIDTH = "psf_fwhm_m"


def find_maps(folder: Path) -> dict[str, Path]:
    """Find `NAME/NAME_density.nii.gz`: paths by name.

    Raises:
        UserError: If there is none.
    """
    paths = sorted(folder.glob("*/*_density.nii*")) if folder.is_dir() else []
    maps = {p.parent.name: p for p in paths if p.name.startswith(f"{p.parent.name}_density.nii")}
    if not maps:
        raise UserError(f"{folder}: holds no NAME/NAME_density.nii.gz; wanted the output folder of an inference run.")
    return maps


def find_truth(
    folder: Path, names: list[str], options: dict[str, Any]
) -> tuple[dict[str, tuple[Acquisition, Truth]], list[str]]:
    """Open the recordings of the maps and read their truth, naming all that lack one; list recordings without a map.

    Recordings whose file name begins no map's name are left alone, for they may need other options.

    Raises:
        UserError: If the truth of a map is missing; all of them are named.
    """
    paths = find_recordings(folder)
    candidates = [path for path in paths if any(name.startswith(recording_stem(path)) for name in names)]
    recordings = [one for path in candidates for one in open_recordings(path, **options)]
    opened = {one.name: one for one in with_distinct_names(recordings)}
    found, without_truth = {}, []
    for name in names:
        try:
            found[name] = opened[name], truth_of(opened[name])
        except (KeyError, RecordingError) as error:
            without_truth.append(f"{name} ({'no such recording' if isinstance(error, KeyError) else error})")
    if without_truth:
        raise UserError(
            f"{folder}: {len(without_truth)} of {len(names)} maps have no truth: {'; '.join(without_truth)} "
            "Point truth_dir at the simulated recordings, or leave these maps out."
        )
    without_map = {recording_stem(path) for path in paths if path not in candidates} | set(opened) - set(names)
    return found, sorted(without_map)


def read_summary(folder: Path) -> dict[str, dict[str, Any]]:
    """Read what the simulation drew for each recording, by name; empty where it left no summary.

    Raises:
        UserError: If the file is no such summary.
    """
    path = folder / SIMULATION_SUMMARY
    if not path.is_file():
        return {}
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["recordings"]
        return {row["name"]: _checked(row) for row in rows}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: is no summary of a simulation ({error!r}); wanted 'recordings' with 'name' and '{LABEL}'. "
            "Simulate again, or remove it to group by the truth."
        ) from error


def _checked(row: dict[str, Any]) -> dict[str, Any]:
    """Keep the concentration and the width of the point-spread function, where they are there."""
    x_y_z = row.get(PSF_WIDTH)
    return {
        LABEL: None if row.get(LABEL) is None else float(row[LABEL]),
        PSF_WIDTH: None if x_y_z is None else (float(x_y_z[0]), float(x_y_z[1]), float(x_y_z[2])),
    }
