"""From the output folder of a run to a BIDS derivative dataset; the function that configs/bids.yaml calls."""

import csv
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sparse_ulm.bids.dataset import link_sources, read_description, write_description
from sparse_ulm.bids.names import entities_of, file_name, folder_of
from sparse_ulm.bids.sidecars import TABLES, dump, map_sidecar, origin_sidecar, table_sidecar
from sparse_ulm.errors import UserError
from sparse_ulm.run_facts import RecordingFacts, gather

MAP, TABLE, PICTURE = ".nii.gz", ".csv", ".png"
TRACKS = (".trk", ".vtp", ".parquet")
LOCK = ".lock"


def export_bids(
    output_dir: str | Path,
    bids_dir: str | Path,
    *,
    names: Mapping[str, str] | None = None,
    dataset_name: str | None = None,
    force: bool = False,
) -> list[Path]:
    """Copy maps, tables, tracks and pictures of a run into a BIDS derivative dataset, each with a sidecar.

    Tables become tab-separated, as BIDS wants them. DICOM files are left out.

    Args:
        output_dir: Output folder of inference.yaml, classical.yaml or redraw.yaml.
        bids_dir: Root of the dataset, such as RAW/derivatives/ulm; made if absent. Other recordings there stay.
        names: BIDS pairs of recordings whose names are none, as {"rat7": "sub-07_ses-1"}.
        dataset_name: Name in `dataset_description.json`; None keeps what stands there.
        force: Replace what an earlier export wrote of the same recordings; refused otherwise.

    Returns:
        The data files written, without sidecars.

    Raises:
        UserError: If the folder is none of a run, a name is no BIDS name, files are there already, or the dataset is
            another tool's or cannot be written: nothing is exported then. If a recording has no results or is not as
            the run wrote it: the others are exported.
    """
    facts, root = gather(output_dir), Path(bids_dir)
    whole = tuple(one for one in facts.recordings if one.is_done and not one.notes)
    left_out = [note for one in facts.recordings if one not in whole for note in one.notes]
    others = {one.name for one in facts.recordings} - {one.name for one in whole}
    given = {name: pairs for name, pairs in (names or {}).items() if name not in others}
    entities = entities_of([one.name for one in whole], given)
    description = read_description(root)
    for recording in whole:
        _refuse_old(root, entities[recording.name], force=force)
    try:
        written = (
            []
            if not whole
            else _write(whole, entities, root, description | ({"Name": dataset_name} if dataset_name else {}))
        )
    except Timeout:
        raise UserError(f"another export writes to {root}; wanted one at a time. Wait for it.") from None
    except OSError as error:
        raise UserError(
            f"{root} cannot be written ({error.strerror or error}); wanted a writable folder with space. "
            "Choose another --bids_dir."
        ) from error
    if left_out:
        raise UserError(
            f"{len(whole)} of {len(facts.recordings)} recordings were exported ({'; '.join(left_out)}). "
            "Run again with the same --output_dir, then export."
        )
    return written


def _write(
    recordings: tuple[RecordingFacts, ...], entities: Mapping[str, str], root: Path, description: dict[str, Any]
) -> list[Path]:
    """Make all files in a hidden folder of the dataset, then move them to their places."""
    root.mkdir(parents=True, exist_ok=True)
    written = []
    with FileLock(root / LOCK, timeout=0), tempfile.TemporaryDirectory(dir=root, prefix=".partial.") as hidden:
        for recording in recordings:
            (Path(hidden) / recording.name).mkdir()
            inputs = recording.provenance.get("inputs") or []
            sources = link_sources([Path(one["path"]) for one in inputs], root, description)
            _make(Path(hidden) / recording.name, recording, entities[recording.name], sources)
        write_description(root, description)
        for recording in recordings:
            folder = root / folder_of(entities[recording.name])
            folder.mkdir(parents=True, exist_ok=True)
            for old in _old(root, entities[recording.name]):
                old.unlink()
            for file in sorted((Path(hidden) / recording.name).iterdir()):
                os.replace(file, folder / file.name)
                written += [folder / file.name] if file.suffix != ".json" else []
    return written


def _make(folder: Path, recording: RecordingFacts, entities: str, sources: list[str]) -> None:
    """Write the files of one recording, and their sidecars; those of tables and maps stand for tracks and pictures."""
    origin = origin_sidecar(recording, sources)
    for file in sorted(recording.folder.iterdir()):
        kind, ending = _kind(file.name, recording.name)
        if ending == MAP:
            shutil.copyfile(file, folder / file_name(entities, kind, MAP))
            dump(folder / file_name(entities, kind, ".json"), map_sidecar(file) | origin)
        elif ending == TABLE and kind in TABLES:
            columns = _to_tabs(file, folder / file_name(entities, kind, ".tsv"))
            dump(folder / file_name(entities, kind, ".json"), table_sidecar(kind, columns) | origin)
        elif ending in TRACKS or ending == PICTURE:
            shutil.copyfile(file, folder / file_name(entities, kind, ending))


def _kind(name: str, recording: str) -> tuple[str, str]:
    """Divide "rec_axial_velocity.nii.gz" into its kind and ending; both are empty for other files."""
    ending = next((one for one in (MAP, TABLE, PICTURE, *TRACKS) if name.endswith(one)), "")
    start = f"{recording}_"
    if not ending or not name.startswith(start):
        return "", ""
    return name[len(start) : -len(ending)], ending


def _to_tabs(source: Path, target: Path) -> list[str]:
    """Turn a table into tab-separated values, "n/a" where there is no number; give its columns."""
    with source.open(newline="", encoding="utf-8") as read, target.open("w", newline="", encoding="utf-8") as write:
        rows, lines = csv.reader(read), csv.writer(write, delimiter="\t", lineterminator="\n")
        columns = next(rows)
        lines.writerow(columns)
        lines.writerows([value if value != "nan" else "n/a" for value in row] for row in rows)
    return columns


def _old(root: Path, entities: str) -> list[Path]:
    """List what an earlier export wrote of a recording."""
    return sorted((root / folder_of(entities)).glob(f"{entities}_desc-*_ulm.*"))


def _refuse_old(root: Path, entities: str, *, force: bool) -> None:
    old = _old(root, entities)
    if old and not force:
        raise UserError(
            f"{old[0]} is there already, of an earlier export; wanted a place of its own. Replace it with --force "
            "true, choose another --bids_dir, or tell recordings apart by --names."
        )
