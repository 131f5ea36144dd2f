"""The test vectors of the privacy design, which lie beside the checkout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "shared" / "reference"


def vectors(name: str) -> Any:
    """The content of a file of vectors, such as "privacy/lattice"; skips the test where it is missing."""
    path = FOLDER / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"no test vectors: {path} is missing")
    return json.loads(path.read_text(encoding="utf-8"))
