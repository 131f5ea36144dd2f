"""`python -m benchmarks.published flower`: a peer's own set-up run here, beside the figures that it published.

A cell is one split of the data by one algorithm. Runs that are done are kept: a call that was stopped goes on
where it was, and the page has the cells that have run to their end.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from rich.console import Console

from benchmarks.machine import describe_machine
from benchmarks.niid import ALGORITHMS, COLUMNS, FULL, PEERS, QUICK, Cell, Size, cells
from benchmarks.niid_parts import niid_split
from benchmarks.published_page import BEST, LAST, TIME, page
from benchmarks.result import Figure, Result, Target, add_folder_flags, check_published_whole, document
from benchmarks.spread import Spread
from benchmarks.study import Curve, read_curve, run_study
from scripts.partition import write
from utils.datasets import open_dataset
from utils.errors import program


def result(cell: Cell, curve: Curve) -> Result:
    """What a run came to; the promise is to be within a point of the same algorithm, or not below the best of all."""
    column, best = COLUMNS[cell.column], 100 * max(curve.accuracies)
    if cell.algorithm in PEERS:
        published = column.means[PEERS.index(cell.algorithm)]
        target = Target(f"published {cell.algorithm} above this", "points", published - best, 1.0)
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


def begun(places: Sequence[Cell], folder: Path) -> dict[str, int]:
    """Rounds done of the runs that have not ended."""
    metrics = {cell: folder / cell.name / "metrics.jsonl" for cell in places}
    return {
        cell.name: len(path.read_text("utf-8").splitlines())
        for cell, path in metrics.items()
        if path.exists() and not cell.entry(folder).exists()
    }


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.published", description=__doc__)
    parser.add_argument("table", choices=("flower",), help="whose set-up")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder with CIFAR-10; data")
    parser.add_argument("--quick", action="store_true", help="two rounds of a thousand images: a minute")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder for the runs; runs")
    add_folder_flags(parser, "that of the runs")
    parser.add_argument(
        "--cells",
        nargs="*",
        default=["*"],
        metavar="CELL",
        help="those to run, such as two_classes-FedAvg or iid-*; all. None after it: only the page is written",
    )
    parser.add_argument("--seeds", type=int, default=1, help="runs of each cell; 1")
    parser.add_argument("--workers", type=int, default=2, help="learners trained at once, a thread each; 2")
    parser.add_argument("--device", default="cpu", help="where to train; cpu")
    parser.set_defaults(at_once=1)
    options = parser.parse_args(argv)
    check_published_whole(parser, options)
    names = [f"{column}-{algorithm}" for column in COLUMNS for algorithm in ALGORITHMS]
    if unknown := [pattern for pattern in options.cells if not any(fnmatch(name, pattern) for name in names)]:
        parser.error(f"--cells: no cell is called {unknown[0]}; there are {', '.join(names)}")
    return options


def run(cell: Cell, size: Size, folder: Path, options: argparse.Namespace, console: Console) -> int:
    """Run a cell to its end, if it has not, and leave its entry; returns the exit code."""
    if cell.entry(folder).exists():
        return 0
    if not cell.parts(folder).exists():
        train = open_dataset(str(options.data), options.data).train.take(size.examples)
        column = COLUMNS[cell.column]
        write(niid_split(train, column.kind, column.classes), cell.parts(folder))
    trial = cell.trial(size, folder, ("--workers", str(options.workers), "--device", options.device))
    if code := run_study([trial], folder, options, console):
        return code
    made = result(cell, read_curve(folder / cell.name))
    cell.entry(folder).write_text(document(made, describe_machine(), options.quick), encoding="utf-8")
    return 0


@program
def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing and write the page; returns the exit code."""
    options = parse(argv)
    console = Console()
    size = QUICK if options.quick else FULL
    folder = options.runs / f"published-{options.table}{'-quick' if options.quick else ''}"
    out = options.out or folder
    folder.mkdir(parents=True, exist_ok=True)
    places, code = cells(options.seeds), 0
    for cell in places:
        if not code and any(fnmatch(cell.title, pattern) for pattern in options.cells):
            code = run(cell, size, folder, options, console)
    out.mkdir(parents=True, exist_ok=True)
    done = {
        cell: json.loads(cell.entry(folder).read_text("utf-8"))
        for cell in places
        if cell.entry(folder).exists()
    }
    name = f"published_{options.table}"
    entries = {cell.name: entry for cell, entry in done.items()}
    (out / f"{name}.json").write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    (out / f"{name}.md").write_text(page(size, done, begun(places, folder)), encoding="utf-8")
    console.print(f"the table is in {out}", highlight=False)
    return code


if __name__ == "__main__":
    sys.exit(main())
