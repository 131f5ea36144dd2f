"""The page of a published table: each figure of the peer's beside that of the run here, and what has run."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.machine import in_words
from benchmarks.outcome.niid import ALGORITHMS, COLUMNS, OLDER, PEERS, SOURCE, Cell, Size
from benchmarks.result import markdown_table

BEST, LAST, TIME = "best test accuracy over the rounds", "test accuracy of the last round", "time"

Document = Mapping[str, Any]
Documents = Mapping[Cell, Document]  # entries of the cells that have run to their end


def page(size: Size, done: Documents, begun: Mapping[str, int]) -> str:
    """The page in Markdown; `begun` has the rounds of the runs without an end."""
    heads = ["algorithm", "", *(column.title for column in COLUMNS.values())]
    lines = [
        "# Flower's NIID baseline",
        "",
        f"Test accuracy on CIFAR-10 in percent, the best over the rounds, as [Flower's baseline]({SOURCE}) tells it, "
        "and in brackets of the last round. 10 learners, a CNN of 62,006 parameters, "
        f"{size.rounds} rounds of {size.epochs} epoch{'s' if size.epochs > 1 else ''}, batch 64, SGD of rate 0.01, "
        "momentum 0.9 and weight decay 1e-5, crop and flip; parts are drawn by the baseline's own numbers. "
        f"Published: mean ± deviation, and with a slash that of an [older revision]({OLDER}). "
        f"Here: mean over the seeds that have run; – has not run to its end.{_quick(size)}",
        "",
        *markdown_table(heads, _rows(done), words=len(heads)),
        "",
        "What an algorithm changes from FedAvg, in the names of the config:",
        "",
        *(f"- {name}: {_changes(changes)}" for name, changes in ALGORITHMS.items()),
        "",
        "Not as in the baseline: an epoch is cut into batches of even size, in place of a small last one, and initial "
        "weights and order are drawn by other generators. Published FedProx is the best of four `mu`, "
        "here it has one. SCAFFOLD is not run here: theirs has momentum, which Flockstep's refuses.",
        "",
        *_runs(done),
        *(
            f"- {name}: {rounds} of {size.rounds} rounds so far, so it has no figure"
            for name, rounds in begun.items()
        ),
        "",
        "Repeat it: `python -m benchmarks.published flower --data DIR` (`--cells two_classes-FedAvg` runs one cell, "
        "`--quick` takes a minute); a call that was stopped goes on where it was.",
        "",
    ]
    return "\n".join(lines)


def _quick(size: Size) -> str:
    return f" A quick look, at {size.examples:,} images: it compares to nothing." if size.examples else ""


def _rows(done: Documents) -> Iterator[list[str]]:
    for number, name in enumerate(PEERS):
        published = [
            f"{column.means[number]:.1f} ± {column.deviations[number]:.1f} / {column.older[number]:.1f}"
            for column in COLUMNS.values()
        ]
        yield [name, "published", *published]
    for name in ALGORITHMS:
        yield [name, "here", *(_measured(done, column, name) for column in COLUMNS)]


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
