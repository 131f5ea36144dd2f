"""The page of a published table: each figure of the peer's beside that of the run here, and what has run."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.machine import in_words
from benchmarks.outcome.published_table import Cell, Size, Table
from benchmarks.result import markdown_table

BEST, LAST, TIME = "best test accuracy over the rounds", "test accuracy of the last round", "time"

Document = Mapping[str, Any]
Documents = Mapping[Cell, Document]  # entries of the cells that have run to their end


def page(table: Table, size: Size, done: Documents, begun: Mapping[str, int]) -> str:
    """The page in Markdown; `begun` has the rounds of the runs without an end."""
    words = table.words
    heads = ["algorithm", "", *(column.title for column in table.columns.values())]
    lines = [
        f"# {words.title}",
        "",
        f"Test accuracy on CIFAR-10 in percent, the best over the rounds, as {words.source} tells it, "
        f"and in brackets of the last round. {table.learners} learners, {words.network}, "
        f"{size.rounds} rounds of {size.epochs} epoch{'s' if size.epochs > 1 else ''}, {words.steps}. "
        f"Published: {words.figures}. "
        f"Here: mean over the seeds that have run; – has not run to its end.{_quick(size)}",
        "",
        *markdown_table(heads, _rows(table, done), words=len(heads)),
        "",
        "What an algorithm changes from FedAvg, in the names of the config:",
        "",
        *(f"- {name}: {_changes(changes)}" for name, changes in table.algorithms.items()),
        "",
        *(line for note in words.notes for line in (note, "")),
        *_runs(done),
        *(
            f"- {name}: {rounds} of {size.rounds} rounds so far, so it has no figure"
            for name, rounds in begun.items()
        ),
        "",
        f"Repeat it: `python -m benchmarks.published {table.name} --data DIR` ({words.flags}); "
        "a call that was stopped goes on where it was.",
        "",
    ]
    return "\n".join(lines)


def _quick(size: Size) -> str:
    return f" A quick look, at {size.examples:,} images: it compares to nothing." if size.examples else ""


def _rows(table: Table, done: Documents) -> Iterator[list[str]]:
    for name in table.peers:
        yield [name, "published", *(str(c.published.get(name, "")) for c in table.columns.values())]
    for name in table.algorithms:
        places = [(column, name) for column in table.columns]
        yield [name, "here", *(_measured(done, *place) if table.has(*place) else "" for place in places)]


def _measured(done: Documents, column: str, algorithm: str) -> str:
    entries = [entry for cell, entry in done.items() if (cell.column, cell.algorithm) == (column, algorithm)]
    if not entries:
        return "–"
    best, last = (statistics.fmean(_figure(entry, name) for entry in entries) for name in (BEST, LAST))
    return f"{best:.1f} ({last:.1f})"


def _figure(entry: Document, name: str) -> float:
    value: float = entry["figures"][name]["median"]
    return value


def _changes(changes: Mapping[str, object]) -> str:
    return ", ".join(f"`{key}={value}`" for key, value in changes.items()) or "nothing"


def _runs(done: Documents) -> Iterator[str]:
    """A line a run: its length, its time and its machine."""
    yield f"Runs that have ended: {len(done) or 'none.'}"
    yield ""
    for entry in done.values():
        machine, hours = entry["machine"], _figure(entry, TIME) / 3600
        yield f"- {entry['about']}: {hours:.1f} hours, {in_words(machine)}, flockstep {machine['flockstep']}"
