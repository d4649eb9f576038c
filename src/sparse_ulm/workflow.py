"""What `monai.bundle run` lacks for its users: unknown options are refused, and mistakes are one line, not a traceback.

Configs call `prepare_run` first in their `initialize` list.
"""

import ctypes
import json
import logging
import os
import re
import sys
import time
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import yaml

from sparse_ulm.errors import RanksError, UserError, find_user_error
from sparse_ulm.ranks import launched_rank

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Numbers of glibc's malloc.h."""

PATIENCE_S = 10.0
"""How long a process waits for torchrun to end it, in place of saying what another one has said."""

RUN_ARGUMENTS = {
    "run_id", "init_id", "final_id", "meta_file", "config_file", "logging_file", "tracking", "args_file",
    "workflow_name", "workflow_type",
}  # fmt: skip
"""Options of `monai.bundle run` itself (MONAI 1.6)."""

TRACKING_KEYS = {"experiment_name", "is_not_rank0", "run_name", "save_execute_config", "tracking_uri"}
"""Keys that `--tracking mlflow` puts into a config (MONAI 1.6), and that may be given beside it."""

WORDS = {"true": True, "false": False, "null": None}
"""YAML's words, as our configs and documents write them. MONAI reads its command line as Python does, True and None,
and would take "false" for a text, which counts as true."""

COMPONENT_KEYS = {"_desc_", "_disabled_", "_mode_", "_requires_"}
"""Keys that MONAI knows below every `_target_`, whether they stand there or not."""


def prepare_run() -> None:
    """Refuse unknown options of the command line and make errors readable.

    Acts on `python -m monai.bundle ...` alone: a program that uses our configs as a library keeps its own error
    handling and its own command line.

    Raises:
        UserError: If an option of `python -m monai.bundle run` names no key of the configs.
    """
    if Path(sys.argv[0]).parts[-3:] != ("monai", "bundle", "__main__.py"):
        return
    sys.excepthook = one_line_errors
    # On the handlers: a filter on the logger "ignite" would not see the records of the loggers below it.
    for handler in logging.getLogger().handlers:
        handler.addFilter(_drop_user_errors)
    check_overrides(sys.argv[1:])
    read_words(sys.argv[1:], find_parser())
    keep_freed_memory()


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory for the next layer in place of giving it back to the system and asking again.

    A training step frees and allocates the same tens of megabytes a hundred times; every page given back is cleared
    and mapped anew, about a tenth of the step (benchmarks/training_step.py). Peak memory stays what it was.

    Returns:
        Whether it was done: glibc on Linux alone has these settings.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    largest_threshold, never = 32 << 20, 2**31 - 1  # 32 MiB is the most that glibc takes
    return bool(mallopt(_M_MMAP_THRESHOLD, largest_threshold) and mallopt(_M_TRIM_THRESHOLD, never))


def one_line_errors(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Print a user's mistake as one line; anything else as Python does. Python exits with 1 after either.

    Of several processes that fail alike one line is enough: torchrun ends the others as soon as one has ended, and so
    rank 0 goes first, and a process that only missed another one goes last.
    """
    mistake, number = find_user_error(error), launched_rank()
    if number is not None and (number > 0 or isinstance(mistake, RanksError)):
        time.sleep(PATIENCE_S)
    if mistake is None:
        sys.__excepthook__(kind, error, traceback)
    else:
        where = f"rank {number}: " if number else ""
        print(f"error: {where}{' '.join(str(mistake).split())}", file=sys.stderr, flush=True)


def _drop_user_errors(record: logging.LogRecord) -> bool:
    """Keep ignite and MONAI from logging a mistake that is printed as one line at the end."""
    return record.levelno < logging.ERROR or find_user_error(sys.exc_info()[1]) is None


def check_overrides(arguments: Sequence[str]) -> None:
    """Refuse `--key value` options that stand in no config file, which MONAI accepts in silence.

    Args:
        arguments: The command line after the program's name.

    Raises:
        UserError: For the first unknown key, with the nearest known one.
    """
    # Fire also takes "-key value"; "-0.5" is a value.
    names = [a.lstrip("-").split("=")[0] for a in arguments if re.match(r"--|-[A-Za-z_]", a)]
    known = {key for path in _config_files(arguments) for key in _keys(yaml.safe_load(path.read_text()))}
    for name in names:
        key = name.replace("::", "#").lstrip("+")
        above, _, last = key.rpartition("#")
        if name in RUN_ARGUMENTS or not known or key in known:
            continue
        if (name in TRACKING_KEYS and "tracking" in names) or (last in COMPONENT_KEYS and f"{above}#_target_" in known):
            continue
        near = get_close_matches(key, sorted(known), n=1)
        hint = f"; did you mean --{near[0]}?" if near else "."
        raise UserError(f"unknown option --{name}: no key of that name stands in the config{hint}")


def read_words(arguments: Sequence[str], parser: Any) -> None:
    """Make `--key false`, true and null what YAML makes of them, and "{rat7: sub-07}" and lists that are no Python.

    Args:
        arguments: The command line after the program's name.
        parser: MONAI's parser of the configs; it may read them again after `initialize`, or not.
    """
    for option, value in zip(arguments, [*arguments[1:], ""], strict=True):
        name, has_value, text = option.partition("=")
        text = text if has_value else value
        *path, last = name.lstrip("-").replace("::", "#").split("#")
        if not name.startswith("-") or last in RUN_ARGUMENTS or not (text in WORDS or text.startswith(("{", "["))):
            continue
        holder = parser.config
        for key in path:
            holder = holder[int(key) if isinstance(holder, list) else key]
        place = int(last) if isinstance(holder, list) else last
        if text in WORDS or isinstance(holder[place], str):
            holder[place] = _from_yaml(name, text)
            parser.ref_resolver.items["::".join([*path, last])].update_config(holder[place])


def _from_yaml(option: str, text: str) -> Any:
    """Read the value of an option.

    Raises:
        UserError: If it is no YAML.
    """
    try:
        return WORDS[text] if text in WORDS else yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{option} is {text!r}; wanted a list or mapping in YAML or Python ({error}).") from None


def find_parser() -> Any:
    """Find the parser that has called us from a config's `initialize`: MONAI does not hand it over."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if "ref_resolver" in getattr(caller, "__dict__", {}):
            return caller
        frame = frame.f_back
    raise RuntimeError("prepare_run was not called by MONAI's parser of configs")


def print_scores(path: str | Path) -> None:
    """Print the total of a `metrics.json` in one line; the last step of configs/evaluate.yaml."""
    total = json.loads(Path(path).read_text(encoding="utf-8"))["total"]
    print(
        f"Dice {total['dice']:.3f} voxel exact, {total['dice_lambda_10']:.3f} within a tenth of the wavelength "
        f"(precision {total['precision_lambda_10']:.3f}, recall {total['recall_lambda_10']:.3f}), "
        f"recordings: {total['n_recordings']}. All scores: {path}"
    )


def _config_files(arguments: Sequence[str]) -> list[Path]:
    """Read `--config_file` from the command line: one path, or a list written as Python."""
    for position, argument in enumerate(arguments):
        if argument.startswith("--config_file"):
            value = argument.partition("=")[2] or arguments[position + 1]
            paths = yaml.safe_load(value) if value.startswith("[") else [value]
            return [Path(path) for path in paths if os.path.exists(path)]
    return []


def _keys(node: object, prefix: str = "") -> set[str]:
    """List all keys of a parsed config, nested ones joined by '#'."""
    if isinstance(node, dict):
        items = [(str(key).lstrip("+"), value) for key, value in node.items()]
    elif isinstance(node, list):
        items = [(str(i), value) for i, value in enumerate(node)]
    else:
        return set()
    found = set()
    for key, value in items:
        path = f"{prefix}#{key}" if prefix else key
        found |= {path} | _keys(value, path)
    return found
