"""Asynchronous rounds: work stays open over rounds, each round is a buffer of updates with its own sum (FedBuff)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from leader.aggregation.base import Contribution
from leader.aggregation.exact_sum import Scale
from leader.data.part import Part
from leader.learners.membership import Member
from leader.rounds.buffer import Buffer, Desk, OpenWork
from leader.rounds.groups import Groups
from leader.rounds.protocol import Applied, OpenOrder, Phase
from leader.rounds.script import Script
from leader.state import RunState
from leader.storage.buffer_log import BufferLog
from leader.storage.checkpoint import state_of_round
from leader.storage.run_folder import RunFolder
from leader.training.engine import Engine
from leader.training.exchanges.base import Admitted, Closed, OpenExchange, Unfinished
from leader.training.exchanges.whole_updates import WholeUpdates
from leader.training.inbox import Upload
from leader.training.open_orders import Orders
from leader.training.planning import Opening
from leader.training.work_orders import WorkPlanner
from protos import leader_pb2
from utils.seeds import derive_seed

K = TypeVar("K")
T = TypeVar("T")


class BufferedOrders(Orders):
    """What is open in the buffer as work orders; those of earlier rounds stay the same."""

    _machine: Buffer

    def __init__(
        self,
        planner: WorkPlanner,
        state: RunState,
        first_buffer: int,
        max_staleness: int,
        older: Mapping[int, NDArray[np.float32]] | None = None,
    ) -> None:
        self._planner = planner
        self._first_buffer = first_buffer  # where the model's buffers begin in its flat vector
        self._max_staleness = max_staleness
        self._work = {}  # open, or counted in this round
        self._by_part = {}
        self._given = {}
        #: By the round whose work starts from them: model versions, and buffers of those models.
        self._versions = {work.round: work.version for work in state.open_work.values()}
        self._buffers = dict(older or {})  # of models from before a restart, as far as they were kept

    def begin(self, state: RunState, machine: Buffer, parts: Mapping[str, Part]) -> None:
        """Open a round."""
        self._machine = machine
        self._parts = parts
        self._place = f"round {machine.plan.round}"
        orders = machine.desk.orders
        self._by_part = {
            part: order
            for part, order in self._by_part.items()
            if part in parts and orders.get(part) == OpenOrder(order.round, order.step)
        }
        self._work = {order.work_id: (parts[part], order) for part, order in self._by_part.items()}
        self._given = _only(self._work, self._given)
        needed = {opened.round for opened in orders.values()}
        self._versions = _only(needed, self._versions) | {machine.plan.round: state.version}
        buffers = state.vector[self._first_buffer :].copy()
        self._buffers = _only(needed, self._buffers) | {machine.plan.round: buffers}

    def open_work(self) -> dict[str, OpenWork]:
        """Open work for a checkpoint."""
        return {part: self._kept(opened) for part, opened in self._machine.desk.orders.items()}

    def _kept(self, opened: OpenOrder) -> OpenWork:
        return OpenWork(opened.round, opened.turn, self._versions[opened.round], opened.group)

    def order(self, part: str) -> leader_pb2.WorkOrder:
        """The work order of a part's open order, made when it is first asked for."""
        opened = self._machine.order(part)
        assert opened is not None
        order = self._by_part.get(part)
        if order is not None and opened == OpenOrder(order.round, order.step):
            return order
        if order is not None and not self._machine.counted(part, order.step):
            del self._work[order.work_id]
        order = self._made(self._parts[part], opened)
        self._by_part[part] = order
        self._work[order.work_id] = (self._parts[part], order)
        return order

    def _made(self, part: Part, opened: OpenOrder) -> leader_pb2.WorkOrder:
        return self._planner.buffered(part, self._kept(opened), self._max_staleness)

    def admit(self, member: Member, upload: Upload, work_id: str) -> Admitted:
        """See OpenOrders; with the update's staleness."""
        admitted = super().admit(member, upload, work_id)
        order = admitted.order
        # A quick learner's part may be in the buffer twice.
        contribution = replace(admitted.contribution, part=f"{admitted.part.id}:{order.step}")
        return replace(admitted, contribution=self.aged(contribution, order.round))

    def aged(self, contribution: Contribution, round_: int) -> Contribution:
        """A contribution made from the model that work of `round_` starts from, with its staleness."""
        newest = self._machine.plan.round
        staleness, base = newest - round_, self._buffers.get(round_)
        shift = base - self._buffers[newest] if base is not None and staleness else None
        return replace(contribution, staleness=staleness, buffers_shift=shift)


def _only(needed: Collection[K], values: Mapping[K, T]) -> dict[K, T]:
    return {key: value for key, value in values.items() if key in needed}


class BufferedExchange(WholeUpdates):
    """A run's buffers, one after the other; work is open from the first round to the last."""

    machine: Buffer

    def __init__(self, engine: Engine, state: RunState) -> None:
        self._engine = engine
        self._max_staleness = engine.config.buffer.max_staleness
        self._parts: Mapping[str, Part] = {}
        self._desk: Desk | None = None  # that the last round left, if it was committed
        self._groups = Groups()
        folder = RunFolder(engine.scratch) if engine.scratch else None
        self._log = BufferLog(folder.buffers if folder else None, state.round)
        self.orders = self._open_orders(state, _recall(engine, state, folder) if folder else {})

    def _open_orders(self, state: RunState, older: Mapping[int, RunState]) -> BufferedOrders:
        """`older` are the states that open work starts from, by its round."""
        split = self._engine.layout.parameter_count
        buffers = {round_: one.vector[split:].copy() for round_, one in older.items()}
        return BufferedOrders(self._engine.orders, state, split, self._max_staleness, buffers)

    def begin(self, state: RunState) -> None:
        """Open the round after `state`."""
        opening = self._engine.rounds.buffer(state)
        self.state, self.learners = state, opening.learners
        desk = replace(self._desk, turns=state.turns) if self._desk else _desk_of(state)
        # A learner that came back with other data must not go on with work on what it had.
        changed = {part for part, now in opening.parts.items() if self._parts.get(part, now) != now}
        orders = {
            part: opened
            for part, opened in desk.orders.items()
            if part not in changed or self._groups.has(part, opened.turn)
        }
        self._parts = opening.parts
        round_ = opening.plan.round
        script = Script(self._log.script(round_), partial(self._log.note, round_))
        self.machine = Buffer(
            opening.plan,
            replace(desk, orders=orders),
            at_work=self._engine.config.cohort.size,
            max_staleness=self._max_staleness,
            pick=self._pick,
            script=script,
            groups=self._groups,
        )
        self.aggregate = self._engine.aggregate(state, self._scale(opening))
        self.orders.begin(state, self.machine, opening.parts)

    def _scale(self, opening: Opening) -> Scale:
        """Of the round's sum."""
        return opening.scale

    def _pick(self, idle: Sequence[str], count: int, given: int) -> Sequence[str]:
        seed, parts = derive_seed(self._engine.config.seed, "buffer"), self._parts
        return self._engine.rounds.choose(
            {part: parts[part] for part in idle}, count, self.state, seed, given
        )

    async def close(self, step: int, parts: tuple[str, ...]) -> Closed:
        """See OpenExchange."""
        await self._engine.host.compute(self._log.sync)
        return Closed(Applied(), await self._step(step))

    def unfinished(self) -> Unfinished:
        """See OpenExchange: the orders."""
        return Unfinished(self.orders.open_work(), self.machine.desk.turns)

    def end(self) -> OpenExchange | None:
        """See OpenExchange: work goes on over the rounds."""
        self.aggregate.close()
        self._desk = self.machine.desk if self.machine.phase is Phase.COMMITTED else None
        return self


def _recall(engine: Engine, state: RunState, folder: RunFolder) -> dict[int, RunState]:
    """Serve the models again that open work starts from; their states, by the round of the work."""
    found: dict[int, RunState] = {}
    versions = {work.round: work.version for work in state.open_work.values()}
    for round_ in sorted(versions, reverse=True):
        older = state_of_round(folder.checkpoints, round_ - 1)
        if older is not None and older.version == versions[round_]:
            engine.publisher.recall(older)
            found[round_] = older
    return found


def _desk_of(state: RunState) -> Desk:
    """What was open when `state` was committed."""
    orders = {part: OpenOrder(work.round, work.turn, work.group) for part, work in state.open_work.items()}
    return Desk(orders, state.turns)
