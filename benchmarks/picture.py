"""`python -m benchmarks.picture --data DIR`: a real demonstration, and its display drawn to docs/images/demo.svg."""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from benchmarks.result import PUBLISHED
from leader import app, cli
from leader.config import LogConfig
from leader.events import Event
from leader.reporting.terminal import TerminalDisplay
from scripts import demo
from scripts.children import run_together

PICTURE = PUBLISHED.parent / "images" / "demo.svg"
LEADER = "leader"  # the first argument of the process that leads
COLUMNS = 92


class DrawnDisplay(TerminalDisplay):
    """The leader's display, drawn once to `path`: in the middle of the last round but one."""

    def __init__(self, rounds: int, path: Path) -> None:
        super().__init__(rounds, Console(file=io.StringIO(), width=COLUMNS, height=40))
        self._path = path

    def on_event(self, event: Event) -> None:
        """Take in `event`, and draw when it is time."""
        super().on_event(event)
        now = self._progress
        if now.round == now.rounds - 1 and now.round_fraction >= 0.5 and not self._path.exists():
            draw(self, self._path)


def draw(display: TerminalDisplay, path: Path) -> None:
    """Write what `display` shows now to `path`, as SVG."""
    console = Console(
        file=io.StringIO(), record=True, width=COLUMNS, force_terminal=True, color_system="truecolor"
    )
    console.print(display.render())
    svg = console.export_svg(title="make demo", unique_id="demo")
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)  # fonts of another host; monospace will do
    path.write_text(
        "\n".join(line.rstrip() for line in svg.splitlines() if line.strip()) + "\n", encoding="utf-8"
    )


def lead(path: Path, argv: list[str]) -> int:
    """Lead as `python -m leader` does, with a display that is drawn to `path`."""

    def open_display(config: LogConfig, rounds: int, stream: object) -> DrawnDisplay:
        return DrawnDisplay(rounds, path)

    app.open_display = open_display  # type: ignore[attr-defined]
    return app.run(cli.parse(argv, os.environ))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration on CIFAR-10 and draw it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.picture", description=__doc__)
    parser.add_argument("--data", required=True, help="folder that CIFAR-10 is in")
    parser.add_argument("--out", type=Path, default=PICTURE, help="file to draw to; docs/images/demo.svg")
    options = parser.parse_args(argv)
    options.out.unlink(missing_ok=True)
    recipe = demo.parse(["--data", options.data])
    run_dir = Path("runs/demo-picture")
    run_dir.mkdir(parents=True, exist_ok=True)
    address = f"127.0.0.1:{demo.free_port()}"
    leader = demo.leader(recipe, address, demo.choose_source(recipe.data), run_dir)
    here = (sys.executable, "-m", "benchmarks.picture", LEADER, str(options.out))
    learners = [demo.learner(recipe, address, run_dir, number) for number in (1, 2)]
    run_together(replace(leader, command=(*here, *leader.command[3:])), learners)
    print(f"{demo.result(run_dir, 'HOST', 'python')}\npicture: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(lead(Path(sys.argv[2]), sys.argv[3:]) if sys.argv[1:2] == [LEADER] else main())
