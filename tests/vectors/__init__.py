"""Test vectors of privacy, computed by another implementation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def vectors(name: str) -> Any:
    """The content of a file of vectors, such as "lattice"."""
    return json.loads(Path(__file__).with_name(f"{name}.json").read_text(encoding="utf-8"))
