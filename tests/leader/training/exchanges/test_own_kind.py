"""A kind of exchange that leader/training/ has never heard of trains real learners to its own arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from leader.aggregation.base import Result
from leader.events import RoundCommitted, StepApplied, UpdateAccepted
from leader.global_model.versions import next_version
from leader.rounds import protocol
from leader.rounds.round import Round
from leader.state import RunState
from leader.training.engine import Engine
from leader.training.exchanges.base import Admitted, Closed, ExchangeKind, OpenExchange, Unfinished
from leader.training.inbox import Submission
from leader.training.open_orders import Orders
from tests.clusters import TINY, play, train

KEPT = 0.5  # of the step that the largest update alone would make


class LargestWins:
    """Of a round's updates only the one of the largest norm is applied, by half; nothing is summed."""

    applied: list[NDArray[np.float32]] = []  # noqa: RUF012 - what the test looks at

    def __init__(self, engine: Engine, state: RunState) -> None:
        opening = engine.rounds.cohort(state)
        self.machine = Round(opening.plan)
        self.learners = opening.learners
        self.state = state
        self._engine = engine
        self._updates: dict[str, NDArray[np.float32]] = {}
        make, round_ = engine.orders.order, opening.plan.round
        orders = (
            (part, make(round_, 0, 1, part, version=state.version, first_exchange=0))
            for part in opening.parts.values()
        )
        self.orders = Orders(self.machine, f"round {round_}", orders)

    def holders(self) -> Mapping[str, int]:
        return self._engine.workforce.holders()

    async def add(
        self, admitted: Admitted, submission: Submission, counted: Callable[[], None]
    ) -> protocol.RoundEvent | None:
        values = [array.ravel() for array in admitted.contribution.payload.arrays().values()]
        self._updates[admitted.part.id] = np.concatenate(values).astype(np.float32)
        counted()
        return protocol.Accepted(admitted.part.id, 0)

    async def close(self, step: int, parts: tuple[str, ...]) -> Closed:
        assert set(parts) == set(self._updates)
        largest = max(self._updates.values(), key=lambda update: float(np.linalg.norm(update)))
        self.applied.append(largest)
        vector = self.state.vector + np.float32(KEPT) * largest
        after = replace(self.state, vector=vector, version=next_version(self.state.version, str(step)))
        self.state = await self._engine.publisher.publish(after, self.state)
        return Closed(protocol.Applied(), Result(largest, 7, 0.25, ""))

    def unfinished(self) -> Unfinished:
        return Unfinished()

    def end(self) -> OpenExchange | None:
        self._updates.clear()
        return None


def largest_wins(engine: Engine) -> ExchangeKind:
    return ExchangeKind(lambda state: LargestWins(engine, state))


def test_a_kind_defined_here_runs_real_rounds() -> None:
    LargestWins.applied.clear()
    start = play(train, {**TINY, "rounds": 1}, kind=largest_wins)
    begin = start.vector - np.float32(KEPT) * LargestWins.applied[0]
    LargestWins.applied.clear()
    cluster = play(train, kind=largest_wins)
    expected = begin
    assert len(LargestWins.applied) == 3
    for largest in LargestWins.applied:
        expected = expected + np.float32(KEPT) * largest
    np.testing.assert_allclose(cluster.vector, expected, rtol=1e-5, atol=1e-6)
    assert len(cluster.seen(UpdateAccepted)) == 6
    assert [event.loss for event in cluster.seen(StepApplied)] == [0.25] * 3
    assert [(event.round, event.learners, event.examples) for event in cluster.seen(RoundCommitted)] == [
        (1, 2, 7),
        (2, 2, 7),
        (3, 2, 7),
    ]
