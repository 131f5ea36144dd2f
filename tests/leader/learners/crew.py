"""A workforce that a test fills with learners."""

from __future__ import annotations

from typing import Any

import numpy as np

from leader.config import RunConfig
from leader.events import Event, EventStream
from leader.learners.membership import Member
from leader.learners.workforce import Workforce
from leader.state import Seats
from leader.trust.identities.callers import anonymous
from protos import leader_pb2

LABELS = np.arange(60) % 10


def info(
    name: str, own: int = 0, classes: int = 10, token: bytes = b"", tags: str = ""
) -> leader_pb2.LearnerInfo:
    this = leader_pb2.LearnerInfo(
        name=name, control=leader_pb2.CONTROL_SESSION, token=token, device="cpu", tags=tags.split()
    )
    if own:
        this.own_data.CopyFrom(leader_pb2.OwnData(examples=own, classes=classes, fingerprint=f"f{own}"))
    return this


class Crew:
    """A workforce, what it published, and how often it called."""

    def __init__(
        self, *, learners: int = 2, seats: Seats | None = None, holder: str = "leader", **settings: Any
    ) -> None:
        sections = {name: settings.pop(name) for name in list(settings) if isinstance(settings[name], dict)}
        data = {"holder": holder, **sections.pop("data", {})}
        values = {"learners": learners, "data": data, "cohort": settings, **sections}
        config = RunConfig.model_validate(values)
        events = EventStream()
        self.events: list[Event] = []
        events.subscribe(self.events.append)
        labels = LABELS if holder == "leader" else None
        self.workforce = Workforce(config, classes=10, labels=labels, seats=seats, events=events)
        self.calls = 0
        self.workforce.subscribe(self._called)

    def _called(self) -> None:
        self.calls += 1

    def join(self, *names: str, own: int = 0, tags: str = "") -> list[Member]:
        return [
            self.workforce.register(info(name, own, tags=tags), anonymous(f"ipv4:1.1.1.1:{name}"))
            for name in names
        ]

    def dealt(self, *names: str) -> list[Member]:
        members = self.join(*names)
        self.workforce.deal()
        return members

    def examples_of(self, member: Member) -> list[list[int]]:
        shards = self.workforce.seats()
        assert shards is not None
        held = [part for part, learner in self.workforce.holders().items() if learner == member.learner_id]
        return [self.workforce.shard_of(member, int(part[-5:])).tolist() for part in held]
