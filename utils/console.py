"""How log messages reach people and machines: rich on a terminal, plain lines, or JSON lines."""

from __future__ import annotations

import json
import logging
import math
import sys
from typing import TYPE_CHECKING, Any, Literal, TextIO

if TYPE_CHECKING:
    from rich.console import Console

Format = Literal["auto", "rich", "plain", "json"]
Level = Literal["debug", "info", "warning", "error"]

#: Libraries whose debug messages are of no use here.
_CHATTY = ("asyncio", "grpc", "matplotlib", "PIL")


def setup_logging(log_format: Format, level: Level, stream: TextIO | None = None) -> Console | None:
    """Send all log messages from `level` up to `stream` (default: standard error).

    A message may carry `extra={"event": name, "fields": {...}}`; JSON shows them, the others only the text.

    Returns:
        With rich, the console that anything else on this terminal must be drawn with, else None.
    """
    stream = stream or sys.stderr
    if log_format == "auto":
        log_format = "rich" if stream.isatty() else "plain"
    console: Console | None = None
    handler: logging.Handler = logging.StreamHandler(stream)
    if log_format == "rich":
        console, handler = _rich_handler(stream)
    else:
        handler.setFormatter(JsonFormatter() if log_format == "json" else LineFormatter())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    return console


def printable(text: str) -> str:
    """`text` with control characters escaped: names and reasons come from peers and may hold any.

    >>> print(printable("a\\x1b[2Jb"))
    a\\x1b[2Jb
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class LineFormatter(logging.Formatter):
    """`12:30:01 message`, from warnings up with the level before the message; tracebacks below."""

    def __init__(self, heading: bool = True) -> None:
        super().__init__(datefmt="%H:%M:%S")
        self._heading = heading

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the traceback if there is one."""
        text = printable(record.getMessage())
        if self._heading:
            level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
            text = f"{self.formatTime(record, self.datefmt)} {level}{text}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (unix seconds), level, event and its fields, or logger and message."""

    def format(self, record: logging.LogRecord) -> str:
        """One line without line breaks; NaN and infinity, which JSON has not, become null."""
        entry: dict[str, Any] = {"time": round(record.created, 3), "level": record.levelname.lower()}
        fields: dict[str, Any] | None = getattr(record, "fields", None)
        if fields is None:
            entry |= {"event": "log", "logger": record.name, "message": record.getMessage()}
        else:
            entry["event"] = getattr(record, "event", "log")
            entry |= {k: _json_value(v) for k, v in fields.items()}
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, allow_nan=False, default=str)


def _json_value(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _rich_handler(stream: TextIO) -> tuple[Console, logging.Handler]:
    from rich.console import Console  # imported here because plain and JSON logs don't need it
    from rich.highlighter import NullHighlighter
    from rich.logging import RichHandler

    console = Console(file=stream)
    handler = RichHandler(
        console=console,
        show_path=False,
        omit_repeated_times=False,
        log_time_format="%H:%M:%S",
        highlighter=NullHighlighter(),
    )
    handler.setFormatter(LineFormatter(heading=False))
    return console, handler
