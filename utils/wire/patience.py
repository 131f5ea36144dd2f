"""How long to go on trying to reach a leader."""

from __future__ import annotations

import logging
import random
import time

from utils.errors import UnreachableError

_log = logging.getLogger(__name__)
_FIRST_WAIT_S = 0.2
_LONGEST_WAIT_S = 5.0


class Patience:
    """How long to go on trying to reach the leader: back-off with jitter, up to a limit."""

    def __init__(self, limit_s: float, who: str = "learner", *, lost: bool = False) -> None:
        """`lost`: it was reached before, so its run may have ended since."""
        self._who = who
        self._advice = "; unless the run is over, start its leader again with --resume" if lost else ""
        self._limit_s = limit_s
        self._since = time.monotonic()
        self._wait_s = _FIRST_WAIT_S
        # Those that lost one leader must not all come back at the same moment.
        self._jitter = random.SystemRandom()

    def next_wait(self, leader: str, problem: str, least_s: float = 0.0) -> float:
        """Seconds until the next try, at least those; raises UnreachableError when the limit is reached."""
        left_s = self._since + self._limit_s - time.monotonic()
        if left_s <= 0:
            raise UnreachableError(
                f"leader {leader} did not take this {self._who} for {self._limit_s:g} s: {problem}{self._advice}"
            )
        first = self._wait_s == _FIRST_WAIT_S
        text = "leader %s: %s; trying again for up to %.0f s"
        _log.log(logging.WARNING if first else logging.DEBUG, text, leader, problem, left_s)
        wait_s = min(left_s, max(least_s, self._wait_s * self._jitter.uniform(0.5, 1.0)))
        self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S)
        return wait_s
