"""The commit: a round on disk first, then everybody hears of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from leader.config import RunConfig
from leader.events import EventStream, FederatedEvaluated
from leader.learners.workforce import Workforce
from leader.runtime import Host
from leader.state import RunState
from leader.training.exchanges.base import OpenExchange
from leader.training.round_metrics import Tally, Traffic
from utils import faults
from utils.vector import Vector

_PARTS_AWAY = 3  # parts whose learner is away and whose history is kept, as a multiple of limits.max_learners


class Commit:
    """Writes states with `save`, which raises CheckpointError, and tells of rounds that are written."""

    def __init__(
        self,
        config: RunConfig,
        save: Callable[[RunState], object],
        workforce: Workforce,
        events: EventStream,
        traffic: Traffic,
        host: Host,
    ) -> None:
        self._rounds, self._averaged = config.rounds, round(config.server.average * config.rounds)
        self._parts_away = _PARTS_AWAY * config.limits.max_learners
        self._save = save
        self._workforce = workforce
        self._events = events
        self._traffic = traffic
        self._host = host

    async def save(self, state: RunState) -> None:
        """Write a state; raises CheckpointError."""
        await self._host.compute(self._save, state)

    async def round(self, before: RunState, exchange: OpenExchange, tally: Tally, lr: float) -> RunState:
        """The state after the exchange's round, written; raises CheckpointError."""
        round_, traffic = exchange.machine.plan.round, self._traffic
        committed, privacy = tally.committed(round_, lr, time.monotonic(), traffic), exchange.state.privacy
        if privacy is not None:
            committed = replace(committed, epsilon=privacy.epsilon, budget=privacy.budget)
        present, unfinished = self._workforce.parts(), exchange.unfinished()
        history = tally.history(before.history, round_, present=present, absent=self._parts_away)
        state = replace(
            exchange.state,
            round=round_,
            seats=self._workforce.seats(),
            bytes_up=traffic.up,
            bytes_down=traffic.down,
            seconds=exchange.state.seconds + committed.seconds,
            committed=committed,
            **await self._average(before, exchange.state, round_),
            federated=tally.scores(),
            history=history,
            open_work=unfinished.open_work,
            turns={
                part: given for part, given in unfinished.turns.items() if part in history or part in present
            },
        )
        await self.save(state)
        faults.reach("leader.committed", round_)
        return state

    async def _average(self, before: RunState, after: RunState, round_: int) -> dict[str, Any]:
        """Stochastic weight averaging (Izmailov et al. 2018, algorithm 1) over the models of the last rounds."""
        if round_ <= self._rounds - self._averaged:
            return {"average": None, "averaged": 0}
        count = before.averaged + 1
        mean = await self._host.compute(_mean_with, before.average, after.vector, count)
        return {"average": mean, "averaged": count}

    def tell(self, state: RunState) -> None:
        """The round that made this state is written: events, and learners may let go of their updates."""
        assert state.committed is not None
        if state.federated:
            self._events.publish(FederatedEvaluated(state.round - 1, state.federated))
        self._events.publish(state.committed)
        for link in self._workforce.links():
            link.committed(state.round, state.version)


def _mean_with(mean: Vector | None, newest: Vector, count: int) -> Vector:
    """The mean (total,) of `count` models, of which `mean` is that of the others; None where there are none."""
    return newest.copy() if mean is None else mean + (newest - mean) / np.float32(count)
