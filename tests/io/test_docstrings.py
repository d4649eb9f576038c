"""The examples in the docstrings of the readers hold."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["layout", "names", "nifti", "statements"])
def test_examples_hold(name):
    result = doctest.testmod(importlib.import_module(f"sparse_ulm.io.{name}"), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 0
    assert result.failed == 0
