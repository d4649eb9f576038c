"""What MONAI accepts in a config without a word, found in the parsed YAML before it costs anybody a day.

Part of `verify.py`; nothing here imports MONAI.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

NUMBER = re.compile(r"[+-]?(\d[\d_]*\.?\d*|\.\d+)([eE][+-]?\d+)?")
REFERENCE = re.compile(r"@([A-Za-z_][\w#:]*)")
YAML_BOOLEANS = {"yes", "no", "on", "off"}


def find_traps(path: Path) -> list[str]:
    """List what YAML reads otherwise than it looks: repeated keys, `1e-3`, `no`, `12:30`, and paths of one machine.

    Args:
        path: A YAML file.

    Returns:
        One line per finding, with file and line.
    """
    root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        return [f"{path.name}: holds no keys; wanted a config."]
    return [f"{path.name}:{node.start_mark.line + 1}: {finding}" for node, finding in _walk(root)]


def _walk(node: yaml.Node) -> Iterator[tuple[yaml.Node, str]]:
    """Yield findings below a node."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                yield key, f"key {key.value!r} stands here twice; the first is lost. Remove one."
            seen.add(key.value)
            yield from _walk(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _walk(item)
    else:
        yield from _scalar_traps(node)


def _scalar_traps(node: yaml.Node) -> Iterator[tuple[yaml.Node, str]]:
    """Yield what is wrong with one value."""
    kind, text = node.tag.rpartition(":")[2], node.value
    if kind == "str" and NUMBER.fullmatch(text):
        yield node, f"{text!r} is read as text; write a number as 1.0e-3."
    if kind == "bool" and text.lower() in YAML_BOOLEANS:
        yield node, f"{text!r} is read as a truth value; write true, false or quote it."
    if kind in ("int", "float") and ":" in text:
        yield node, f"{text!r} is read as a number of base 60; quote it."
    if kind == "str" and re.match(r"(/|~|[A-Za-z]:\\)", text):
        yield node, f"{text!r} is a path of one machine; wanted one relative to the bundle root."


def keys_of(node: Any, prefix: str = "") -> dict[str, Any]:
    """List every key of a parsed config with its value, nested ones joined by '#'."""
    if isinstance(node, dict):
        items = [(str(key), value) for key, value in node.items()]
    elif isinstance(node, list):
        items = [(str(i), value) for i, value in enumerate(node)]
    else:
        return {}
    found: dict[str, Any] = {}
    for key, value in items:
        path = f"{prefix}#{key}" if prefix else key
        found[path] = value
        found |= keys_of(value, path)
    return found


def references_of(config: dict[str, Any]) -> set[str]:
    """Collect what the values of a config refer to, with '#' between levels."""
    text = [value for value in keys_of(config).values() if isinstance(value, str)]
    return {match.replace("::", "#") for value in text if value[:1] in "$@" for match in REFERENCE.findall(value)}


def find_loose_ends(name: str, config: dict[str, Any], entry_points: set[str]) -> list[str]:
    """List references to keys that do not exist, and keys that nothing refers to.

    Args:
        name: Name of the file, for the messages.
        config: Its parsed content, merged over what it overlays.
        entry_points: Top-level keys that MONAI itself asks for.
    """
    known, used = keys_of(config).keys(), references_of(config)
    dangling = [f"{name}: @{ref} refers to no key." for ref in sorted(used - known)]
    reached = {ref.split("#")[0] for ref in used} | entry_points
    return dangling + [
        f"{name}: nothing refers to key {key!r}; an option without effect." for key in config if key not in reached
    ]
