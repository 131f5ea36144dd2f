"""The examples in docstrings are true."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT

PACKAGES = ("leader", "learner", "model", "utils", "scripts", "benchmarks")


def with_examples() -> list[str]:
    """The modules that have a line `>>>`."""
    files = (path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")))
    return [_name(path) for path in files if ">>> " in path.read_text(encoding="utf-8")]


def _name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


@pytest.mark.parametrize("module", with_examples())
def test_what_a_docstring_shows_is_so(module: str) -> None:
    found = doctest.testmod(import_module(module), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted > 0
    assert found.failed == 0
