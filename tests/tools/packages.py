"""Packages that some tests need: `make install` brings them, so only an environment of one's own lacks them."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest


def needs(package: str) -> pytest.MarkDecorator:
    """Skip a test where `package` is missing, but never in CI."""
    missing = find_spec(package) is None and "CI" not in os.environ
    return pytest.mark.skipif(missing, reason=f"{package} is not installed: make install")
