"""The live display of a run on a terminal."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from threading import Lock

from rich import box
from rich.console import Console, ConsoleRenderable, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from leader.events import Event, RunStarted, Spread, WaitingForLearners
from leader.metric_names import show
from leader.reporting.messages import describe, describe_spread, learner_command, level_of, number_of, size
from leader.reporting.progress import LearnerView, RoundView, RunProgress, Score
from leader.reporting.turnover import Turnover

_REFRESHES_PER_S = 4
_MESSAGES = 5
_FRAME_LINES = 15  # lines of the display that are neither learners nor messages
_STATE_STYLES = {"training": "green", "sent": "cyan", "refused": "red", "left": "dim"}


class TerminalDisplay:
    """Event subscriber that redraws the bottom of a terminal a few times a second.

    Events only change a few values; drawing is up to a thread of rich, so that hundreds of
    events a second cost nothing. Log messages on the same `console` appear above the display.
    """

    def __init__(self, rounds: int, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._progress = RunProgress(rounds, clock)
        self._turnover = Turnover(clock)
        self._messages: deque[tuple[str, str, bool]] = deque(maxlen=_MESSAGES)  # time, text, is a warning
        self._lock = Lock()  # between the event loop and the drawing thread
        self._live = Live(
            get_renderable=self.render, console=console, refresh_per_second=_REFRESHES_PER_S, transient=True
        )

    def on_event(self, event: Event) -> None:
        """Take in `event`; the first RunStarted shows the display."""
        with self._lock:
            self._progress.apply(event)
            for told in self._turnover.told(event):
                level = level_of(told)
                if level >= logging.INFO and not isinstance(told, (RunStarted, WaitingForLearners)):
                    text = describe(told, self._progress.rounds)
                    self._messages.append((time.strftime("%H:%M:%S"), text, level >= logging.WARNING))
        if isinstance(event, RunStarted):
            self._live.start(refresh=True)

    def close(self) -> None:
        """Take the display away and leave a table of the last rounds."""
        self._live.stop()
        if self._progress.started is not None:
            self._console.print(render_end(self._progress))

    def render(self) -> ConsoleRenderable:
        """The display as it is now."""
        with self._lock:
            started = self._progress.started
            if started is None:
                return Text("")
            room = max(3, self._console.height - _FRAME_LINES - _MESSAGES)
            parts: list[ConsoleRenderable] = [_header(started)]
            if self._progress.round > 0:
                parts += [_bars(self._progress), _numbers(self._progress)]
            if self._progress.federated is not None:
                parts.append(_at_learners(self._progress.federated))
            if self._progress.waiting is not None:
                parts.append(_invitation(self._progress, started))
            if self._progress.learners:
                parts.append(_learners(list(self._progress.learners.values()), room, self._console.width))
            parts.extend(_message(*message) for message in self._messages)
            return Group(*parts)


def render_end(progress: RunProgress) -> ConsoleRenderable:
    """What stays on the terminal: how the run ended, and its last rounds."""
    ending = progress.finished
    words = describe(ending, progress.rounds) if ending else f"run ended after round {progress.committed}"
    parts: list[ConsoleRenderable] = [Text(words[0].upper() + words[1:], style="bold")]
    if progress.newest is not None and progress.best is not None:
        best = f"best {_value(progress.best)} after round {progress.best.round}"
        parts.append(Text(f"Test {progress.newest.metric} {_value(progress.newest)} ({best})"))
    if progress.federated is not None:
        parts.append(Text(f"At the learners {describe_spread(progress.federated)}"))
    if progress.started is not None:
        parts.append(Text(f"Results in {progress.started.run_dir}"))
    if progress.history:
        parts.append(_history(progress))
    return Group(*parts)


def _history(progress: RunProgress) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    metric = progress.newest.metric if progress.newest else "accuracy"
    at_learners = progress.federated is not None
    private = progress.history[-1].commit.epsilon is not None
    headings = [
        "round",
        "eps" if private else "loss",
        f"test {metric}",
        "seconds",
        "up",
        "down",
        "learners",
    ]
    for heading in headings[:3] + ["at learners", "worst 10%"] * at_learners + headings[3:]:
        table.add_column(heading, justify="right")
    for row in progress.history:
        commit, is_best = row.commit, progress.best is not None and progress.best.round == row.commit.round
        table.add_row(
            str(commit.round),
            f"{commit.loss if commit.epsilon is None else commit.epsilon:.4f}",
            Text(_value(row.test), style="bold green" if is_best else ""),
            *(_federated(progress, row) if at_learners else ()),
            f"{commit.seconds:.1f}",
            size(commit.bytes_up),
            size(commit.bytes_down),
            str(commit.learners),
        )
    return table


def _federated(progress: RunProgress, row: RoundView) -> tuple[str, str]:
    if row.federated is None or progress.federated is None:
        return "-", "-"
    metric, spread = progress.federated[0], row.federated
    worst = show(metric, spread["worst_decile"]) if "worst_decile" in spread else "-"
    return show(metric, spread["mean"]), worst


def _header(started: RunStarted) -> Panel:
    facts = Table.grid(padding=(0, 1), expand=True)
    for ratio, style in ((None, "dim"), (1, "none"), (None, "dim"), (None, "none")):
        facts.add_column(ratio=ratio, style=style, no_wrap=True, overflow="ellipsis")
    model = f"{started.model}, {number_of(started.parameters, 'parameter')}"
    facts.add_row("model", Text(model), "exchange", Text(started.exchange))
    facts.add_row("data", Text(started.dataset), "address", Text(started.address))
    title = Text.assemble(("Flockstep leader ", "bold"), (started.run_id, "dim"))
    return Panel(facts, title=title, title_align="left", border_style="blue", box=box.ROUNDED)


def _bars(progress: RunProgress) -> Table:
    bars = Table.grid(padding=(0, 1), expand=True)
    bars.add_column(min_width=13, no_wrap=True)
    bars.add_column(ratio=1)
    bars.add_column(justify="right", min_width=5)
    bars.add_column(min_width=14, no_wrap=True)
    left = progress.seconds_left
    words = "" if left is None or progress.finished else f"{timedelta(seconds=round(left))} left"
    current = min(progress.rounds, max(progress.round, progress.committed, 1))
    bars.add_row(
        f" round {current}/{progress.rounds}", _bar(progress.fraction), f"{progress.fraction:.0%}", words
    )
    inside = progress.round_fraction
    step = min(progress.step + 1, progress.steps)
    label = f" step {step}/{progress.steps}" if progress.steps > 1 else " in the round"
    bars.add_row(Text(label, style="dim"), _bar(inside), f"{inside:.0%}", "")
    return bars


def _bar(fraction: float) -> ProgressBar:
    return ProgressBar(total=1.0, completed=fraction, complete_style="blue", finished_style="green")


def _numbers(progress: RunProgress) -> Text:
    up, down = ("-", "-") if progress.rate is None else (f"{size(rate)}/s" for rate in progress.rate)
    newest, best = progress.newest, progress.best
    metric = newest.metric if newest else "accuracy"
    best_words = f" (best {_value(best)})" if best and best is not newest else ""
    parts = (
        _learnt(progress),
        (f"   test {metric} ", _value(newest), best_words),
        ("   up ", up, ""),
        ("   down ", down, ""),
    )
    line = Text(no_wrap=True, overflow="ellipsis")
    for label, value, remark in parts:
        line.append(label, "dim").append(value, "bold").append(remark)
    return line


def _learnt(progress: RunProgress) -> tuple[str, str, str]:
    """The loss; of a private run, which tells none, what it has spent."""
    commit = progress.history[-1].commit if progress.history else None
    if commit is None or commit.epsilon is None:
        return " loss ", _number(progress.loss, ".4f"), ""
    return " eps ", f"{commit.epsilon:.2g}", f" of {commit.budget:g}"


def _at_learners(scored: tuple[str, Spread]) -> Text:
    line = Text(" at the learners ", "dim", no_wrap=True, overflow="ellipsis")
    return line.append(describe_spread(scored), "not dim")


def _invitation(progress: RunProgress, started: RunStarted) -> Group:
    waiting = progress.waiting
    assert waiting is not None
    words = f"\n Waiting for learners: {waiting.have} of {waiting.need} here. On each learner's machine run:"
    command = Text(f"   {learner_command(started)}", style="bold", overflow="fold")
    return Group(Text(words, style="yellow"), command)


def _learners(views: list[LearnerView], room: int, width: int) -> Table:
    """A row a learner, those that left at the end; where they are more than `room`, a last line counts the rest."""
    table = Table(box=box.SIMPLE_HEAD, expand=True, header_style="dim", border_style="dim")
    table.add_column("id", justify="right")
    table.add_column("learner", no_wrap=True, overflow="ellipsis", ratio=2)
    table.add_column("device", no_wrap=True, overflow="ellipsis", ratio=3)
    table.add_column("state", min_width=8)
    for heading in ("images/s", "loss", "steps"):
        table.add_column(heading, justify="right", no_wrap=True)
    if width >= 100:
        table.add_column("", ratio=2)
    views = sorted(views, key=lambda view: (view.state == "left", view.learner_id))
    shown = views if len(views) <= room else views[: room - 1]
    for view in shown:
        cells: list[str | Text | ProgressBar] = [
            str(view.learner_id),
            Text(view.name),
            Text(view.device),
            Text(view.state, style=_STATE_STYLES.get(view.state, "")),
            _number(view.images_per_s, ",.0f"),
            _number(view.loss, ".4f"),
            f"{view.done}/{view.total}" if view.total else "-",
            _bar(view.done / view.total if view.total else 0.0),
        ]
        table.add_row(*cells[: len(table.columns)], style="dim" if view.state == "left" else None)
    if len(shown) < len(views):
        at_work = sum(view.state in ("training", "sent") for view in views)
        table.add_row("", Text(f"and {len(views) - len(shown):,} more"), Text(f"{at_work:,} of all at work"))
    return table


def _message(clock: str, text: str, warning: bool) -> Text:
    line = Text(no_wrap=True, overflow="ellipsis")
    return line.append(f" {clock} ", "dim").append(text, "yellow" if warning else None)


def _number(value: float | None, spec: str) -> str:
    return "-" if value is None else format(value, spec)


def _value(score: Score | None) -> str:
    return "-" if score is None else show(score.metric, score.value)
