"""The referee that the comparisons share: recordings, runs of the shipped configs, and counts, each kept once made.

Everything is asked of the configs that users run: configs/simulate.yaml makes recordings, configs/inference.yaml and
configs/classical.yaml make maps. What is finished lies in a folder `--work`, under a name that holds a hash of all it
follows from: options, the config's values, weights, and every byte of the recordings. A second call therefore goes on
where the first one stopped. The code is not part of the hash: give another `--work` after changing it.
"""

import argparse
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from counting import count_agreement
from machine import ROOT
from monai.bundle import ConfigWorkflow

from sparse_ulm.io.atomic import atomic_path

PRESETS = ("gaussian_kalman", "pala_rat", "open3dulm", "clinical_interpolated")
OURS = (PRESETS[0], f"{PRESETS[0]}:smooth_span=1")
"""Our preset as it is shipped, and with tracks left as rough as they are: maps of crowds are more complete so, though
speeds are wrong (track_smoothing.py). A comparison of maps gives the conventional pipeline the better of both."""
WEIGHTS_OF_DIMS = {3: ROOT / "models" / "model.pt", 2: ROOT / "models" / "model_2d.pt"}
SHIPPED = (f"TrajectoryMapNet={WEIGHTS_OF_DIMS[3]}", f"LocalisationNet={ROOT / 'models' / 'localisation.pt'}")
"""Both networks; configs/inference.yaml tells by the weights which one it has."""


@dataclass(frozen=True)
class Method:
    """A way to make maps of recordings.

    Attributes:
        name: In the tables.
        config: File in configs/ that takes `dataset_dir` and `output_dir`.
        options: Its other options; files as `Path`, which are then hashed by what they hold.
    """

    name: str
    config: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def is_network(self) -> bool:
        """True for a network, false for the conventional pipeline."""
        return self.config == "inference.yaml"


def network(text: str, **options: Any) -> Method:
    """Read `[NAME=]WEIGHTS[@THRESHOLD]`: a network through configs/inference.yaml.

    >>> network("new=models/model.pt@0.4").options
    {'weights': PosixPath('models/model.pt'), 'probability_threshold': 0.4}
    """
    name, _, rest = text.rpartition("=")
    path, _, threshold = rest.partition("@")
    if threshold:
        options["probability_threshold"] = float(threshold)
    return Method(name or "network", "inference.yaml", {"weights": Path(path), **options})


def classical(text: str) -> Method:
    """Read `PRESET[:KEY=VALUE,...]`: a preset of the conventional pipeline, with changes to it.

    >>> classical("gaussian_kalman:smooth_span=1").options
    {'preset': 'gaussian_kalman', 'smooth_span': 1}
    """
    preset, _, changes = text.partition(":")
    changed = {key: yaml.safe_load(value) for key, _, value in (c.partition("=") for c in changes.split(",") if c)}
    return Method(text, "classical.yaml", {"preset": preset, **changed})


def run_config(config: str, **options: Any) -> None:
    """Run a shipped config as `monai.bundle run` does, in this process."""
    workflow = ConfigWorkflow(
        str(ROOT / "configs" / config),
        workflow_type=None,
        logging_file=False,
        bundle_root=str(ROOT),
        **{key: str(value) if isinstance(value, Path) else value for key, value in options.items()},
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def maps_alone(*kinds: str) -> dict[str, Any]:
    """Give the options of a method that write the map of density, maps of `kinds`, the tables, and no more.

    The other maps of tracks, and their pictures, take longer to write than small recordings take to localise.
    """
    return {"maps": ["density", *kinds], "track_formats": ["csv"], "report": False}


def fingerprint(value: Any) -> str:
    """Hash settings to 12 hexadecimal digits; paths count by what they hold, a folder by all its files."""

    def contents(path: Any) -> str:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        parts = [f"{file.relative_to(path)} {_sha256(file)}" for file in files if file.is_file()]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    text = json.dumps(value, sort_keys=True, default=contents)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def config_values(config: str) -> dict[str, Any]:
    """Read a config's values: what a comment says does not count."""
    return yaml.safe_load((ROOT / "configs" / config).read_text(encoding="utf-8"))


def make_recordings(work: Path, *, vessels: Sequence[str | Path], seed: int, **options: Any) -> Path:
    """Simulate a folder of recordings through configs/simulate.yaml, or find it made.

    Args:
        work: Where it is kept.
        vessels: SWC files, or "synthetic".
        seed: Of the recordings.
        options: Of simulate.yaml; files as `Path`.

    Returns:
        The folder.
    """
    sources = [v if v == "synthetic" else Path(v) for v in vessels]
    options = {"format": "nii", "seed": seed, **options}
    n_workers = options.pop("n_workers", 1)
    name = fingerprint([sources, options, config_values("simulate.yaml")])
    folder = work / "recordings" / name
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial.") as temporary:
            partial = Path(temporary) / name
            run_config(
                "simulate.yaml", output_dir=partial, vessels=list(map(str, sources)), n_workers=n_workers, **options
            )
            os.replace(partial, folder)
    return folder


def score(
    work: Path,
    method: Method,
    recordings: Path,
    *,
    kind: str = "density",
    thresholds: Sequence[float] = (0.0,),
    **options: Any,
) -> dict[str, Any]:
    """Run a method on a folder of recordings and count where its maps agree with the truth, or find that done.

    Args:
        work: Where the result is kept.
        method: The method.
        recordings: Folder of simulated recordings with their truth.
        kind: Map that is scored (`count_agreement`).
        thresholds: On that map.
        options: Further options of the method's config, for this folder.

    Returns:
        `seconds` of CPU time that the run took, reading and writing included, and `recordings`: the rows of
        `count_agreement`.
    """
    chosen = maps_alone() | method.options | options
    asked = [method.config, chosen, config_values(method.config), recordings, kind, list(thresholds)]
    path = work / "scores" / f"{fingerprint(asked)}.json"
    if path.is_file():
        return load_json(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".maps.") as maps:
        started = time.process_time()
        run_config(method.config, dataset_dir=recordings, output_dir=maps, **chosen)
        seconds = time.process_time() - started
        rows = count_agreement(Path(maps), recordings, kind=kind, thresholds=thresholds)
    result = {"method": method.name, "seconds": seconds, "recordings": rows}
    save_json(path, result)
    return result


def save_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def load_json(path: Path) -> Any:
    """Read what `save_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def add_arguments(parser: argparse.ArgumentParser, *, n_recordings: int, grid_size: Sequence[int], seed: int) -> None:
    """Add the options that the comparisons share."""
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps what is finished")
    parser.add_argument("--vessels", nargs="+", default=["synthetic"], help="SWC files; synthetic trees by default")
    parser.add_argument(
        "--weights", nargs="*", default=list(SHIPPED), help="[NAME=]FILE[@THRESHOLD] of one or more networks"
    )
    parser.add_argument("--network", nargs="*", default=[], help="KEY=VALUE of inference.yaml, for all networks")
    parser.add_argument("--presets", nargs="*", default=[*OURS, *PRESETS[1:]], help="PRESET[:KEY=VALUE,...]")
    parser.add_argument("--n_recordings", type=int, default=n_recordings, help="per seed and concentration")
    parser.add_argument("--grid_size", nargs=3, type=int, default=list(grid_size), help="voxels along x, y, z")
    parser.add_argument("--n_frames", type=int, default=128)
    parser.add_argument("--seeds", nargs="+", type=int, default=[seed, seed + 1, seed + 2], help="of the recordings")
    parser.add_argument("--workers", type=int, default=1, help="processes that simulate")
    parser.add_argument("--json", help="also write machine, settings, numbers and tables there")


def methods_of(args: argparse.Namespace) -> list[Method]:
    """List the networks and presets of the command line."""
    options = {key: yaml.safe_load(value) for key, _, value in (text.partition("=") for text in args.network)}
    return [network(text, **options) for text in args.weights] + [classical(preset) for preset in args.presets]
