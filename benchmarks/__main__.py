"""`python -m benchmarks [--quick] [NAME ...]`: measure, show a table, write a JSON file an entry."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import idle_round, leader_memory, resnet18_round, robust_memory, sessions, simulation, soak
from benchmarks.machine import describe_machine
from benchmarks.result import Result, document, table
from benchmarks.robust_memory_plot import draw_robust_memory
from benchmarks.sessions_plot import draw_sessions
from scripts.children import ProgramFailedError, StoppedError

ENTRIES: dict[str, Callable[[bool], Result]] = {
    "idle_round": idle_round.measure,
    "resnet18_round": resnet18_round.measure,
    "leader_memory": leader_memory.measure,
    "robust_memory": robust_memory.measure,
    "sessions": sessions.measure,
    "simulation": simulation.measure,
    "soak": soak.measure,
}
RESULTS = Path(__file__).parents[1] / "docs" / "benchmarks"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repeats: some minutes in all")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the results; docs/benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(ENTRIES)}; default: all")
    options = parser.parse_args(argv)
    if unknown := sorted(set(options.names) - set(ENTRIES)):
        parser.error(f"no entry {', '.join(unknown)}; there are {', '.join(ENTRIES)}")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the entries asked for; the exit code is 1 when a target is missed or a process failed."""
    options = parse(argv)
    console = Console()
    options.out.mkdir(parents=True, exist_ok=True)
    results = []
    try:
        for name in options.names or ENTRIES:
            machine = describe_machine()  # anew for each entry: how busy it is differs
            console.print(f"measuring {name} on {machine} ...", highlight=False)
            result = ENTRIES[name](options.quick)
            path = options.out / f"{name}.json"
            path.write_text(document(result, machine, options.quick), encoding="utf-8")
            if result.entry == "sessions":
                draw_sessions(result.series, options.out / "sessions.png")
            if result.entry == "simulation":
                simulation.draw_simulation(result.series, options.out / "simulation.png")
            if result.entry == "robust_memory":
                draw_robust_memory(result.series, options.out / "robust_memory.png")
            results.append(result)
    except ProgramFailedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (StoppedError, KeyboardInterrupt):
        return 130
    console.print(table(results))
    return 0 if all(result.target is None or result.target.met for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
