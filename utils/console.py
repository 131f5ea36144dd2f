"""The one way to terminals and logs, where text is made safe: whole lines, rich on a terminal, or JSON lines."""

from __future__ import annotations

import json
import logging
import math
import sys
import unicodedata
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.segment import Segment

Format = Literal["auto", "rich", "plain", "json", "ecs"]
JSON: tuple[Format, ...] = ("json", "ecs")  # those that programs read
Level = Literal["debug", "info", "warning", "error"]

_MOST = 2000  # characters of one text
_MARKS = 4  # accents on one letter; more are drawn over the lines around
#: Libraries whose debug messages are of no use here.
_CHATTY = ("asyncio", "grpc", "matplotlib", "PIL")


def setup_logging(
    log_format: Format, level: Level, stream: TextIO | None = None, program: str = "learner"
) -> Console | None:
    """Send all log messages from `level` up to `stream` (default: standard error).

    A message may carry `extra={"event": name, "fields": {...}}`; JSON shows them, the others only the text.
    With ecs, lines say that they are of `program`, leader or learner.

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
        handler.setFormatter(_formatter(log_format, program))
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    return console


def _formatter(log_format: Format, program: str) -> logging.Formatter:
    if log_format == "ecs":
        from utils.ecs import EcsFormatter  # imported here because it imports this

        return EcsFormatter(program)
    return JsonFormatter() if log_format == "json" else LineFormatter()


def printable(text: str) -> str:
    """`text` as one line that no terminal acts on: names and reasons come from peers and may hold anything.

    What controls, turns round or can't be seen is escaped, and of more than 2000 characters the middle is left
    out. Letters of all scripts stay.

    >>> print(printable("a\\x1b[2Jb"))
    a\\x1b[2Jb
    """
    if len(text) > _MOST:
        text = f"{text[: _MOST * 3 // 4]} ... {text[-_MOST // 4 :]}"
    if text.isascii() and text.isprintable():
        return text
    shown, marks = [], 0
    for letter in text:
        marks = marks + 1 if unicodedata.category(letter)[0] == "M" else 0
        fine = letter.isprintable() and marks <= _MARKS
        shown.append(letter if fine else letter.encode("unicode_escape").decode())
    return "".join(shown)


def each_line(text: str, indent: str = "") -> str:
    """All lines of `text`, each made safe by itself."""
    return "\n".join(indent + printable(line) for line in text.split("\n"))


def say(*lines: str, file: TextIO | None = None) -> None:
    """Print each of `lines` as one line, on standard output unless `file` says otherwise."""
    print(*map(printable, lines), sep="\n", file=file, flush=True)


def open_console(file: TextIO | None = None) -> Console:
    """A rich console, on standard output unless `file` says otherwise, where text is text: no markup, no escapes."""
    from rich.console import Console  # imported here because plain and JSON logs don't need it
    from rich.segment import Segment

    class SafeConsole(Console):
        def render(self, *args: Any, **kwargs: Any) -> Iterator[Segment]:
            for text, style, control in super().render(*args, **kwargs):
                yield Segment(text if control else each_line(text), style, control)

    return SafeConsole(file=file, markup=False, emoji=False, highlight=False)


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

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """Its lines, indented: none passes for a message."""
        return each_line(super().formatException(ei), "  ")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (unix seconds), level, event and its fields, or logger and message."""

    def format(self, record: logging.LogRecord) -> str:
        """One line without line breaks; NaN and infinity, which JSON has not, become null."""
        entry: dict[str, Any] = {"time": round(record.created, 3), "level": record.levelname.lower()}
        fields: dict[str, Any] | None = getattr(record, "fields", None)
        if fields is None:
            entry |= {"event": "log", "logger": record.name, "message": printable(record.getMessage())}
        else:
            entry["event"] = getattr(record, "event", "log")
            entry |= {k: json_value(v) for k, v in fields.items()}
        if record.exc_info:
            entry["exception"] = each_line(self.formatException(record.exc_info))
        return json.dumps(entry, allow_nan=False, default=str)


def json_value(value: object) -> object:
    """`value` with its texts made safe, and null in the place of what JSON has no number for."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {printable(str(key)): json_value(each) for key, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _rich_handler(stream: TextIO) -> tuple[Console, logging.Handler]:
    from rich.highlighter import NullHighlighter
    from rich.logging import RichHandler

    console = open_console(stream)
    handler = RichHandler(
        console=console,
        show_path=False,
        omit_repeated_times=False,
        log_time_format="%H:%M:%S",
        highlighter=NullHighlighter(),
    )
    handler.setFormatter(LineFormatter(heading=False))
    return console, handler
