"""Runs a target: many inputs from one seed, counted by what became of them."""

from __future__ import annotations

import asyncio
import gc
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil

_WARM_UP = 10  # part of the inputs, as a fraction 1/n, after which memory must have stopped growing
_BATCH = 1000
_COLLECT_EVERY = 200  # inputs
_LONGEST_BATCH_S = 120.0
_LONGEST_INPUT_S = 20.0  # machines may be busy
#: Anything that is kept of every input is larger; an allocator's holes may add up to some bytes each.
_MOST_GROWTH_BYTES, _MOST_GROWTH_AN_INPUT = 8 << 20, 48


@dataclass
class Tally:
    """What became of the inputs of one target."""

    name: str
    seed: int
    inputs: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    slowest_s: float = 0.0  # one input
    growth_bytes: int = 0  # resident memory, after the warm-up

    @property
    def problem(self) -> str:
        """What is wrong with it; empty if nothing is."""
        if self.growth_bytes > max(_MOST_GROWTH_BYTES, _MOST_GROWTH_AN_INPUT * self.inputs):
            return f"memory grew by {self.growth_bytes / 1e6:.1f} MB over {self.inputs:,} inputs"
        if self.slowest_s > _LONGEST_INPUT_S:
            return f"one input took {self.slowest_s:.1f} s"
        return ""

    def __str__(self) -> str:
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in self.outcomes.most_common())
        return (
            f"{self.name}: {self.inputs:,} inputs in {self.seconds:.1f} s, slowest {1000 * self.slowest_s:.1f} ms, "
            f"grew {self.growth_bytes / 1e6:+.1f} MB; {kinds}"
        )


class Target:
    """Something to feed: `step` makes one input, feeds it and names the outcome; raises if that is wrong."""

    name = ""
    last: object = None  # the newest input, for the report of a failure


class PlainTarget(Target, ABC):
    """A target that doesn't wait."""

    @abstractmethod
    def step(self) -> str:
        """Feed one input."""


class AsyncTarget(Target, ABC):
    """A target that runs on an event loop."""

    @abstractmethod
    async def step(self) -> str:
        """Feed one input."""

    async def rest(self) -> None:
        """Do now and then what is no input's part, nor of its time: called after each."""


class _Meter:
    def __init__(self, tally: Tally, count: int) -> None:
        self._tally = tally
        self._warm = count // _WARM_UP
        self._rss = 0
        self._began = time.perf_counter()
        self.begin()

    def begin(self) -> None:
        """The next input is made and fed from now on."""
        self._last = time.perf_counter()

    def note(self, outcome: str) -> None:
        now = time.perf_counter()
        tally = self._tally
        tally.slowest_s = max(tally.slowest_s, now - self._last)
        tally.outcomes[outcome] += 1
        tally.inputs += 1
        if tally.inputs == self._warm:
            self._rss = _resident_bytes()
        elif tally.inputs % _COLLECT_EVERY == 0:
            gc.collect(1)
        self.begin()

    def finish(self) -> Tally:
        self._tally.seconds = time.perf_counter() - self._began
        self._tally.growth_bytes = _resident_bytes() - self._rss
        return self._tally


def _resident_bytes() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


@contextmanager
def _collected_between_inputs() -> Iterator[None]:
    """No garbage collection inside an input: one that nests deep leaves finalizers no stack to run on."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def run(target: PlainTarget, count: int, seed: int) -> Tally:
    """Feed `count` inputs to a target that doesn't wait."""
    tally = Tally(target.name, seed)
    meter = _Meter(tally, count)
    try:
        with _collected_between_inputs():
            for _ in range(count):
                meter.note(target.step())
    except BaseException as error:
        error.add_note(_note(target, tally))
        raise
    return meter.finish()


async def run_async(target: AsyncTarget, count: int, seed: int) -> Tally:
    """Feed `count` inputs on this event loop; raises TimeoutError where the inputs of a batch hang."""
    tally = Tally(target.name, seed)
    meter = _Meter(tally, count)
    try:
        while tally.inputs < count:
            async with asyncio.timeout(_LONGEST_BATCH_S):
                with _collected_between_inputs():
                    for _ in range(min(_BATCH, count - tally.inputs)):
                        meter.note(await target.step())
                        await target.rest()
                        meter.begin()
                        await asyncio.sleep(0)  # what a broken call left behind is cleared away by the loop
    except BaseException as error:
        error.add_note(_note(target, tally))
        raise
    return meter.finish()


def _note(target: Target, tally: Tally) -> str:
    return f"{target.name}: input {tally.inputs} of seed {tally.seed}: {str(target.last)[:2000]}"
