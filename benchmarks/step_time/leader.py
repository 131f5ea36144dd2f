"""`python -m benchmarks.step_time.leader`: the leader as it is, but each round waits at the gate before it begins."""

from __future__ import annotations

import logging
import sys
import time

from benchmarks.step_time.gate import Ticket, steps_of
from leader.__main__ import main


class GatedRounds(logging.Handler):
    """One block is one round, from its start to its commit, by the events that the leader logs."""

    def __init__(self, ticket: Ticket) -> None:
        super().__init__()
        self._ticket = ticket
        self._moments: list[float] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Hold the event loop at the start of a round, and take the clock at each step."""
        event = getattr(record, "event", "")
        if event == "RoundStarted":
            self._ticket.wait()
            self._moments = [time.monotonic()]
        elif event == "StepApplied":
            self._moments.append(time.monotonic())
        elif event == "RoundCommitted":
            border_s = time.monotonic() - self._moments[-1]
            self._ticket.report({"steps": steps_of(self._moments), "border_s": border_s})


def run() -> int:
    """Lead a run; returns the leader's exit code."""
    logging.getLogger("leader.reporting.log").addHandler(GatedRounds(Ticket()))
    return main()


if __name__ == "__main__":
    sys.exit(run())
