"""The run's events in the log, and the choice between log and terminal display."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Protocol, TextIO

from leader.config import LogConfig
from leader.events import Event, RoundStarted, RunStarted
from leader.reporting.messages import describe, invitation_lines, learner_command, level_of
from leader.reporting.turnover import Turnover
from leader.trust.admission import Invitation
from utils.console import JSON, say, setup_logging
from utils.ecs import PLACE
from utils.files import write_atomically

_log = logging.getLogger(__name__)


def show_invitation(config: LogConfig, stream: TextIO, started: RunStarted, invitation: Invitation) -> None:
    """Tell how learners join: the token itself on a terminal alone, elsewhere the file that it is put into.

    Raises CheckpointError if it can't be written there.
    """
    if stream.isatty() and config.format not in JSON:
        say(*invitation_lines(started, invitation, invitation.token), file=stream)
        return
    path = invitation.folder / "join"
    write_atomically(path, [invitation.token.encode()], mode=0o600)
    for line in invitation_lines(started, invitation, f"@{path}"):
        _log.info("%s", line)


def show_page(config: LogConfig, stream: TextIO, url: str, file: Path) -> None:
    """Tell where the live page is; a URL with a token on a terminal alone, elsewhere the file that it is in."""
    address, _, token = url.partition("?")
    if token and stream.isatty() and config.format not in JSON:
        say(f"live page: {url}", file=stream)
    elif url:
        _log.info("live page: %s%s", address, f" with the token that is in {file}" if token else "")


class Display(Protocol):
    """Shows a run while it goes."""

    def on_event(self, event: Event) -> None:
        """Take in what happened; must not block."""

    def close(self) -> None:
        """Leave the terminal as it should be after the run."""


class EventLog:
    """Writes each event to the log: as words, and as name and fields for JSON."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self._join = ""
        self._turnover = Turnover()

    def on_event(self, event: Event) -> None:
        """Log `event` at its level."""
        if isinstance(event, RunStarted):
            self._join, PLACE.run = learner_command(event), event.run_id
        elif isinstance(event, RoundStarted):
            PLACE.round = event.round
        for told in self._turnover.told(event):
            self._write(told)

    def _write(self, event: Event) -> None:
        level = level_of(event)
        if _log.isEnabledFor(level):  # hundreds of debug events a second are dropped here
            told = ((field, getattr(event, field.name)) for field in dataclasses.fields(event))
            # What this run does not have is left out.
            fields = {f.name: value for f, value in told if value is not None or f.default is not None}
            text = describe(event, self._rounds, self._join)
            _log.log(level, "%s", text, extra={"event": type(event).__name__, "fields": fields})

    def close(self) -> None:
        """Nothing is held open."""


def open_display(config: LogConfig, rounds: int, stream: TextIO) -> Display:
    """Set up logging to `stream` and what shows a run of `rounds` rounds there.

    On a terminal (or with format rich) that is a live display, else one log line an event.
    """
    console = setup_logging(config.format, config.level, stream, "leader")
    if console is None:
        return EventLog(rounds)
    # Imported here because plain and JSON logs don't need rich.
    from leader.reporting.terminal import TerminalDisplay

    return TerminalDisplay(rounds, console)
