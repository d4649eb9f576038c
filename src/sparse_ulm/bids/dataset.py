"""What stands at the root of a derivative dataset, and where the recordings came from."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sparse_ulm import __version__
from sparse_ulm.bids.names import DATATYPE
from sparse_ulm.errors import UserError
from sparse_ulm.io.atomic import atomic_path

DESCRIPTION, IGNORED, README = "dataset_description.json", ".bidsignore", "README.md"
TOOL = "sparse-ulm"
BIDS_VERSION = "1.10.0"
README_TEXT = f"""# Maps of vessels by sparse-ulm

Super-resolved maps, bubbles and tracks from ultrasound localisation microscopy; each file has a sidecar that says what
it holds, in which unit, from which recording and with which settings. Research use only; not for diagnosis.

The datatype `{DATATYPE}` is that of BEP040, an open proposal, and the suffix `ulm` is not part of BIDS: `{IGNORED}`
lists them for validators.
"""


def read_description(folder: Path) -> dict[str, Any]:
    """Read the description of a dataset of ours; an empty folder has a new one.

    Raises:
        UserError: If the folder is a dataset of others, or holds something that is no dataset.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        if folder.exists() and any(one for one in folder.iterdir() if not one.name.startswith(".")):
            raise UserError(
                f"{folder} holds files and no {DESCRIPTION}; wanted an empty or new folder, or a dataset of {TOOL}. "
                "Choose another --bids_dir."
            )
        return {"Name": "Vascular maps by sparse-ulm", "BIDSVersion": BIDS_VERSION, "DatasetType": "derivative"}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        tools = [one["Name"] for one in content["GeneratedBy"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} names no tool that made the dataset ({type(error).__name__}); wanted one of {TOOL}. "
            "Choose another --bids_dir, as derivatives/ulm."
        ) from None
    if TOOL not in tools:
        raise UserError(
            f"{path} is of {', '.join(map(str, tools))}; wanted a dataset of {TOOL}. Choose another --bids_dir."
        )
    return dict(content)


def write_description(folder: Path, description: dict[str, Any]) -> None:
    """Write what a dataset has at its root; a README that is there stays."""
    content = description | {"GeneratedBy": [{"Name": TOOL, "Version": __version__}]}
    with atomic_path(folder / DESCRIPTION) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for name, text in ((IGNORED, f"{DATATYPE}\n"), (README, README_TEXT)):
        if not (folder / name).exists():
            with atomic_path(folder / name) as temporary:
                temporary.write_text(text, encoding="utf-8")


def link_sources(paths: Iterable[Path], folder: Path, description: dict[str, Any]) -> list[str]:
    """Name files that results come from, and note in `DatasetLinks` which datasets they lie in.

    Args:
        paths: The files.
        folder: Root of the derivative dataset.
        description: Its description; links are added.

    Returns:
        `bids:LINK:PATH` of a file in a BIDS dataset; of others the name alone.
    """
    sources = []
    for path in paths:
        root = next((one for one in path.absolute().parents if (one / DESCRIPTION).is_file()), None)
        if root is None:
            sources.append(path.name)
            continue
        links = description.setdefault("DatasetLinks", {})
        place = Path(os.path.relpath(root, folder.absolute())).as_posix()
        link = next((link for link, linked in links.items() if linked == place), None)
        if link is None:
            link = "raw" if "raw" not in links else f"raw{len(links) + 1}"
            links[link] = place
        sources.append(f"bids:{link}:{path.absolute().relative_to(root).as_posix()}")
    return sources
