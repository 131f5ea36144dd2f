"""What the audit of a secure run tells, read without the code that wrote it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any


def records(trust: Path) -> list[dict[str, Any]]:
    """The lines of the audit in a folder of trust."""
    return [json.loads(line) for line in (trust / "audit.jsonl").read_bytes().splitlines()]


def told(trust: Path) -> Counter[tuple[str, str]]:
    """How often it tells what of whom."""
    return Counter((line["what"], line.get("who", "")) for line in records(trust))
