"""What tests need of the machine and of its environment: skipped where it is missing, but never in CI."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec

import pytest


def needs(package: str) -> pytest.MarkDecorator:
    """Skip a test where `package` is missing: `make install` brings it, but an environment of one's own may lack it."""
    missing = find_spec(package) is None and "CI" not in os.environ
    return pytest.mark.skipif(missing, reason=f"{package} is not installed: make install")


def need_commands(*commands: str, install: str) -> None:
    """Skip the test unless these commands are there; `install` says how to get them, as .ci/run does."""
    missing = [command for command in commands if shutil.which(command) is None]
    if missing and "CI" in os.environ:
        pytest.fail(f"{', '.join(missing)} missing, which .ci/run is to install: {install}")
    if missing:
        pytest.skip(f"{', '.join(missing)} missing: {install}")
