"""What an entry found: figures, ratios and a target, as JSON and as rows of a table; and where that is kept."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.measured_code import measured_now
from benchmarks.spread import Spread

#: The results that are committed, and quoted by README and docs.
PUBLISHED = Path(__file__).parents[1] / "docs" / "benchmarks"


def add_folder_flags(parser: argparse.ArgumentParser, usual: str) -> None:
    """Add `--out`, by default None for the `usual` folder, and `--publish`, which sets it to the committed one."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--out", type=Path, metavar="DIR", help=f"folder for the results; {usual}")
    where.add_argument(
        "--publish",
        dest="out",
        action="store_const",
        const=PUBLISHED,
        help="write over the committed results in docs/benchmarks; not with --quick",
    )


def check_published_whole(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse, as a wrong flag, to publish what a quick look measured."""
    if options.quick and options.out == PUBLISHED:
        parser.error("--publish: a quick look is not published; leave out --quick, or give --out DIR")


class SkippedError(Exception):
    """An entry can't be measured here; the message says what is missing and how to provide it."""


@dataclass(frozen=True)
class Figure:
    """One measured quantity."""

    name: str
    unit: str
    spread: Spread


@dataclass(frozen=True)
class Target:
    """What the project promises: `value` stays at or below `limit`."""

    name: str
    unit: str
    value: float
    limit: float

    @property
    def met(self) -> bool:
        """Whether the promise holds."""
        return self.value <= self.limit


@dataclass(frozen=True)
class Result:
    """One entry's outcome."""

    entry: str
    about: str
    target: Target | None  # None where the project promises nothing
    figures: tuple[Figure, ...]
    ratios: Mapping[str, float]
    series: Mapping[str, Sequence[float]] = field(default_factory=dict)  # columns for a plot
    further: tuple[Target, ...] = ()  # promises beside `target`

    @property
    def targets(self) -> tuple[Target, ...]:
        """All promises."""
        return (*([self.target] if self.target else []), *self.further)


def document(result: Result, machine: Mapping[str, object], quick: bool) -> str:
    """The result file: one JSON object, numbers to four significant digits."""
    content = {
        "entry": result.entry,
        "about": result.about,
        "quick": quick,
        "target": _promise(result.target) if result.target else None,
        **({"further": [_promise(target) for target in result.further]} if result.further else {}),
        "figures": {figure.name: {"unit": figure.unit, **asdict(figure.spread)} for figure in result.figures},
        "ratios": dict(result.ratios),
        "series": {name: list(values) for name, values in result.series.items()},
        "measured": measured_now(),
        "machine": dict(machine),
    }
    return json.dumps(_rounded(content), indent=2) + "\n"


def _promise(target: Target) -> dict[str, object]:
    return {**asdict(target), "met": target.met}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return value


def table(results: Iterable[Result]) -> Table:
    """All results: a row for each figure and ratio, and one that says whether the target is met."""
    shown = Table("entry", "measured", "median", "quartiles", "n")
    for column in shown.columns[2:]:
        column.justify = "right"
    for result in results:
        for figure in result.figures:
            spread = figure.spread
            quartiles = f"{_number(spread.lower)} .. {_number(spread.upper)}"
            median = f"{_number(spread.median)} {figure.unit}"
            shown.add_row(result.entry, figure.name, median, quartiles, str(spread.count))
        for name, ratio in result.ratios.items():
            shown.add_row(result.entry, name, f"x {_number(ratio)}", "", "")
        for target in result.targets:
            verdict = "[green]met[/]" if target.met else "[red]missed[/]"
            limit = f"{_number(target.value)} of {_number(target.limit)} {target.unit}".rstrip()
            shown.add_row(result.entry, f"target: {target.name}", limit, verdict, "")
        shown.add_section()
    return shown


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 0) -> list[str]:
    """The lines of a table whose first columns are `words`, the others numbers."""
    rule = "|" + " --- |" * words + " ---: |" * (len(heads) - words)
    head, *lines = ("| " + " | ".join(row) + " |" for row in (heads, *rows))
    return [head, rule, *lines]


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
