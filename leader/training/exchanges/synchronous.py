"""Synchronous rounds: in each exchange all parts work from one model, and their updates make one step."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from leader.data.part import Part
from leader.rounds.protocol import Applied, Reopen
from leader.rounds.round import Round
from leader.state import RunState
from leader.training.engine import Engine
from leader.training.exchanges.base import Closed, OpenExchange, Unfinished
from leader.training.exchanges.whole_updates import WholeUpdates
from leader.training.open_orders import Orders
from leader.training.planning import Opening
from protos import edge_pb2, leader_pb2


class SynchronousExchange(WholeUpdates):
    """A round's exchanges, with a sum each."""

    def __init__(self, engine: Engine, state: RunState, opening: Opening, kept: Collection[str] = ()) -> None:
        """`kept` are parts whose updates are in the sum of the first exchange already; see Round."""
        self.machine = Round(opening.plan, kept)
        self.learners = opening.learners
        self.state = state
        self._engine = engine
        self._parts = opening.parts
        self._scale = opening.scale
        self._first_exchange = state.exchanges
        self._open(0)

    def _open(self, step: int) -> None:
        """Make the work orders of the exchange that opens next, and what their updates go into."""
        orders = ((part, self._order(step, part)) for part in self._parts.values())
        self.orders = self._listed(f"round {self.machine.plan.round}, step {step}", orders)
        self._open_sum(step)

    def _listed(self, place: str, orders: Iterable[tuple[Part, leader_pb2.WorkOrder]]) -> Orders:
        told = not self._engine.config.dp.on
        return Orders(self.machine, place, orders, losses_told=told, via=self._engine.via)

    def _order(self, step: int, part: Part) -> leader_pb2.WorkOrder:
        plan, version, first = self.machine.plan, self.state.version, self._first_exchange
        counted = self._counted(part)
        return self._engine.orders.order(
            plan.round, step, plan.steps, part, version=version, first_exchange=first, counted=counted
        )

    def _counted(self, part: Part) -> int:
        """The newest round that an update of the part is in; 0 = none."""
        past = self.state.history.get(part.id)
        return past.last_round if past else 0

    def _open_sum(self, step: int) -> None:
        self.aggregate = self._engine.aggregate(self.state, self._scale)
        self._branch(step, edge_pb2.Open())

    def _branch(self, step: int, opened: edge_pb2.Open) -> None:
        """Have edges begin a sum of their own."""
        opened.round, opened.step = self.machine.plan.round, step
        self._engine.branches.open(opened, self._scale, self.aggregate)

    async def close(self, step: int, parts: tuple[str, ...]) -> Closed:
        """See OpenExchange."""
        if (left := await self._engine.branches.gather()) is not None:
            return Closed(Reopen(self.machine.plan.parts, left))
        result = await self._step(step)
        if step + 1 < self.machine.plan.steps:
            self._open(step + 1)
        return Closed(Applied(), result)

    def unfinished(self) -> Unfinished:
        """See OpenExchange: nothing."""
        return Unfinished()

    def end(self) -> OpenExchange | None:
        """See OpenExchange."""
        self.aggregate.close()
        return None
