"""`python -m benchmarks.small_leader`: the leader as it is, with the small model and a probe."""

from __future__ import annotations

import logging
import os
import sys

from benchmarks import small_model
from benchmarks.probe import WHOLE, EventProbe, Probe, Reading
from leader.__main__ import main


def run() -> int:
    """Lead a run and leave the readings; returns the leader's exit code."""
    small_model.register()
    probe = Probe(Reading.whole if os.environ.get(WHOLE) else Reading.now)
    logging.getLogger("leader.reporting.log").addHandler(EventProbe(probe))
    try:
        return main()
    finally:
        probe.write()


if __name__ == "__main__":
    sys.exit(run())
