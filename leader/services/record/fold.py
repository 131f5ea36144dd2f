"""What a round's events come to: who did what in it, and who came and went meanwhile."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from leader.events import CallRefused, Evaluated, FederatedEvaluated, LearnerJoined, UpdateAccepted
from leader.metric_names import at_learners, on_test_split
from leader.services.record.file import Value

_MOST_MISSING = 10_000  # learners without an update whose reasons are kept; names may come and go without end
_MOST_REFUSALS = 1000  # kinds of them that are told apart between two rounds
_SPREADS = ("std", "worst_decile", "min", "max")  # of a metric over the learners, beside its mean


@dataclass
class Share:
    """What one learner did in a round so far."""

    updates: int = 0
    examples: int = 0
    bytes: int = 0
    wait_s: float = 0.0
    loss: float = 0.0  # sum over the examples
    train_s: float = 0.0
    step: int = -1  # the newest
    step_s: float = 0.0  # that this step waited

    def add(self, update: UpdateAccepted, sign: int = 1) -> None:
        """Count an update; with a sign of -1, count one no more."""
        self.updates += sign
        self.examples += sign * update.examples
        self.bytes += sign * update.bytes
        self.loss += sign * update.loss * update.examples
        self.train_s += sign * update.examples / update.images_per_s if update.images_per_s else 0.0
        if sign > 0 and update.step != self.step:
            self.wait_s += self.step_s
            self.step, self.step_s = update.step, 0.0
        if sign > 0:
            self.step_s = max(self.step_s, update.seconds)

    def row(self, round_: int, name: str, outcome: str) -> tuple[Value, ...]:
        """As table participation has it; NULL for what is not known."""
        speed = self.examples / self.train_s if self.train_s else None
        loss = finite(self.loss / self.examples) if self.examples else None
        waited = self.wait_s + self.step_s
        return (round_, name, self.updates, self.examples, self.bytes, waited, speed, loss, outcome, None)


class Participation:
    """Who did what in the open round."""

    def __init__(self) -> None:
        self._shares: dict[str, Share] = {}
        self._newest: dict[str, tuple[str, UpdateAccepted]] = {}  # by part, with its learner
        self._missing: dict[str, str] = {}  # why there is no update, by learner

    def add(self, name: str, update: UpdateAccepted) -> None:
        """An update is in; of the same part and step it is the same work again, maybe by another learner."""
        who, newest = self._newest.get(update.part, (name, None))
        if newest is not None and newest.step == update.step:
            self._shares[who].add(newest, -1)
        self._newest[update.part] = name, update
        self._shares.setdefault(name, Share()).add(update)

    def lost(self, part: str) -> None:
        """The update of a part is gone with an edge; it may never come again."""
        if part in self._newest:
            who, newest = self._newest.pop(part)
            self._shares[who].add(newest, -1)

    def summed(self, step: int, parts: Container[str] | None) -> None:
        """The sum of a step is over these parts, if that is known: what else was accepted for it never counted."""
        for part in [part for part, (_, newest) in self._newest.items() if newest.step == step]:
            if parts is not None and part not in parts:
                self.lost(part)

    def missing(self, name: str, outcome: str) -> None:
        """A learner has no update to show so far, and why."""
        if len(self._missing) < _MOST_MISSING:
            self._missing.setdefault(name, outcome)

    def rows(self, round_: int) -> Iterator[tuple[Value, ...]]:
        """Of table participation."""
        counted = {name: share for name, share in self._shares.items() if share.updates}
        for name, share in counted.items():
            yield share.row(round_, name, "counted")
        for name, outcome in self._missing.items():
            if name not in counted:
                yield Share().row(round_, name, outcome)


@dataclass
class Between:
    """Who came and went, and what was refused and scored, since that was last written; a row by its key."""

    learners: dict[Value, tuple[Value, ...]] = field(default_factory=dict)
    sessions: dict[tuple[Value, ...], tuple[Value, ...]] = field(default_factory=dict)
    refusals: dict[tuple[Value, ...], tuple[Value, ...]] = field(default_factory=dict)
    scores: dict[tuple[Value, ...], tuple[Value, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.learners) + len(self.sessions) + len(self.refusals) + len(self.scores)

    def joined(self, event: LearnerJoined, now: float) -> None:
        """A learner is there."""
        self.learners[event.name] = (event.name, event.device, event.control, event.own_examples, now, now)
        self.sessions[event.name, now] = (event.name, now, None, "")

    def left(self, name: str, since: float, now: float, reason: str) -> None:
        """A learner that came at `since` is gone."""
        self.sessions[name, since] = (name, since, now, reason)

    def refused(self, event: CallRefused, name: str, round_: int) -> None:
        """Calls were refused; of more kinds than are told apart, they are counted together."""
        key: tuple[Value, ...] = (round_, name, event.method, event.kind)
        if key not in self.refusals and len(self.refusals) >= _MOST_REFUSALS:
            key = (round_, "", "", "others")
        before = self.refusals.get(key)
        count = 1 + event.suppressed + (int(before[4] or 0) if before else 0)
        self.refusals[key] = (*key, count, event.reason)

    def evaluated(self, event: Evaluated | FederatedEvaluated) -> None:
        """A model has scores."""
        told: dict[str, float] = {}
        if isinstance(event, Evaluated):
            told = dict(on_test_split(event.metrics))
        else:
            for name, spread in event.scores.items():
                told[at_learners(name)] = spread["mean"]
                values: Mapping[str, Any] = spread
                told |= {
                    f"{at_learners(name)}.{which}": values[which] for which in _SPREADS if which in values
                }
        for metric, value in told.items():
            self.scores[event.round, metric] = (event.round, metric, finite(value))


def finite(value: float | None) -> float | None:
    """A number as a database keeps it."""
    return value if value is not None and math.isfinite(value) else None
