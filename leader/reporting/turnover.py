"""Learners that come and go: the first ones are told one by one, and many in one sum."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from leader.events import Event, LearnerJoined, LearnerLeft, LearnersCounted, RunFinished

_TOLD_EVERY_S = 5.0
_TOLD_AT_ONCE = 20


class Turnover:
    """Puts sums in the place of events that people need not read one by one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = 0.0
        self._seen = 0  # since then
        self._joined, self._left = 0, 0  # of those not told

    def told(self, event: Event) -> Iterator[Event]:
        """What to tell now that `event` has happened."""
        now = self._clock()
        if isinstance(event, RunFinished) or now - self._began >= _TOLD_EVERY_S:
            if self._joined or self._left:
                yield LearnersCounted(self._joined, self._left, now - self._began)
            self._seen = self._joined = self._left = 0
        if isinstance(event, LearnerJoined | LearnerLeft):
            self._began = self._began if self._seen else now
            self._seen += 1
            if self._seen > _TOLD_AT_ONCE:
                self._joined += isinstance(event, LearnerJoined)
                self._left += isinstance(event, LearnerLeft)
                return
        yield event
