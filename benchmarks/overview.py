"""The page of all results: a row a target, from the result files in a folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.machine import in_words
from benchmarks.measured_code import changed_since

NAME = "README.md"
OLDER = " †"
Document = Mapping[str, Any]


def overview(folder: Path, names: tuple[str, ...]) -> str:
    """The page for the result files in `folder` of these entries, as far as they are there."""
    paths = {name: folder / f"{name}.json" for name in names}
    found = {name: json.loads(path.read_text("utf-8")) for name, path in paths.items() if path.exists()}
    return "\n".join(
        [
            "# Results",
            "",
            "What the project promises, and what was measured (`make bench`, or one entry: `make bench ARGS=NAME`; "
            "CIFAR-10 in DATA=DIR). All figures, with quartiles, are in the files named here.",
            "",
            "| entry | promised | measured | at most | |",
            "|---|---|---:|---:|---|",
            *(row for name, document in found.items() for row in _rows(name, document, folder)),
            "",
            *(f"Measured on {machine}: {', '.join(those)}.  " for machine, those in _machines(found).items()),
            "",
            *_older(found),
        ]
    )


def _rows(name: str, document: Document, folder: Path) -> Iterator[str]:
    targets = [*([document["target"]] if document["target"] else []), *document.get("further", [])]
    page = f"{name}.md" if (folder / f"{name}.md").exists() else f"{name}.json"
    link = f"[{name}]({page}){OLDER if changed_since(document.get('measured')) else ''}"
    if not targets:
        yield f"| {link} | nothing | | | |"
    for target in targets:
        unit = f" {target['unit']}" if target["unit"] else ""
        verdict = "met" if target["met"] else "**missed**"
        measured, limit = f"{target['value']:.3g}{unit}", f"{target['limit']:.3g}{unit}"
        yield f"| {link} | {target['name']} | {measured} | {limit} | {verdict} |"


def _machines(found: Mapping[str, Document]) -> dict[str, list[str]]:
    """Which entries were measured where."""
    machines: dict[str, list[str]] = {}
    for name, document in found.items():
        machines.setdefault(in_words(document["machine"]), []).append(name)
    return machines


def _older(found: Mapping[str, Document]) -> Iterator[str]:
    """What the mark says, where a row has it."""
    if any(changed_since(document.get("measured")) for document in found.values()):
        yield "† older than the code: a source of what it ran has changed between the measurement and this page."
        yield ""
