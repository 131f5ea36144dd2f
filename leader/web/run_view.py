"""What the page shows of one run, folded from its events: ready for JSON, whole or what changed since a tick."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from typing import Any

from leader import events
from leader.metric_names import TEST_PREFIX, at_learners, on_test_split
from leader.reporting.messages import describe, learner_command, level_of
from leader.reporting.progress import LearnerView, RunProgress
from leader.reporting.turnover import Turnover
from leader.storage.metrics_log import Record, record_of

_POINTS = 1000  # of each curve
_ROUNDS = 24  # whose learners' times are shown
_MESSAGES = 50
_ROWS = 100  # learners that have a row of their own
_QUIET_S = 30.0  # without a sign of progress, after which a round counts as stalled
#: What the page shows elsewhere than among its messages.
_UNTOLD = (
    events.RunStarted,
    events.WaitingForLearners,
    events.RoundCommitted,
    events.Evaluated,
    events.FederatedEvaluated,
)
_BESIDE = (events.WaitingForLearners, events.CallRefused, events.LearnerJoined, events.LearnerLeft)


class Changes:
    """Items by key; those that changed after a tick can be asked for."""

    def __init__(self, most: int, thin: bool = False) -> None:
        self._most = most
        self._thin = thin  # let the older ones get sparse, where else the oldest goes
        self._stride = 1
        self._items: dict[int, tuple[int, Any]] = {}  # tick of the last change, and the item; by that tick

    def put(self, key: int, item: Any, tick: int) -> None:
        """Add or replace an item."""
        self._items.pop(key, None)
        self._items[key] = tick, item
        if len(self._items) > self._most:
            for old in self._superfluous() if self._thin else list(self._items)[:1]:
                del self._items[old]

    def _superfluous(self) -> list[int]:
        """Of all but the newest quarter, what leaves no more than a half: multiples of a growing stride."""
        older = list(self._items)[: -self._most // 4]
        while sum(key % self._stride == 0 for key in older) > self._most // 2:
            self._stride *= 2
        return [key for key in older if key % self._stride]

    def get(self, key: int) -> Any:
        """The item of this key, or None."""
        return self._items.get(key, (0, None))[1]

    def since(self, tick: int) -> list[Any]:
        """The items that changed after `tick`, oldest change first."""
        changed = takewhile(lambda entry: entry[0] > tick, reversed(self._items.values()))
        return [item for _, item in changed][::-1]


class RunView:
    """One run as a page shows it; `records` gives the rounds before a resume, `services` the state of each."""

    def __init__(
        self,
        rounds: int,
        records: Callable[[int], Sequence[Record]] = lambda resumed_round: (),
        services: Callable[[], object] = list,
    ) -> None:
        self._records = records
        self._services = services
        self._now = 0.0
        self._progress = RunProgress(rounds, lambda: self._now, history=1)
        self._turnover = Turnover(lambda: self._now)
        self._points = Changes(_POINTS, thin=True)
        self._waits = Changes(_ROUNDS)
        self._messages = Changes(_MESSAGES)
        self._told = self._refused = 0
        self._heard = 0.0  # when something went on last
        self._began = 0.0  # the open exchange
        self._arrived: dict[str, float] = {}  # seconds after that, by learner
        self._took: dict[str, float] = {}  # the same, summed over the round
        self._waited: dict[str, float] = {}  # seconds of the round in which this learner alone was missing

    def on_event(self, event: events.Event, at: float, tick: int) -> None:
        """Take in what happened at time.monotonic() = `at`."""
        self._now = at
        self._heard = self._heard if isinstance(event, _BESIDE) else at
        self._progress.apply(event)
        match event:
            case events.RunStarted():
                self.recall(self._records(event.resumed_round), tick)
            case events.RoundStarted():
                self._began, self._arrived, self._took, self._waited = at, {}, {}, {}
            case events.UpdateAccepted():
                if view := self._progress.learners.get(event.learner_id):
                    self._arrived[view.name] = at - self._began
            case events.StepApplied():
                self._close_exchange(at)
            case events.RoundCommitted():
                self._know(event.round, record_of(event, time.time()), tick)
                self._waits.put(event.round, self._round(event), tick)
            case events.Evaluated():
                self._know(event.round, on_test_split(event.metrics), tick)
            case events.FederatedEvaluated():
                self._know(event.round, _means(event.scores), tick)
            case events.CallRefused():
                self._refused += 1 + event.suppressed
        self._tell(event, tick)

    def recall(self, records: Sequence[Record], tick: int = 0) -> None:
        """Take in rounds of which no event told."""
        for record in records:
            point = {key: value for key, value in record.items() if key != "federated"}
            self._points.put(record["round"], point | _means(record.get("federated", {})), tick)
            tested = {
                key.removeprefix(TEST_PREFIX): value
                for key, value in record.items()
                if key.startswith(TEST_PREFIX) and value is not None
            }
            self._progress.apply(events.Evaluated(record["round"], tested, 0.0))

    def since(self, tick: int, now: float) -> dict[str, Any]:
        """The run as it is at `now`; of rounds and messages those after `tick`."""
        self._now = now
        progress = self._progress
        started, commit = progress.started, progress.history[-1].commit if progress.history else None
        rows = sorted(progress.learners.values(), key=self._slowness)[:_ROWS]
        return {
            "run": _facts(started) if started else {},
            "state": self._state(),
            "words": describe(progress.finished, progress.rounds) if progress.finished else "",
            "quiet_s": now - self._heard,
            "waiting": vars(progress.waiting) if progress.waiting else None,
            "rounds": progress.rounds,
            "round": progress.round,
            "committed": progress.committed,
            "fraction": progress.fraction,
            "inside": progress.round_fraction,
            "left_s": progress.seconds_left,
            "newest": vars(progress.newest) if progress.newest else None,
            "best": vars(progress.best) if progress.best else None,
            "budget": commit.budget if commit else None,
            "rows": [vars(view) for view in sorted(rows, key=lambda view: view.learner_id)],
            "learners": sum(view.state != "left" for view in progress.learners.values()),
            "refused": self._refused,
            "services": self._services(),
            "points": self._points.since(tick),
            "waits": self._waits.since(tick),
            "messages": self._messages.since(tick),
        }

    def _state(self) -> str:
        progress = self._progress
        if progress.finished:
            return "stopped" if progress.finished.reason else "finished"
        if progress.waiting or not progress.started:
            return "waiting"
        return "stalled" if self._now - self._heard > _QUIET_S else "training"

    def _slowness(self, view: LearnerView) -> tuple[bool, float, int]:
        """What comes first in a table that has no room for all: those here, the slowest of them first."""
        return view.state == "left", -self._took.get(view.name, math.inf), view.learner_id

    def _close_exchange(self, at: float) -> None:
        for name, seconds in self._arrived.items():
            self._took[name] = self._took.get(name, 0.0) + seconds
        if len(self._arrived) > 1:
            *_, second, last = sorted(self._arrived, key=self._arrived.__getitem__)
            alone = self._arrived[last] - self._arrived[second]
            self._waited[last] = self._waited.get(last, 0.0) + alone
        self._began, self._arrived = at, {}

    def _round(self, event: events.RoundCommitted) -> dict[str, Any]:
        """How long the round's slowest learners took, and whom it waited for alone."""
        slowest = sorted(self._took.items(), key=lambda item: -item[1])[:_ROWS]
        name, seconds = max(self._waited.items(), key=lambda item: item[1], default=("", 0.0))
        took = {learner: round(spent, 3) for learner, spent in slowest}
        return {"round": event.round, "seconds": event.seconds, "took": took, "last": name, "alone": seconds}

    def _know(self, round_: int, values: Mapping[str, object], tick: int) -> None:
        self._points.put(round_, {"round": round_, **(self._points.get(round_) or {}), **values}, tick)

    def _tell(self, event: events.Event, tick: int) -> None:
        for told in self._turnover.told(event):
            level = level_of(told)
            if level >= logging.INFO and not isinstance(told, _UNTOLD):
                self._told += 1
                text, clock = describe(told, self._progress.rounds), time.strftime("%H:%M:%S")
                message = {"id": self._told, "clock": clock, "text": text, "warning": level > logging.INFO}
                self._messages.put(self._told, message, tick)


def _means(scores: events.Spreads) -> dict[str, float]:
    return {at_learners(name): spread["mean"] for name, spread in scores.items()}


def _facts(started: events.RunStarted) -> dict[str, object]:
    return {
        "id": started.run_id,
        "folder": str(started.run_dir),
        "model": started.model,
        "parameters": started.parameters,
        "dataset": started.dataset,
        "exchange": started.exchange,
        "address": started.address,
        "join": learner_command(started) if started.address else "",
    }
