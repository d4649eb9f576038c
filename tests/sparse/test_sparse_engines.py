"""Choice of the engine."""

import importlib
import types

import pytest
import torch

from sparse_ulm.errors import UserError
from sparse_ulm.sparse import engines, get_engine, resolve_engine


@pytest.fixture
def importing(monkeypatch):
    """Let `import torchsparse` raise an error, or succeed with None."""
    original = importlib.import_module

    def pretend(error: Exception | None) -> None:
        def replacement(name: str, *rest):
            if name != "torchsparse":
                return original(name, *rest)
            if error is not None:
                raise error
            return types.ModuleType("torchsparse")

        monkeypatch.setattr(importlib, "import_module", replacement)
        engines.torchsparse_failure.cache_clear()

    yield pretend
    engines.torchsparse_failure.cache_clear()


def test_native_offers_the_protocol() -> None:
    engine = get_engine("native")
    assert all(callable(getattr(engine, name)) for name in ("submanifold", "strided", "transposed"))


@pytest.mark.parametrize(
    ("error", "cuda", "chosen"),
    [
        (None, True, "torchsparse"),
        (None, False, "native"),
        (ImportError("no module"), True, "native"),
        (AssertionError("Torch not compiled with CUDA enabled"), False, "native"),
        (OSError("undefined symbol"), True, "native"),
    ],
)
def test_auto(importing, monkeypatch, error: Exception | None, cuda: bool, chosen: str) -> None:
    importing(error)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    assert resolve_engine("auto") == chosen
    assert resolve_engine("native") == "native"


@pytest.mark.parametrize("error", [ImportError("a\nb"), AssertionError("Torch not compiled with CUDA enabled")])
def test_missing_torchsparse_is_one_line_with_the_cure(importing, error: Exception) -> None:
    importing(error)
    with pytest.raises(UserError, match=r"cannot be imported \(.*set engine: native") as caught:
        resolve_engine("torchsparse")
    assert "\n" not in str(caught.value)


def test_unknown_name() -> None:
    with pytest.raises(UserError, match="auto, native, torchsparse"):
        resolve_engine("minkowski")
