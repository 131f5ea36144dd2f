"""Masked rounds: updates come masked, and only their sum is ever seen.

Keys and shares travel over the learners' sessions beside training. When the round closes, who is in its sum is
written down, those reveal what takes the masks off, and the sum makes the step. The rest is a synchronous round.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from leader.aggregation.base import Contribution
from leader.data.part import Part
from leader.learners.membership import Member
from leader.rounds.protocol import Applied, Reopen, RoundEvent
from leader.secagg.masked_sum import MaskedSum
from leader.secagg.pending import PendingFile, PendingSum
from leader.secagg.session import Action, Failed, MaskSession, Ready, Send, Times, Unmask
from leader.secagg.unmasking import seeds
from leader.state import RunState
from leader.training.engine import Engine
from leader.training.exchanges.base import Admitted, Closed, OpenExchange, Recalled
from leader.training.exchanges.masked_orders import MaskedOrders
from leader.training.exchanges.synchronous import SynchronousExchange
from leader.training.inbox import Submission
from leader.training.mask_plan import plan_of
from leader.training.planning import Opening
from protos import edge_pb2, leader_pb2
from utils import faults
from utils.console import printable
from utils.errors import PayloadError
from utils.secagg.keys import SESSION_BYTES
from utils.secagg.ring import COARSE, FEWEST_LEVELS
from utils.secagg.roster import Seated, need, order_bytes
from utils.secagg.update import ring_of
from utils.wire.payload import Manifest, Payload

_log = logging.getLogger(__name__)
_LONGEST_REASON = 256  # characters of what a learner refuses with


class Masking:
    """What masked exchanges of one run have in common: the file of the pending sum, and who hears learners."""

    def __init__(self, engine: Engine, path: Path | None) -> None:
        self.pending = PendingFile(path)
        self.open_now: MaskedExchange | None = None
        self.stopped = False
        engine.workforce.subscribe(self._look)

    def _look(self) -> None:
        if self.open_now is not None:
            self.open_now.look_at_learners()

    def heard(self, member: Member, message: leader_pb2.MaskUp) -> None:
        """See ExchangeKind.masked."""
        if self.open_now is not None:
            self.open_now.heard(member, message)

    def returned(self, member: Member) -> None:
        """See ExchangeKind.returned."""
        if self.open_now is not None:
            self.open_now.returned(member)

    def deadline(self) -> float | None:
        """See ExchangeKind.deadline."""
        return self.open_now.deadline if self.open_now is not None else None

    def tick(self) -> None:
        """See ExchangeKind.tick."""
        if self.open_now is not None:
            self.open_now.tick()

    def stop(self) -> None:
        """See ExchangeKind.stop."""
        self.stopped = True
        if self.open_now is not None:
            self.open_now.stop()


class MaskedExchange(SynchronousExchange):
    """A round with one masked sum."""

    orders: MaskedOrders
    aggregate: MaskedSum

    def __init__(self, engine: Engine, state: RunState, opening: Opening, masking: Masking) -> None:
        """Raises CheckpointError for a pending sum that is damaged."""
        secagg, pending = engine.config.secagg, masking.pending.read(state.round + 1)
        self._masking = masking
        self._pending = pending
        self._times = Times(secagg.keys_s, secagg.reveal_s)
        self._plan = plan_of(
            engine.config, opening, masking.pending.attempt(state.round + 1), state.masks_range
        )
        self._opening = opening = _with_quorum(opening, need(self._plan))
        self._release = engine.privacy.masked(engine.layout, state, self._plan, opening.plan.quorum)
        self._session: MaskSession | None = None
        self._not_before: float | None = (
            None  # clock value: where learners refuse, they are not asked over and over
        )
        self._registered: set[str] = set()  # names
        self._in_sum: dict[str, str] = {}  # names, by part
        self._closing = False
        self._outcome = _future()
        super().__init__(engine, state, opening, pending.parts if pending else ())
        if pending:
            self.aggregate = MaskedSum.restored(engine.layout, pending, self._scale, self._release.after)
            self._session = MaskSession.resumed(pending.closed, self._times, engine.signed)
        self._check_levels()
        masking.open_now = self
        self.look_at_learners()
        if self._session is None:
            _log.warning(
                "round %d: %d learners are here, a sum needs %d",
                opening.plan.round,
                len(self._here()),
                need(self._plan),
            )

    def _check_levels(self) -> None:
        """More learners may be here than the config has asked for."""
        plan = self._plan
        if plan.bits == COARSE and (levels := ring_of(plan).limit) < FEWEST_LEVELS:
            _log.warning(
                "round %d: of %d learners a value has %d levels to each side, fewer than %d: set cohort.size, or "
                "secagg.bits=32",
                *(self.machine.plan.round, plan.parties, levels, FEWEST_LEVELS),
            )

    def _order(self, step: int, part: Part) -> leader_pb2.WorkOrder:
        past = self.state.history.get(part.id)
        order, counted = super()._order(step, part), past.last_round if past else 0
        return self._engine.orders.masked(order, part, self._plan, self._release.noise, counted)

    def _listed(self, place: str, orders: Iterable[tuple[Part, leader_pb2.WorkOrder]]) -> MaskedOrders:
        return MaskedOrders(self.machine, place, orders, via=self._engine.via)

    def _open_sum(self, step: int) -> None:
        layout = self._engine.layout
        self.aggregate = MaskedSum(layout, self._plan, self._scale, self._release.noise, self._release.after)
        self._in_sum = {}
        self._branch(step, edge_pb2.Open(masking=self._plan, noise=self._release.noise))

    def holders(self) -> Mapping[str, int]:
        """See OpenExchange: once masks are agreed on, those that have some."""
        held = super().holders()
        if not self.orders.ready:
            return held
        return {part: id_ for part, id_ in held.items() if self._name_of(id_) in self.orders.ready}

    def _name_of(self, learner_id: int) -> str:
        member = self._engine.workforce.get(learner_id)
        return member.name if member is not None else ""

    async def add(
        self, admitted: Admitted, submission: Submission, counted: Callable[[], None]
    ) -> RoundEvent | None:
        """See OpenExchange: whoever is in the sum stays in it, here or gone."""
        event = await super().add(admitted, submission, counted)
        self._in_sum[admitted.part.id] = submission.member.name
        return event

    # --- the session of masks --------------------------------------------------------------

    def _begin(self) -> None:
        """Agree on masks with the learners that are here, once they are enough."""
        now = self._now()
        here = self._here()
        if self._session is not None or len(here) < need(self._plan):
            return
        if self._not_before is not None and now < self._not_before:
            return
        orders = {name: self.orders.order(part) for name, part in here.items()}
        work = {name: order.work_id for name, order in orders.items()}
        alike = order_bytes(next(iter(orders.values())))
        self.orders.session = os.urandom(SESSION_BYTES)
        self._not_before = None
        opened = self.orders.session, self._plan, alike, work, now, self._times
        self._session = MaskSession(*opened, self._engine.signed)
        self._do(self._session.open())

    def _now(self) -> float:
        return self._engine.host.clock.now()

    def _here(self) -> dict[str, str]:
        """The parts that learners have, by their names; some may not have opened their connection yet."""
        holders = super().holders()
        return {self._name_of(holders[part]): part for part in self._parts if part in holders}

    def _do(self, actions: Iterable[Action]) -> None:
        members = {member.name: member for member in self._engine.workforce}
        for action in actions:
            match action:
                case Send(name, message):
                    if name in members:
                        members[name].link.mask(message)
                case Ready(names):
                    self.orders.ready = frozenset(names)
                    self._engine.workforce.announce()
                case Unmask():
                    self._end_wait(action)
                case Failed(reason):
                    self._failed(action, reason)

    def _end_wait(self, outcome: Unmask | Failed) -> None:
        if not self._outcome.done():
            self._outcome.set_result(outcome)

    def _failed(self, failed: Failed, reason: str) -> None:
        if self._closing:
            self._end_wait(failed)
            return
        _log.warning("round %d: %s; they are asked again", self.machine.plan.round, reason)
        self._session = None
        self._not_before = self._now() + self._times.keys_s

    @property
    def deadline(self) -> float | None:
        """Clock value at which the session is to be told that its time is up, or another may begin."""
        return self._session.deadline if self._session is not None else self._not_before

    def tick(self) -> None:
        """Time has passed."""
        if self._session is not None:
            self._do(self._session.tick(self._now()))
        elif self._not_before is not None and self._now() >= self._not_before:
            self._not_before = None
            self._begin()

    def heard(self, member: Member, message: leader_pb2.MaskUp) -> None:
        """See ExchangeKind.masked."""
        if message.HasField("refused"):
            reason = printable(message.refused.reason[:_LONGEST_REASON])
            _log.info("masks: %s refuses: %s", member.name, reason)
        if self._session is not None and message.session == self._session.session:
            self._do(self._session.heard(member.name, message, self._now()))

    def returned(self, member: Member) -> None:
        """See ExchangeKind.returned."""
        if self._session is not None:
            self._do(self._session.returned(member.name))

    def look_at_learners(self) -> None:
        """Who is here may have changed; whose connection broke is waited for as long as its lease lasts."""
        registered = {member.name for member in self._engine.workforce}
        gone = self._registered - registered
        self._registered = registered
        self._begin()
        for name in gone:
            if self._session is not None:
                self._do(self._session.lost(name, self._now()))

    # --- its sum ---------------------------------------------------------------------------

    async def close(self, step: int, parts: tuple[str, ...]) -> Closed:
        """See OpenExchange: the round's other attempt, with other work, where the sum can't be unmasked."""
        self._closing = True
        if self._pending is None and (left := await self._engine.branches.gather()) is not None:
            self._closing = False
            return Closed(Reopen(self.machine.plan.parts, left))
        reason = await self._write_down()
        if not reason:
            await self._engine.host.compute(self._charge)
            reason = await self._unmask()
        if self._masking.stopped and reason:
            return Closed(Reopen(()))  # what is written down is unmasked when the run is resumed
        recalled, self._pending = self._recalled(), None
        if reason:
            return await self._again(step, reason)
        if found := self.aggregate.next_range:
            _log.debug("round %d: masks of %g next", self.machine.plan.round, found)
        elif self.aggregate.saturated:
            _log.warning(
                "%.2g %% of the values are beyond secagg.range (%g); raise it",
                100 * self.aggregate.saturated,
                self._plan.range,
            )
        result = await self._step(step)
        if self._engine.config.dp.on:
            result = replace(result, loss=math.nan)  # nobody has told one
        return Closed(Applied(), result, recalled)

    async def _write_down(self) -> str:
        """Decide who is in the sum, for good; why there can be none, or ""."""
        if self._pending is not None:
            return ""
        assert self._session is not None
        self._do(self._session.close([self._in_sum[part] for part in self.aggregate.parts], self._now()))
        if self._outcome.done():
            return self._reason(self._outcome.result())
        closed, total = self._session.closed, self.aggregate
        pending = PendingSum(self.machine.plan.round, tuple(total.parts), closed, total.values, total.wide)
        await self._engine.host.compute(self._masking.pending.write, pending)
        faults.reach("leader.pending", self.machine.plan.round)
        return ""

    def _charge(self) -> None:
        """Have what is about to be revealed on disk as paid; raises PrivacyError and CheckpointError."""
        assert self._session is not None
        closed = self._session.closed
        seated = Seated(closed.session, closed.order, closed.plan, closed.seats)
        of = seated.survivors_digest(closed.survivors).hex()
        self._release.charge(closed.plan, self.aggregate.noise, self.aggregate.parts, of)

    async def _unmask(self) -> str:
        """Take the masks off the sum; why that can't be, or ""."""
        assert self._session is not None
        host, session = self._engine.host, self._session
        shared = self._engine.layout.gathered(self.state.served)
        model = await host.compute(lambda: hashlib.sha256(shared.data).digest())
        self._do(session.unmask(self._now()))
        while isinstance(outcome := await self._answered(), Unmask):
            faults.reach("leader.revealed", self.machine.plan.round)
            try:
                found = await host.compute(seeds, outcome.seated, outcome.survivors, outcome.answers, model)
            except PayloadError as error:
                self._outcome = _future()
                self._do(session.misfit(self._now(), str(error)))
                continue
            await host.compute(self.aggregate.unmask, found)
            return ""
        return self._reason(outcome)

    async def _answered(self) -> Unmask | Failed:
        """What those that were asked come to, in the time that they have."""
        if self._masking.stopped:
            self.stop()
        while not self._outcome.done():
            try:
                async with self._engine.host.clock.until(self.deadline):
                    await asyncio.wait((self._outcome,))
            except TimeoutError:
                self.tick()
        return self._outcome.result()

    def stop(self) -> None:
        """See ExchangeKind.stop."""
        if self._closing:
            self._end_wait(Failed("the run is stopped"))

    def _reason(self, outcome: Unmask | Failed) -> str:
        return outcome.reason if isinstance(outcome, Failed) else ""

    async def _again(self, step: int, reason: str) -> Closed:
        round_, pending = self.machine.plan.round, self._masking.pending
        _log.warning("round %d is tried again with other batches: %s", round_, reason)
        await self._engine.host.compute(pending.failed, round_)
        self._engine.privacy.check_paid(round_, self.machine.plan.parts)
        attempt, found = pending.attempt(round_), self.state.masks_range
        self._plan = plan_of(self._engine.config, self._opening, attempt, found)
        self._session, self._closing, self._outcome = None, False, _future()
        self._open(step)
        self._begin()
        return Closed(Reopen(self.machine.plan.parts))

    def _recalled(self) -> tuple[Recalled, ...]:
        """The updates of a sum that was written down before the leader was started."""
        if self._pending is None:
            return ()
        held = super().holders()
        parts = [self._parts.get(id_) or Part(id_, 0, None, 0) for id_ in self._pending.parts]
        empty = Payload(Manifest((), {}, 0, 0), np.empty(0, np.uint8), 0)
        return tuple(
            Recalled(  # whoever is not back yet has no number, and counts nevertheless
                held.get(part.id, -at), part, Contribution(part.id, part.examples, empty, math.nan)
            )
            for at, part in enumerate(parts, 1)
        )

    def end(self) -> OpenExchange | None:
        """See OpenExchange."""
        self._masking.open_now = None
        if self._session is not None:
            self._do(self._session.over("the round is over"))
        return super().end()


def _with_quorum(opening: Opening, least: int) -> Opening:
    """A round that does not close before its sum can be unmasked."""
    plan = opening.plan
    return replace(opening, plan=replace(plan, quorum=max(plan.quorum, min(least, len(plan.parts)))))


def _future() -> asyncio.Future[Unmask | Failed]:
    return asyncio.get_running_loop().create_future()
