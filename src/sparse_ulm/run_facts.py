"""What a run left in its output folder: its manifest, each recording's provenance, and scores where there are any."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparse_ulm.acquisition import Acquisition
from sparse_ulm.blocks import with_distinct_names
from sparse_ulm.errors import UserError
from sparse_ulm.io.registry import open_recordings
from sparse_ulm.manifest import DONE, MANIFEST, Entry, read_manifest
from sparse_ulm.provenance import sha256_file

PROVENANCE, METRICS = "provenance.json", "metrics.json"


@dataclass(frozen=True)
class RecordingFacts:
    """What is known of one recording.

    Attributes:
        name: Of the recording and of its folder.
        folder: Of its outputs.
        entry: Of the manifest; one made from the provenance where a folder has no manifest.
        provenance: Content of `provenance.json`; empty where there is none.
        notes: What a reader must know: failures, files that are not those of the run.
    """

    name: str
    folder: Path
    entry: Entry
    provenance: dict[str, Any]
    notes: tuple[str, ...]

    @property
    def is_done(self) -> bool:
        """Whether its outputs are there."""
        return self.entry.status == DONE

    @property
    def config(self) -> dict[str, Any]:
        """Settings that its outputs were made with."""
        return _mapping(self.provenance.get("config"))

    @property
    def method(self) -> str:
        """Name of the method; empty where the provenance tells none."""
        return str(self.config.get("method", "classical" if "preset" in self.config else ""))

    @property
    def density_unit(self) -> str:
        """What the density counts."""
        return "blocks" if self.method == "trajectory_map" else "tracks"

    def file(self, ending: str) -> Path:
        """Give the path of an output, such as `NAME_density.nii.gz` for "density.nii.gz"."""
        return self.folder / f"{self.name}_{ending}"

    def open(self) -> Acquisition | None:
        """Open the recording again for its grid and rates; None where it has moved or cannot be read any more."""
        overrides = {k: v for k, v in _mapping(self.config.get("geometry_overrides")).items() if v is not None}
        try:
            opened = with_distinct_names(open_recordings(Path(self.entry.path), **overrides))
        except (UserError, OSError, TypeError):
            return None
        # Two files of one name got their endings from the run; alone, a file opens without.
        return next((one for one in opened if self.name.startswith(one.name)), None)


@dataclass(frozen=True)
class RunFacts:
    """What is known of a run.

    Attributes:
        folder: Its output folder.
        recordings: By the order of the manifest.
        scores: Content of `metrics.json`; empty where there is none.
        notes: What a reader must know of the run as a whole.
    """

    folder: Path
    recordings: tuple[RecordingFacts, ...]
    scores: dict[str, Any]
    notes: tuple[str, ...]


def gather(output_dir: str | Path) -> RunFacts:
    """Read what a run left; maps and tables are not opened yet.

    Args:
        output_dir: Holds `manifest.json`, or folders NAME/ with `provenance.json`, as `redraw.yaml` writes them.

    Raises:
        UserError: If there is neither, or the manifest is none of ours.
    """
    folder = Path(output_dir)
    entries = read_manifest(folder / MANIFEST)
    for path in sorted(folder.glob(f"*/{PROVENANCE}")):
        entries.setdefault(path.parent.name, _entry_of(path))
    if not entries:
        raise UserError(
            f"{folder} holds no {MANIFEST} and no NAME/{PROVENANCE}; wanted the output folder of a run. "
            "Pass --output_dir."
        )
    recordings = tuple(_recording(folder / name, entry) for name, entry in entries.items())
    scores, trouble = _read_json(folder / METRICS)
    return RunFacts(folder, recordings, scores, tuple(trouble))


def _entry_of(path: Path) -> Entry:
    """Make the entry of a folder that no manifest lists."""
    provenance = _read_json(path)[0]
    inputs = provenance.get("inputs")
    first = _mapping(inputs[0]) if isinstance(inputs, list) and inputs else {}
    source = _mapping(provenance.get("config")).get("recording", first.get("path", ""))
    return Entry(str(source), DONE, seconds=float(provenance.get("wall_time_s") or 0.0))


def _recording(folder: Path, entry: Entry) -> RecordingFacts:
    """Read one recording's provenance, and compare its files with what the run wrote."""
    name = folder.name
    if entry.status != DONE:
        reason = f": {entry.error}" if entry.error else ""
        return RecordingFacts(name, folder, entry, {}, (f"{name} is {entry.status}{reason}",))
    provenance, trouble = _read_json(folder / PROVENANCE)
    lost = [one for one in entry.outputs if not (folder / one).is_file()]
    changed = [one for one, was in entry.outputs.items() if one not in lost and sha256_file(folder / one) != was]
    notes = [*trouble]
    notes += [f"{name}: {', '.join(lost)} of the run {_is_or_are(lost)} missing."] if lost else []
    notes += [f"{name}: {', '.join(changed)} {_is_or_are(changed)} not as the run wrote it."] if changed else []
    return RecordingFacts(name, folder, entry, provenance, tuple(notes))


def _is_or_are(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _read_json(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Read a file that holds a dictionary: it, and what is wrong; an absent file is empty and nothing wrong."""
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (ValueError, OSError) as error:
        return {}, [f"{path.name} of {path.parent.name} cannot be read ({error}) and is left out."]
    if not isinstance(found, dict):
        return {}, [f"{path.name} of {path.parent.name} is none of ours and is left out."]
    return found, []


def _mapping(value: Any) -> dict[str, Any]:
    """Give a dictionary, empty where a file holds something else in its place."""
    return value if isinstance(value, dict) else {}
