"""Refused calls: every one is counted by kind, and told without flooding the log."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from leader.events import CallRefused, EventStream

_TOLD_EVERY_S = 5.0
_TOLD_AT_ONCE = 5


@dataclass
class _Window:
    began: float
    told: int = 0
    suppressed: int = 0


class Refusals:
    """Counts refusals and publishes a few of each method and kind in every five seconds."""

    def __init__(self, events: EventStream, clock: Callable[[], float] = time.monotonic) -> None:
        self.counts: Counter[str] = Counter()  # by kind of error
        self._events = events
        self._clock = clock
        self._windows: dict[tuple[str, str], _Window] = {}

    def note(self, method: str, error: Exception, learner_id: int | None) -> None:
        """A call to `method` was refused with `error`."""
        kind = type(error).__name__
        self.counts[kind] += 1
        now = self._clock()
        window = self._windows.setdefault((method, kind), _Window(now))
        if now - window.began >= _TOLD_EVERY_S:
            window.began, window.told = now, 0
        if window.told >= _TOLD_AT_ONCE:
            window.suppressed += 1
            return
        window.told += 1
        suppressed, window.suppressed = window.suppressed, 0
        self._events.publish(CallRefused(learner_id, str(error), method, kind, suppressed))
