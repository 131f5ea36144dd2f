"""Exchanges whose updates come whole, into one aggregate that makes one step."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from leader.aggregation.base import Aggregator, Result
from leader.data.part import Part
from leader.rounds.protocol import Accepted, RoundEvent, RoundMachine
from leader.state import RunState
from leader.training.engine import Engine
from leader.training.exchanges.base import Admitted
from leader.training.inbox import Submission
from utils.errors import PayloadError


class WholeUpdates:
    """What such exchanges have in common."""

    machine: RoundMachine
    state: RunState
    aggregate: Aggregator
    _engine: Engine
    _parts: Mapping[str, Part]  # of the round

    def holders(self) -> Mapping[str, int]:
        """See OpenExchange; a learner that came back with other data has none of what is open on what it had."""
        held, now = self._engine.workforce.holders(), self._engine.workforce.parts()
        others = {part for part, open_ in self._parts.items() if part in held and now[part] != open_}
        return {part: learner for part, learner in held.items() if part not in others} if others else held

    async def add(
        self, admitted: Admitted, submission: Submission, counted: Callable[[], None]
    ) -> RoundEvent | None:
        """See OpenExchange."""
        if submission.piece is not None:
            raise PayloadError("this exchange takes whole updates; send them with AccumulateGradients")
        await self._engine.fold(self._sum_of(admitted.part.id), admitted.contribution)
        counted()
        return Accepted(admitted.part.id, admitted.order.step)

    def _sum_of(self, part: str) -> Aggregator:
        """What the update of a part is added to."""
        return self.aggregate

    async def _step(self, step: int) -> Result:
        """Make the step of what is in the aggregate; what the exchange came to."""
        plan = self.machine.plan
        self.state, result = await self._engine.step(self.state, self.aggregate, plan, step)
        return result
