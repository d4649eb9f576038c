"""Pack the bundle as the model zoo hands it out: one zip that runs without installing `sparse_ulm`.

    python bundle/pack.py [--root DIR] [--output dist]

`src/sparse_ulm` goes to the zip's own root as `sparse_ulm`, so that every `_target_` of the configs is found there. The
same files give the same bytes, and `NAME.zip.sha256` beside the zip is what `sha256sum --check` reads.
"""

import argparse
import hashlib
import json
import os
import sys
import tempfile
import zipfile
from pathlib import Path

NAME = "microvessel_ultrasound_superresolution"
"""The bundle's name in the zoo, and the one folder at the top of the zip."""

ALLOWED = (
    "LICENSE", "CITATION.cff", "CHANGELOG.md", "constraints.txt",
    "configs/metadata.json", "configs/logging.conf", "configs/*.yaml", "models/*.pt",
    "docs/**/*.md", "docs/**/*.png", "src/sparse_ulm/**/*.py", "src/sparse_ulm/py.typed",
    "src/sparse_ulm/report/*.html", "src/sparse_ulm/report/*.css", "src/sparse_ulm/report/*.js",
    "src/sparse_ulm/report/niivue/*",
)  # fmt: skip
"""Everything that ships; what is not named here stays at home."""

REQUIRED = ("LICENSE", "configs/metadata.json", "configs/inference.yaml", "configs/train.yaml", "models/model.pt",
            "docs/README.md", "src/sparse_ulm/__init__.py")  # fmt: skip
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time a zip can hold; the files' own times differ from clone to clone."""


def main(arguments: list[str] | None = None) -> int:
    """Write zip and hash, print where, and give the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent, help="the bundle's root")
    parser.add_argument("--output", type=Path, default=Path("dist"), help="folder for the zip")
    options = parser.parse_args(arguments)
    try:
        target = pack(options.root, options.output)
    except FileNotFoundError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(target)
    return 0


def pack(root: Path, output: Path) -> Path:
    """Write `NAME_vVERSION.zip` and its SHA-256 into a folder.

    Args:
        root: The bundle's root.
        output: Folder to write to; made if absent.

    Returns:
        Path of the zip.

    Raises:
        FileNotFoundError: If a file that a bundle needs is not there.
    """
    missing = [name for name in REQUIRED if not (root / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{root} lacks {', '.join(missing)}; wanted a whole bundle. Train or write them first.")
    version = json.loads((root / "configs/metadata.json").read_text(encoding="utf-8"))["version"]
    output.mkdir(parents=True, exist_ok=True)
    target = output / f"{NAME}_v{version}.zip"
    with tempfile.TemporaryDirectory(dir=output, prefix=".packing") as folder:
        partial = Path(folder) / target.name
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for name, file in sorted(packed_names(root).items()):
                entry = zipfile.ZipInfo(f"{NAME}/{name}", EPOCH)
                entry.create_system, entry.external_attr = 3, 0o100644 << 16  # as on Unix, whoever packs
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, file.read_bytes())
        digest = hashlib.sha256(partial.read_bytes()).hexdigest()
        os.replace(partial, target)
    target.with_name(f"{target.name}.sha256").write_text(f"{digest}  {target.name}\n", encoding="ascii")
    return target


def packed_names(root: Path) -> dict[str, Path]:
    """List what is packed: its name in the bundle, and the file."""
    files = {file for pattern in ALLOWED for file in root.glob(pattern) if file.is_file()}
    return {
        file.relative_to(root).as_posix().removeprefix("src/"): file for file in files if not file.name.startswith(".")
    }


if __name__ == "__main__":
    sys.exit(main())
