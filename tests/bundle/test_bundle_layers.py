"""Core modules know no engine: neither MONAI nor Ignite is imported below the thin layer."""

import ast
from pathlib import Path

import pytest
from bundle_runs import ROOT

PACKAGE = ROOT / "src" / "sparse_ulm"
THIN = {
    "transforms", "candidate_transforms", "run_transforms", "truth_transforms", "engine", "inferer", "handlers",
    "localisation_handlers", "dataset", "distributed",
}  # fmt: skip
"""Modules that wrap the core for MONAI and Ignite."""

CORE = [path for path in sorted(PACKAGE.rglob("*.py")) if not (path.parent == PACKAGE and path.stem in THIN)]


def imported(path: Path) -> set[str]:
    """Every module that a file imports, at its top or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_core_module_imports_no_engine(path):
    names = imported(path)
    assert not {name for name in names if name.split(".")[0] in ("monai", "ignite")}
    assert not {name for name in names if name in {f"sparse_ulm.{thin}" for thin in THIN}}


def test_the_walk_sees_imports():
    assert "monai.engines" in imported(PACKAGE / "engine.py")
    assert len(CORE) > 20
