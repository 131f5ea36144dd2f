"""Identities of these tests are in a folder of their own."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where identities are."""
    monkeypatch.setenv("FLOCKSTEP_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "identities"
