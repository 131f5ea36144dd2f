"""Log lines as the Elastic Common Schema has them: JSON objects that Elasticsearch takes as they are."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from utils.console import each_line, json_value, printable

VERSION = "9.4.0"  # of the schema


@dataclass
class Place:
    """What this process works for now, which all its lines say."""

    run: str = ""
    round: int = 0
    learner: str = ""


PLACE = Place()
#: Fields of events whose place is not `flockstep.NAME`.
_PLACES = {
    "reason": "event.reason",
    "kind": "error.type",
    "run_id": "flockstep.run.id",
    "name": "flockstep.learner.name",
    "learner_id": "flockstep.learner.id",
}


def trace_id(run: str, round_: int) -> str:
    """What the lines of one round have in common, at the leader and at all learners: 32 hexadecimal digits."""
    return hashlib.sha256(f"{run}:{round_}".encode()).hexdigest()[:32]


class EcsFormatter(logging.Formatter):
    """One JSON object a line with dotted keys; what the schema has no field for is under `flockstep.`"""

    def __init__(self, program: str) -> None:
        super().__init__()
        self._service = f"flockstep-{program}"

    def format(self, record: logging.LogRecord) -> str:
        """One line without line breaks."""
        return json.dumps(dict(self._entry(record)), allow_nan=False, default=str)

    def _entry(self, record: logging.LogRecord) -> Iterator[tuple[str, Any]]:
        created = datetime.fromtimestamp(record.created, UTC)
        yield "@timestamp", created.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        yield "log.level", record.levelname.lower()
        yield "message", printable(record.getMessage())
        yield "ecs.version", VERSION
        yield "log.logger", record.name
        yield "service.name", self._service
        yield "event.dataset", f"{self._service}.log"
        yield "process.pid", record.process
        fields = dict(getattr(record, "fields", None) or {})
        yield from _place(fields.pop("round", PLACE.round))
        if event := getattr(record, "event", None):
            yield "event.kind", "event"
            yield "event.action", event
            yield from _event(record.levelno, fields)
        if record.exc_info and record.exc_info[0]:
            yield "error.type", record.exc_info[0].__name__
            yield "error.message", printable(str(record.exc_info[1]))
            yield "error.stack_trace", each_line(self.formatException(record.exc_info))


def _place(round_: int) -> Iterator[tuple[str, Any]]:
    if PLACE.run:
        yield "flockstep.run.id", printable(PLACE.run)
    if PLACE.learner:
        yield "flockstep.learner.name", printable(PLACE.learner)  # as a leader said it
    if round_:
        yield "flockstep.round", round_
    if PLACE.run and round_:
        yield "trace.id", trace_id(PLACE.run, round_)


def _event(level: int, fields: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    seconds = fields.pop("seconds", None)
    if seconds is not None and math.isfinite(seconds):
        yield "event.duration", round(seconds * 1e9)  # ns
    if level >= logging.WARNING and "reason" in fields:
        yield "event.outcome", "failure"
    for name, value in fields.items():
        yield _PLACES.get(name, f"flockstep.{name}"), _value(value)


def _value(value: object) -> object:
    """`value` in types that its field always has; names that others chose become values, not fields of their own."""
    value = json_value(value)
    if isinstance(value, dict) and any(isinstance(each, str | dict) for each in value.values()):
        return [
            {"name": name, **(each if isinstance(each, dict) else {"value": each})}
            for name, each in value.items()
        ]
    return value
