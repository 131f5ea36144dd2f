"""`python -m benchmarks.published flower|nvflare`: a peer's own set-up run here, beside the figures that it published.

A cell is one split of the data by one algorithm. Runs that are done are kept: a call that was stopped goes on
where it was, and the page has the cells that have run to their end.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path

from rich.console import Console

from benchmarks.machine import describe_machine
from benchmarks.outcome.niid import FLOWER
from benchmarks.outcome.nvflare import NVFLARE
from benchmarks.outcome.published_page import BEST, LAST, TIME, Document, page
from benchmarks.outcome.published_table import QUICK, Cell, Column, Size, Table
from benchmarks.outcome.study import Curve, has_ended, parse_study, read_curve, run_study
from benchmarks.result import Figure, Result, Target, document
from benchmarks.spread import Spread
from scripts.partition import write
from utils.datasets import open_dataset
from utils.errors import ConfigError, program

TABLES: Mapping[str, Table] = {table.name: table for table in (FLOWER, NVFLARE)}


def result(column: Column, cell: Cell, curve: Curve) -> Result:
    """What a run came to; the promise is to be within a point of the same algorithm, or not below the best of all."""
    best = 100 * max(curve.accuracies)
    if own := column.published.get(cell.algorithm):
        target = Target(f"published {cell.algorithm} above this", "points", own.mean - best, 1.0)
    else:
        target = Target("best published above this", "points", column.best - best, 0.0)
    return Result(
        entry=cell.name,
        about=f"{column.title}, {cell.algorithm}, seed {cell.seed}, {curve.rounds[-1]} rounds",
        target=target,
        figures=(
            Figure(BEST, "%", Spread.of([best])),
            Figure(LAST, "%", Spread.of([100 * curve.accuracy])),
            Figure(TIME, "s", Spread.of([curve.seconds])),
        ),
        ratios={},
        series={"round": curve.rounds, "accuracy": curve.accuracies},
    )


def rounds_done(places: Sequence[Cell], folder: Path) -> dict[Cell, int]:
    """Rounds of each run that was begun."""
    metrics = {cell: folder / cell.name / "metrics.jsonl" for cell in places}
    return {
        cell: len(path.read_text("utf-8").splitlines()) for cell, path in metrics.items() if path.exists()
    }


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    few = "two rounds of a thousand images"
    return parse_study(argv, "python -m benchmarks.published", __doc__, few, _add_flags)


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", choices=TABLES, help="whose set-up")
    which = "those to run, such as two_classes-FedAvg or iid-*; all. None after it: only the page is written"
    parser.add_argument("--cells", nargs="*", default=["*"], metavar="CELL", help=which)
    parser.add_argument("--seeds", type=int, default=1, help="runs of each cell; 1")
    parser.add_argument("--device", default="cpu", help="where to train; cpu")


def choose(places: Sequence[Cell], patterns: Sequence[str]) -> list[Cell]:
    """The cells that the patterns name; raises ConfigError."""
    for pattern in patterns:
        if not any(fnmatch(cell.title, pattern) for cell in places):
            names = ", ".join(dict.fromkeys(cell.title for cell in places))
            raise ConfigError(f"--cells: no cell is called {pattern}; there are {names}")
    return [cell for cell in places if any(fnmatch(cell.title, pattern) for pattern in patterns)]


def write_parts(column: Column, cell: Cell, size: Size, data: Path, folder: Path) -> None:
    """What the learners of the cell bring, if no cell of its column wrote it before; raises DataError."""
    if not cell.parts(folder).exists():
        train = open_dataset(str(data), data, download=False).train.take(size.examples)
        write(column.split(train), cell.parts(folder))


def entry(column: Column, cell: Cell, folder: Path, *, quick: bool) -> Document:
    """The entry of a run that has ended; written if it is not there, as of this machine."""
    path = folder / f"{cell.name}.json"
    if not path.exists():
        made = result(column, cell, read_curve(folder / cell.name))
        path.write_text(document(made, describe_machine(), quick), encoding="utf-8")
    kept: Document = json.loads(path.read_text("utf-8"))
    return kept


def ended_elsewhere(places: Sequence[Cell], results: Path) -> dict[Cell, Document]:
    """What the file has of runs already: hours each, perhaps of another machine."""
    entries: Mapping[str, Document] = json.loads(results.read_text("utf-8")) if results.exists() else {}
    return {cell: entries[cell.name] for cell in places if cell.name in entries}


@program
def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing and write the page; returns the exit code."""
    options = parse(argv)
    console = Console()
    table = TABLES[options.table]
    size = QUICK if options.quick else table.full
    folder = options.runs / f"published-{table.name}{'-quick' if options.quick else ''}"
    out = options.out or folder
    places = table.cells(options.seeds)
    chosen = choose(places, options.cells)
    for cell in chosen:
        write_parts(table.columns[cell.column], cell, size, options.data, folder)
    trials = [table.trial(cell, size, folder, options.device) for cell in chosen]
    code = run_study(trials, folder, options, console) if trials else 0
    rounds = rounds_done(places, folder)
    whole = [cell for cell in rounds if rounds[cell] == size.rounds and has_ended(folder / cell.name)]
    out.mkdir(parents=True, exist_ok=True)
    results = out / f"published_{table.name}.json"
    done = {
        **ended_elsewhere(places, results),
        **{cell: entry(table.columns[cell.column], cell, folder, quick=options.quick) for cell in whole},
    }
    content = json.dumps({cell.name: each for cell, each in done.items()}, indent=1) + "\n"
    results.write_text(content, encoding="utf-8")
    made = page(table, size, done, {cell.name: rounds[cell] for cell in rounds if cell not in done})
    (out / f"published_{table.name}.md").write_text(made, encoding="utf-8")
    console.print(f"the table is in {out}", highlight=False)
    return code


if __name__ == "__main__":
    sys.exit(main())
