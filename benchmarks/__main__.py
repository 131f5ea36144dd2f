"""`python -m benchmarks [--quick] [NAME ...]`: measure, show a table, write a JSON file an entry."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import (
    codecs,
    idle_round,
    leader_memory,
    learners,
    resnet18_round,
    robust_memory,
    scaling,
    scaling_page,
    sessions,
    simulation,
    soak,
    step_time,
    transport,
)
from benchmarks.codecs_page import draw_codecs, page
from benchmarks.learners_plot import draw_learners
from benchmarks.machine import describe_machine
from benchmarks.result import Result, SkippedError, document, table
from benchmarks.robust_memory_plot import draw_robust_memory
from benchmarks.sessions_plot import draw_sessions
from benchmarks.step_time_plot import draw_step_time
from benchmarks.transport_plot import draw_transport
from scripts.children import ProgramFailedError, StoppedError

ENTRIES: dict[str, Callable[[bool], Result]] = {
    "idle_round": idle_round.measure,
    "resnet18_round": resnet18_round.measure,
    "leader_memory": leader_memory.measure,
    "learners": learners.measure,
    "scaling": scaling.measure,
    "robust_memory": robust_memory.measure,
    "sessions": sessions.measure,
    "simulation": simulation.measure,
    "soak": soak.measure,
    "step_time": step_time.measure,
    "transport": transport.measure,
}
#: Entries that train on CIFAR-10, and so are told its folder.
ON_CIFAR10: dict[str, Callable[[bool, Path], Result]] = {"codecs": codecs.measure}
NAMES = (*ENTRIES, *ON_CIFAR10)
RESULTS = Path(__file__).parents[1] / "docs" / "benchmarks"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repeats: some minutes in all")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the results; docs/benchmarks")
    parser.add_argument(
        "--data", type=Path, default=Path("data"), help="folder that CIFAR-10 is in or goes to; data"
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(NAMES)}; default: all")
    options = parser.parse_args(argv)
    if unknown := sorted(set(options.names) - set(NAMES)):
        parser.error(f"no entry {', '.join(unknown)}; there are {', '.join(NAMES)}")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the entries asked for; the exit code is 1 when a target is missed or a process failed."""
    options = parse(argv)
    console = Console()
    options.out.mkdir(parents=True, exist_ok=True)
    results = []
    try:
        for name in options.names or NAMES:
            machine = describe_machine()  # anew for each entry: how busy it is differs
            console.print(f"measuring {name} on {machine} ...", highlight=False)
            try:
                result = _measure(name, options)
            except SkippedError as reason:
                console.print(f"skipped {name}: {reason}", style="yellow", highlight=False)
                continue
            path = options.out / f"{name}.json"
            path.write_text(document(result, machine, options.quick), encoding="utf-8")
            if result.entry == "sessions":
                draw_sessions(result.series, options.out / "sessions.png")
            if result.entry == "simulation":
                simulation.draw_simulation(result.series, options.out / "simulation.png")
            if result.entry == "robust_memory":
                draw_robust_memory(result.series, options.out / "robust_memory.png")
            if result.entry == "step_time":
                draw_step_time(result.series, options.out / "step_time.png")
            if result.entry == "transport":
                draw_transport(result.series, options.out / "transport.png")
            if result.entry == "learners":
                draw_learners(result.series, options.out / "learners.png")
            if result.entry == "scaling" and result.series:  # a quick one has no laws
                scaling_page.draw_scaling(result.series, options.out / "scaling.png")
                (options.out / "scaling.md").write_text(scaling_page.page(result, machine), encoding="utf-8")
            if result.entry == "codecs":
                draw_codecs(result.series, options.out / "codecs.png")
                (options.out / "codecs.md").write_text(page(result, machine), encoding="utf-8")
            results.append(result)
    except ProgramFailedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (StoppedError, KeyboardInterrupt):
        return 130
    if results:
        console.print(table(results))
    return 0 if all(target.met for result in results for target in result.targets) else 1


def _measure(name: str, options: argparse.Namespace) -> Result:
    if measure := ON_CIFAR10.get(name):
        return measure(options.quick, options.data)
    return ENTRIES[name](options.quick)


if __name__ == "__main__":
    sys.exit(main())
