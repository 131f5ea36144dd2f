"""The part of the Elastic Common Schema that is used here, and what of a line does not fit it.

ecs-9.4.0.csv has the names and types of these fields as generated/csv/fields.csv of elastic/ecs v9.4.0 gives them;
which ones every line has, and in which order, is from spec/spec.json of elastic/ecs-logging (version 1.0).
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
_LIST = Path(__file__).with_name("ecs-9.4.0.csv")
FIELDS = {row["Field"]: row["Type"] for row in csv.DictReader(_LIST.read_text(encoding="utf-8").splitlines())}
FIRST = ("@timestamp", "log.level", "message")
REQUIRED = {*FIRST, "ecs.version"}


def problems(lines: Iterable[str]) -> list[str]:
    """What Elasticsearch would not take, or take for something else than it is."""
    found: list[str] = []
    kinds: dict[str, str] = {}
    for line in lines:
        entry = json.loads(line)
        if tuple(entry)[:3] != FIRST or not set(entry) >= REQUIRED:
            found.append(f"does not begin as it should: {line}")
        for name, kind in _kinds("", entry):
            if name in FIELDS:
                if not _fits(FIELDS[name], entry[name]):
                    found.append(f"{name} is {entry[name]!r}, no {FIELDS[name]}")
            elif not name.startswith("flockstep."):
                found.append(f"{name} is not a field of the schema that is known here")
            elif kinds.setdefault(name, kind) != kind:
                found.append(f"{name} is {kind} here, {kinds[name]} elsewhere: {line}")
    inner = {name.rpartition(".")[0] for name in kinds}
    return found + [f"{name} is a value and an object" for name in inner & set(kinds)]


def _fits(kind: str, value: object) -> bool:
    if kind == "long":
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, str) and (kind != "date" or bool(_TIME.fullmatch(value)))


def _kinds(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Each field in `value` and how Elasticsearch would map it; a list is what its elements are."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _kinds(f"{name}.{key}" if name else key, inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _kinds(name, inner)
    elif value is not None:
        yield name, type(value).__name__
