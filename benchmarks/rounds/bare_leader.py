"""`python -m benchmarks.rounds.bare_leader`: the small leader without its record, to show what it costs."""

from __future__ import annotations

import sys

from benchmarks.small_leader import run
from leader.services.record.writer import Record

if __name__ == "__main__":
    Record.on_event = lambda self, event: None  # type: ignore[method-assign]
    sys.exit(run())
