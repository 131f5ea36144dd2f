"""The exchange after the last round: learners score its model, and train no more."""

from __future__ import annotations

from collections.abc import Mapping

from leader.data.part import Part
from leader.rounds.protocol import Applied
from leader.training.exchanges.base import Closed
from leader.training.exchanges.synchronous import SynchronousExchange
from protos import leader_pb2


class ScoringExchange(SynchronousExchange):
    """Updates are checked as ever, but only the scores that come with them are kept: no step is made of them."""

    def _order(self, step: int, part: Part) -> leader_pb2.WorkOrder:
        plan, counted = self.machine.plan, self._counted(part)
        return self._engine.orders.scoring(plan.round, part, version=self.state.version, counted=counted)

    def holders(self) -> Mapping[str, int]:
        """See OpenExchange: plain learners can't be asked for scores alone."""
        plain = {member.learner_id for member in self._engine.workforce if member.plain}
        return {part: learner for part, learner in super().holders().items() if learner not in plain}

    async def close(self, step: int, parts: tuple[str, ...]) -> Closed:
        """See OpenExchange: without trace in weights and checkpoint."""
        return Closed(Applied())
