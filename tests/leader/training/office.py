"""A leader's engine and its workforce, with learners that have registered and do nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from leader.config import RunConfig
from leader.events import EventStream
from leader.learners.workforce import Workforce
from leader.state import RunState
from leader.training.engine import Engine
from leader.training.planning import Opening
from leader.trust.identities.callers import anonymous
from model.layout import Layout
from protos import leader_pb2
from utils.secagg.roster import VERSION

LAYOUT = Layout.of(nn.Linear(2, 1))


class Office:
    """An engine and its workforce."""

    def __init__(self, *, own: bool = False, learners: int = 4, **values: Any) -> None:
        values["cohort"] = {"deadline_s": 100.0, "deadline_floor_s": 1.0, **values.get("cohort", {})}
        values["data"] = {"holder": "learner" if own else "leader", **values.get("data", {})}
        self.config = config = RunConfig.model_validate({"learners": learners, **values})
        labels = None if own else np.arange(40) % 10
        self.workforce = Workforce(config, classes=10, labels=labels, seats=None, events=EventStream())
        for number in range(learners):
            self.join(f"learner-{number}", own=10 * (number + 1) if own else 0)
        self.workforce.deal()
        self.engine = Engine(config, LAYOUT, self.workforce, "run")

    def join(self, name: str, own: int = 0) -> None:
        """Register a learner, perhaps again, with so many examples of its own."""
        [token] = [member.token for member in self.workforce if member.name == name] or [b""]
        info = leader_pb2.LearnerInfo(
            name=name, control=leader_pb2.CONTROL_SESSION, token=token, secagg=VERSION
        )
        if own:
            info.own_data.CopyFrom(leader_pb2.OwnData(examples=own, classes=10, fingerprint=f"f{own}"))
        self.workforce.register(info, anonymous(f"ipv4:1.1.1.1:{name}"))

    def state(self, round_: int = 1) -> RunState:
        """The state before `round_`."""
        return RunState("run", round_ - 1, 0, 5, np.zeros(LAYOUT.total, np.float32), {})

    def open(self, round_: int = 1) -> Opening:
        """The plan of `round_`."""
        planner, state = self.engine.rounds, self.state(round_)
        return planner.buffer(state) if self.config.buffer.size else planner.cohort(state)
