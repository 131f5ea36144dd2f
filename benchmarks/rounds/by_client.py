"""`python -m benchmarks.rounds.by_client`: an aggregator of a log whose partitions go by update."""

from __future__ import annotations

import sys

from leader.aggregator.__main__ import main
from leader.update_log import grid


def go_by_client() -> None:
    """Cut no model into slices, in this process from here on."""
    grid.SMALL = 1 << 62


if __name__ == "__main__":
    go_by_client()
    sys.exit(main())
