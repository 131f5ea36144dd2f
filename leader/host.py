"""What the coordinator runs on: its clock and its arithmetic thread, or what a simulation puts in their place."""

from __future__ import annotations

from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field

from leader.clock import Clock, WallClock


def _one_thread() -> Executor:
    return ThreadPoolExecutor(1, "arithmetic")


@dataclass(frozen=True)
class Host:
    """A clock, and an executor that does one thing at a time, so that sums need no lock."""

    clock: Clock = field(default_factory=WallClock)
    arithmetic: Executor = field(default_factory=_one_thread)
