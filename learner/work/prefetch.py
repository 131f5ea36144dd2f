"""Ahead: begins the next order of a streamed run while the last update travels."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass

from learner.training.algorithms.streaming_diloco import next_order, same_steps
from learner.training.update import CancelledError, Head, Update
from learner.work.workbench import Workbench
from model.task import Examples
from protos import leader_pb2


@dataclass(frozen=True)
class _Begun:
    """One order that has not come, and what is being made of it."""

    order: leader_pb2.WorkOrder
    future: Future[Head | None]
    unwanted: threading.Event

    def drop(self) -> None:
        """Let go of it, at the latest after its next step."""
        self.unwanted.set()
        self.future.cancel()

    def head(self) -> Head | None:
        """What came of it; whatever went wrong does so again when the order itself is made."""
        if self.future.cancelled() or self.future.exception() is not None:
            return None
        return self.future.result()


class Ahead:
    """At most one order a part is begun before it comes, on the training thread.

    The steps before its fragment is taken in need nothing from the leader. An order that is another one than
    was foreseen, or whose part remembers something else, makes them itself: no result depends on this.
    """

    def __init__(self, thread: Executor) -> None:
        self._thread = thread
        self._begun: dict[str, _Begun] = {}  # by part

    def begin(
        self, bench: Workbench, order: leader_pb2.WorkOrder, examples: Examples, part: str, update: Update
    ) -> None:
        """Begin what comes after `order`, which came to `update`, if it has steps to begin with."""
        following = next_order(order) if order.overlap_steps else None
        if following is None:
            return
        unwanted = threading.Event()

        def after_each_step(done: int, total: int, rate: float) -> None:
            if unwanted.is_set():
                raise CancelledError(f"round {following.round} begins otherwise")

        future = self._thread.submit(bench.begin, following, examples, update.memory, after_each_step)
        self._drop(part)
        self._begun[part] = _Begun(following, future, unwanted)

    def take(self, order: leader_pb2.WorkOrder, part: str) -> Callable[[], Head | None]:
        """What was begun of `order`: to be asked for on the training thread, which has come to it by then."""
        begun = self._begun.get(part)
        if begun is None or not same_steps(begun.order, order):
            self._drop(part)
            return lambda: None
        return self._begun.pop(part).head

    def committed(self, round_: int) -> None:
        """Let go of what was begun for rounds up to this one, which closed without it."""
        for part in [part for part, begun in self._begun.items() if begun.order.round <= round_]:
            self._drop(part)

    def clear(self) -> None:
        """Nothing that was begun is wanted."""
        for part in list(self._begun):
            self._drop(part)

    def _drop(self, part: str) -> None:
        if begun := self._begun.pop(part, None):
            begun.drop()
