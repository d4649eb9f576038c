"""Check the bundle as it would ship: configs, metadata and weights. Offline, in seconds.

    python bundle/verify.py [--root DIR] [--schema meta_schema_20240725.json]

Prints one line per problem and exits with 1 if there is any.
"""

import argparse
import importlib.metadata
import inspect
import json
import os
import pydoc
import sys
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import yaml

if __name__ != "__main__":  # imported by the tests from its path
    sys.path.insert(0, str(Path(__file__).parent))
from config_traps import find_loose_ends, find_traps, keys_of

REQUIRED_FILES = ("LICENSE", "configs/metadata.json", "configs/inference.yaml", "configs/train.yaml",
                  "configs/logging.conf", "docs/README.md", "models/model.pt")  # fmt: skip
SCHEMA_NAME = "meta_schema_20240725.json"
MAY_DIFFER = {"dataset_dir", "output_dir", "initialize", "run", "imports", "max_kept_sites", "max_sites"}
"""Top-level keys that train.yaml and inference.yaml both have for themselves; the last two are budgets."""

PREPROCESSING_OWN = {"sparse_ulm.transforms.LoadTruthd", "sparse_ulm.transforms.LoadIqBlockd"}
ENTRY_POINTS = {
    "imports",
    "initialize",
    "run",
    "finalize",
    "bundle_root",
    "train",
    "validate",
    "evaluator",
    "val_interval",
}
OVERLAYS = {"dense_train.yaml": "train.yaml", "distributed_inference.yaml": "inference.yaml"}
"""Configs that lie over another one; multi_gpu_X.yaml over X.yaml by its name."""

MAX_FILE_BYTES = 25 * 2**20
"""What the model zoo takes in one file."""


def main(arguments: list[str] | None = None) -> int:
    """Run all checks, print what they find, and give the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent, help="the bundle's root")
    parser.add_argument("--schema", type=Path, help=f"MONAI's {SCHEMA_NAME}, which verify_metadata would download")
    options = parser.parse_args(arguments)
    problems = verify(options.root, schema=options.schema)
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"bundle: {len(problems)} problems" if problems else "bundle: no problems")
    return 1 if problems else 0


def verify(root: Path, *, schema: Path | None = None) -> list[str]:
    """Check the bundle at `root`; one line per problem, none if it may ship."""
    for place in (root, root / "src"):
        sys.path.insert(0, str(place))
    missing = [f"{name}: missing; a bundle needs it." for name in REQUIRED_FILES if not (root / name).is_file()]
    if any("configs/" in line for line in missing):
        return missing
    traps = [line for path in sorted((root / "configs").glob("*.yaml")) for line in find_traps(path)]
    checks: list[Callable[[Path], list[str]]] = [
        check_configs, check_required_keys, check_shared_values, check_metadata, check_data_format, check_weights,
    ]  # fmt: skip
    return [*missing, *traps, *(line for check in checks for line in check(root)), *check_schema(root, schema)]


def load(root: Path, name: str) -> dict[str, Any]:
    """Parse configs/NAME, an overlay over what it lies on, as MONAI merges them."""
    base = OVERLAYS.get(name, name.removeprefix("multi_gpu_"))
    if base == name:
        return yaml.safe_load((root / "configs" / name).read_text(encoding="utf-8"))
    return config_parser().load_config_files([str(root / "configs" / part) for part in (base, name)])


def below(root: Path, name: str) -> dict[str, Any]:
    """Parse what configs/NAME lies on; empty if it is no overlay."""
    base = OVERLAYS.get(name, name.removeprefix("multi_gpu_"))
    return {} if base == name else load(root, base)


def check_configs(root: Path) -> list[str]:
    """Check that every reference has its key, every key its use, and every `_target_` exists and takes what it gets."""
    problems = []
    for path in sorted((root / "configs").glob("*.yaml")):
        config = load(root, path.name)
        # What an overlay leaves without effect is told in it; its own keys must have one.
        problems += find_loose_ends(path.name, config, ENTRY_POINTS | below(root, path.name).keys())
        for key, value in keys_of({"": config}).items():
            if isinstance(value, dict) and isinstance(value.get("_target_"), str):
                problems += [f"{path.name}: {key.lstrip('#')}: {line}" for line in check_target(value)]
    return problems


def check_target(component: dict[str, Any]) -> list[str]:
    """Import what a component names and try its arguments on the signature."""
    name = component["_target_"]
    if name.startswith(("$", "@")):
        return []
    try:
        target = pydoc.locate(full_name(name))
    except pydoc.ErrorDuringImport as error:
        return [f"_target_ {name} fails to import ({error.value!r})."]
    if target is None:
        return [f"_target_ {name} cannot be imported."]
    if component.get("_mode_") == "callable":
        return []
    given = [key for key in component if not key.startswith("_")]
    try:
        parameters = inspect.signature(target).parameters.values()  # type: ignore[arg-type]
    except ValueError:  # built-in: tells no signature
        return []
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return []
    names = {p.name for p in parameters}
    needed = {p.name for p in parameters if p.default is p.empty and p.kind is p.KEYWORD_ONLY}
    return [f"_target_ {name} takes no argument {key!r}." for key in given if key not in names] + [
        f"_target_ {name} needs argument {key!r}." for key in sorted(needed - set(given))
    ]


def full_name(name: str) -> str:
    """Give the dotted path of a `_target_`, which MONAI looks up in its own modules when it has no dot."""
    module = monai_components().get_component_module_name(name)
    return name if module is None else f"{module[0] if isinstance(module, list) else module}.{name}"


def config_parser() -> Any:
    """Import MONAI's parser of configs, without what it warns of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.bundle import ConfigParser

        return ConfigParser


@cache
def monai_components() -> Any:
    """Make MONAI's table of its own components, once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.bundle.config_item import ComponentLocator

        return ComponentLocator(excludes=["metatensor"])


def check_required_keys(root: Path) -> list[str]:
    """Check that train.yaml and inference.yaml have every key that MONAI requires of them."""
    from monai.bundle.properties import InferProperties, TrainProperties

    problems = []
    for name, properties in (("train.yaml", TrainProperties), ("inference.yaml", InferProperties)):
        keys = keys_of(load(root, name))
        wanted = {p["id"].replace("::", "#") for p in properties.values() if p["required"]}
        problems += [f"{name}: required key {key!r} is missing." for key in sorted(wanted - keys.keys())]
    return problems


def check_shared_values(root: Path) -> list[str]:
    """Check that the network and what it sees are the same in train.yaml and inference.yaml, value by value."""
    train, inference = load(root, "train.yaml"), load(root, "inference.yaml")
    shared = (train.keys() & inference.keys()) - MAY_DIFFER - {"preprocessing"}
    problems = [
        f"{key}: {train[key]!r} in train.yaml, {inference[key]!r} in inference.yaml; wanted the same."
        for key in sorted(shared)
        if train[key] != inference[key]
    ]
    steps = [
        [step for step in compose["transforms"] if step["_target_"] not in PREPROCESSING_OWN]
        for compose in (train["preprocessing"], inference["preprocessing"]["steps"])
    ]
    if steps[0] != steps[1]:
        problems.append("preprocessing: its steps differ between train.yaml and inference.yaml; wanted the same.")
    return problems


def check_metadata(root: Path) -> list[str]:
    """Check versions: in the changelog, of the code, and of the packages the tests ran with."""
    metadata = read_metadata(root)
    version = metadata.get("version")
    problems = []
    if version not in metadata.get("changelog", {}):
        problems.append(f"metadata.json: version {version} is not in its changelog.")
    from sparse_ulm import __version__

    if version != __version__:
        problems.append(f"metadata.json: version is {version}, that of sparse_ulm {__version__}.")
    pins = {"monai": metadata.get("monai_version"), "torch": metadata.get("pytorch_version"),
            "numpy": metadata.get("numpy_version"), **metadata.get("required_packages_version", {})}  # fmt: skip
    constraints = root / "constraints.txt"
    if constraints.is_file():
        lines = [line for line in constraints.read_text().splitlines() if "==" in line]
        tested = {name.lower(): pin for name, _, pin in (line.partition("==") for line in lines)}
        problems += [
            f"metadata.json: {name} {pin}, but constraints.txt has {tested.get(name.lower())}."
            for name, pin in pins.items()
            if tested.get(name.lower()) != pin
        ]
    return problems + [f"metadata.json: needs {name}, which is not installed." for name in pins if not _installed(name)]


def check_data_format(root: Path) -> list[str]:
    """Check that network_data_format says what network_def takes and gives."""
    network = build_network(root)
    data_format = read_metadata(root)["network_data_format"]
    image, pred = data_format["inputs"]["image"], data_format["outputs"]["pred"]
    shape = image["spatial_shape"]
    refined = [size * factor for size, factor in zip(shape, network.upsampling, strict=False)]
    wanted = {
        "channels of image": (image["num_channels"], network.in_channels),
        "named channels of image": (len(image["channel_def"]), network.in_channels),
        "axes of image": (len(shape), len(network.site_multiple)),
        "sizes of image left over": (
            [s % m for s, m in zip(shape, network.site_multiple, strict=False)],
            [0] * len(shape),
        ),
        "sizes of pred": (pred["spatial_shape"], refined),
        "channels of pred": (pred["num_channels"], 1),
    }
    return [
        f"metadata.json: {what}: {said} there, {is_} in network_def."
        for what, (said, is_) in wanted.items()
        if said != is_
    ]


def check_weights(root: Path) -> list[str]:
    """Check that the shipped weights fit the shipped inference.yaml, and that no file is too large for the zoo."""
    from sparse_ulm.checkpoint import load_weights
    from sparse_ulm.errors import UserError

    problems = []
    for name, overrides in (("model.pt", {}), ("model_2d.pt", {"spatial_dims": 2})):
        path = root / "models" / name
        if not path.is_file():
            continue
        try:
            load_weights(build_network(root, **overrides), path)
        except UserError as error:
            problems.append(f"models/{name}: {error}")
    large = [p for p in sorted((root / "models").glob("*")) if p.stat().st_size > MAX_FILE_BYTES]
    return problems + [f"{p.relative_to(root)}: {p.stat().st_size >> 20} MiB; the zoo takes 25." for p in large]


def check_schema(root: Path, schema: Path | None) -> list[str]:
    """Validate metadata.json against MONAI's schema, where that file lies on this machine."""
    shared = Path(os.environ.get("SPARSE_ULM_SHARED", root.parent / "shared"))
    path = schema or shared / "data" / "monai" / SCHEMA_NAME
    if not path.is_file():
        if schema is not None:
            return [f"{schema}: no such file; wanted MONAI's {SCHEMA_NAME}."]
        print(f"metadata.json is not checked against MONAI's schema: {SCHEMA_NAME} not found; pass --schema FILE.")
        return []
    from jsonschema import Draft201909Validator

    errors = Draft201909Validator(json.loads(path.read_text())).iter_errors(read_metadata(root))
    return [f"metadata.json: {error.json_path}: {error.message}" for error in errors]


def read_metadata(root: Path) -> dict[str, Any]:
    """Parse configs/metadata.json."""
    return json.loads((root / "configs" / "metadata.json").read_text(encoding="utf-8"))


def build_network(root: Path, **overrides: Any) -> Any:
    """Make the network that inference.yaml defines."""
    from monai.bundle import ConfigParser

    parser = ConfigParser(load(root, "inference.yaml") | overrides)
    return parser.get_parsed_content("network_def")


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
