"""`python -m benchmarks [--quick] [NAME ...]`: measure, show a table, write a JSON file an entry and a page of all."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.entries import ENTRIES
from benchmarks.machine import describe_machine
from benchmarks.overview import NAME, overview
from benchmarks.result import Result, SkippedError, add_folder_flags, check_published_whole, table
from scripts.children import ProgramFailedError, StoppedError

USUAL = Path("runs/bench")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repeats: some minutes in all")
    add_folder_flags(parser, str(USUAL))
    parser.add_argument(
        "--data", type=Path, default=Path("data"), help="folder that CIFAR-10 is in or goes to; data"
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"{', '.join(ENTRIES)}; default: all{_but()}"
    )
    options = parser.parse_args(argv)
    if unknown := sorted(set(options.names) - set(ENTRIES)):
        parser.error(f"no entry {', '.join(unknown)}; there are {', '.join(ENTRIES)}")
    check_published_whole(parser, options)
    options.out = options.out or USUAL
    return options


def _but() -> str:
    named = [name for name, entry in ENTRIES.items() if entry.named]
    return f" but {', '.join(named)}" if named else ""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the entries asked for; the exit code is 1 when a target is missed or a process failed."""
    options = parse(argv)
    console = Console()
    options.out.mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    failed = False
    for name in options.names or [name for name, entry in ENTRIES.items() if not entry.named]:
        try:
            results += _measure(name, options, console)
        except ProgramFailedError as error:  # the others can still be measured
            print(f"error: {name}: {error}", file=sys.stderr)
            failed = True
        except (StoppedError, KeyboardInterrupt):
            return 130
    if results:
        console.print(table(results))
        (options.out / NAME).write_text(overview(options.out, tuple(ENTRIES)), encoding="utf-8")
        console.print(f"results are in {options.out}", highlight=False)
    missed = not all(target.met for result in results for target in result.targets)
    return 1 if failed or missed else 0


def _measure(name: str, options: argparse.Namespace, console: Console) -> list[Result]:
    """The result of one entry, which is written too; none if it can't be measured here."""
    machine = describe_machine()  # anew for each entry: how busy it is differs
    console.print(f"measuring {name} on {machine} ...", highlight=False)
    began = time.monotonic()
    try:
        result = ENTRIES[name].measure(options.quick, options.data)
    except SkippedError as reason:
        console.print(f"skipped {name}: {reason}", style="yellow", highlight=False)
        return []
    ENTRIES[name].write(result, machine, options.out, quick=options.quick)
    console.print(f"{name} took {time.monotonic() - began:.0f} s", highlight=False)
    return [result]


if __name__ == "__main__":
    sys.exit(main())
