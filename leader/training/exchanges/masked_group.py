"""A masked group: learners whose updates of one model are added up masked, and what takes the masks off their sum.

When no more updates are to come, who is in the sum is written down, the sum is charged, and those in it reveal what
takes its masks off.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import os
from collections.abc import Collection, Iterable, Mapping

import numpy as np

from leader.aggregation.base import Contribution
from leader.data.part import Part
from leader.dp.masked_release import MaskedRelease
from leader.learners.membership import Member
from leader.secagg.actions import Action, Failed, Ready, Send, Unmask
from leader.secagg.complaints import Complaints
from leader.secagg.masked_sum import MaskedSum
from leader.secagg.pending import PendingFile, PendingSum, Place
from leader.secagg.session import MaskSession, Phase, Times
from leader.secagg.unmasking import seeds
from leader.training.engine import Engine
from leader.training.exchanges.base import Recalled
from protos import leader_pb2
from utils import faults
from utils.console import printable
from utils.errors import PayloadError
from utils.secagg.keys import SESSION_BYTES
from utils.secagg.roster import Seated, need, order_bytes
from utils.vector import Vector
from utils.wire.payload import Manifest, Payload

_log = logging.getLogger(__name__)
_LONGEST_REASON = 256  # characters of what a learner refuses with


class MaskedGroup:
    """One masked sum of work of one round: its session, and its end."""

    def __init__(
        self,
        engine: Engine,
        round_: int,
        plan: leader_pb2.MaskPlan,
        total: MaskedSum,
        release: MaskedRelease,
        file: PendingFile,
    ) -> None:
        self.round = round_
        self.plan = plan
        self.sum = total
        self.ready: frozenset[str] = frozenset()  # names of learners whose updates may come
        self.stopped = False
        self._engine = engine
        self._release = release
        self.file = file
        self._times = Times(engine.config.secagg.keys_s, engine.config.secagg.reveal_s)
        self._session: MaskSession | None = None
        self._written = False  # whether who is in the sum is on disk
        self._not_before: float | None = (
            None  # clock value: where learners refuse, they are not asked over and over
        )
        self._complaints: Complaints | None = None  # of the sessions before, if there were any
        self._left_out: frozenset[str] = frozenset()  # names of those without whom it was begun anew
        self._in_sum: dict[str, str] = {}  # names, by part
        self._closing = False
        self._outcome = _future()

    def resume(self, pending: PendingSum) -> None:
        """Go on with a sum that was written down before the leader was started."""
        self._session = MaskSession.resumed(pending.closed, self._times, self._engine.signed)
        self._written = True

    @property
    def session(self) -> bytes:
        """The id of its session, b"" before there is one."""
        return self._session.session if self._session is not None else b""

    def takes(self, name: str, session: bytes) -> bool:
        """Whether the update of this learner, masked in this session, is one of its sum."""
        return name in self.ready and session == self.session

    @property
    def hopeless(self) -> bool:
        """Whether too few have masks yet to take them off a sum, as where several learners were started again."""
        collects = self._session is not None and self._session.phase is Phase.COLLECTING
        return collects and len(self.ready) < need(self.plan)

    def restart(self) -> None:
        """Have the same work masked anew: at once, but where that was so before, unless those that hinder it are known.

        Whom its sessions came to nothing by, see Complaints, gets no work for a while.
        """
        assert self._session is not None
        blamed = self._session.complaints.blamed - self._left_out
        for member in [member for member in self._engine.workforce if member.name in blamed]:
            _log.warning(
                "round %d: %s is left out: its shares don't open at the others", self.round, member.name
            )
            self._engine.workforce.failed(member, self._times.keys_s)
        _log.warning(
            "round %d: %d learners have masks yet, a sum needs %d; they are asked again",
            *(self.round, len(self.ready), need(self.plan)),
        )
        if self._complaints is not None and not blamed:
            self.put_off()
        self.over()
        self._complaints, self._session = self._session.complaints, None
        self._left_out |= blamed
        self._in_sum.clear()
        self.sum.clear()
        self.ready = frozenset()

    def put_off(self) -> None:
        """Let the learners be for a while before they are asked for masks."""
        self._not_before = self._now() + self._times.keys_s

    def counted(self, part: str, name: str) -> None:
        """The update of a part is in the sum, and stays there, whether its learner is here or gone."""
        self._in_sum[part] = name

    # --- the session -----------------------------------------------------------------------

    def begin(self, orders: Mapping[str, leader_pb2.WorkOrder]) -> None:
        """Agree on masks with those that are here, whose orders these are by name, once they are enough."""
        now = self._now()
        orders = {name: order for name, order in orders.items() if name not in self._left_out}
        if self._session is not None or len(orders) < need(self.plan):
            return
        if self._not_before is not None and now < self._not_before:
            return
        work = {name: order.work_id for name, order in orders.items()}
        alike = order_bytes(next(iter(orders.values())))
        self._not_before = None
        opened = os.urandom(SESSION_BYTES), self.plan, alike, work, now, self._times
        self._session = MaskSession(*opened, self._engine.signed)
        self._session.complaints = self._complaints or self._session.complaints
        self._do(self._session.open())

    def _now(self) -> float:
        return self._engine.host.clock.now()

    def _do(self, actions: Iterable[Action]) -> None:
        members = {member.name: member for member in self._engine.workforce}
        for action in actions:
            match action:
                case Send(name, message):
                    if name in members:
                        members[name].link.mask(message)
                case Ready(names):
                    self.ready = frozenset(names)
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
        _log.warning("round %d: %s; they are asked again", self.round, reason)
        self._session = None
        self.put_off()

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

    def lost(self, names: Collection[str]) -> None:
        """These learners are gone."""
        for name in names:
            if self._session is not None:
                self._do(self._session.lost(name, self._now()))

    # --- its sum ---------------------------------------------------------------------------

    async def unmask(self, model: Vector, place: Place | None = None) -> str:
        """Have the masks taken off what is in the sum, which was made from `model`; why that can't be, or "".

        In an asynchronous run it is on disk before and after that, with its `place`. Raises PrivacyError where it
        can't be paid, CheckpointError where it can't be written down.
        """
        self._closing = True
        reason = await self._write_down(place)
        if not reason:
            await self._engine.host.compute(self._charge)
            reason = await self._reveal(model)
        if not reason and place is not None:
            await self._write(place.model_copy(update={"unmasked": True}))
        return reason

    async def _write_down(self, place: Place | None) -> str:
        """Decide who is in the sum, for good; why there can be none, or ""."""
        if self._written:
            return ""
        assert self._session is not None
        self._do(self._session.close([self._in_sum[part] for part in self.sum.parts], self._now()))
        if self._outcome.done():
            return _reason(self._outcome.result())
        await self._write(place)
        self._written = True
        faults.reach("leader.pending", self.round)
        return ""

    async def _write(self, place: Place | None) -> None:
        assert self._session is not None
        closed, total = self._session.closed, self.sum
        pending = PendingSum(self.round, tuple(total.parts), closed, total.values, total.wide, place)
        await self._engine.host.compute(self.file.write, pending)

    def _charge(self) -> None:
        """Have what is about to be revealed on disk as paid; raises PrivacyError and CheckpointError."""
        assert self._session is not None
        closed = self._session.closed
        seated = Seated(closed.session, closed.order, closed.plan, closed.seats)
        of = seated.survivors_digest(closed.survivors).hex()
        self._release.charge(closed.plan, self.sum.noise, self.sum.parts, of)

    async def _reveal(self, model: Vector) -> str:
        """Take the masks off the sum; why that can't be, or ""."""
        assert self._session is not None
        host, session = self._engine.host, self._session
        digest = await host.compute(lambda: hashlib.sha256(model.data).digest())
        self._do(session.unmask(self._now()))
        while isinstance(outcome := await self._answered(), Unmask):
            faults.reach("leader.revealed", self.round)
            try:
                found = await host.compute(seeds, outcome.seated, outcome.survivors, outcome.answers, digest)
            except PayloadError as error:
                self._outcome = _future()
                self._do(session.misfit(self._now(), str(error)))
                continue
            await host.compute(self.sum.unmask, found)
            return ""
        return _reason(outcome)

    async def _answered(self) -> Unmask | Failed:
        """What those that were asked come to, in the time that they have."""
        if self.stopped:
            self.stop()
        while not self._outcome.done():
            try:
                async with self._engine.host.clock.until(self.deadline):
                    await asyncio.wait((self._outcome,))
            except TimeoutError:
                self.tick()
        return self._outcome.result()

    def stop(self) -> None:
        """See ExchangeKind.stop: what is written down is unmasked when the run is resumed."""
        self.stopped = True
        if self._closing:
            self._end_wait(Failed("the run is stopped"))

    def over(self) -> None:
        """The sum has counted, or never will: whoever is in the session may forget its secrets."""
        if self._session is not None:
            self._do(self._session.over("the round is over"))


def warn_of_saturation(group: MaskedGroup) -> None:
    """Tell of values that were cut off."""
    _log.warning(
        "%.2g %% of the values are beyond secagg.range (%g); raise it",
        100 * group.sum.saturated,
        group.plan.range,
    )


def recalled(parts: Iterable[Part], held: Mapping[str, int]) -> tuple[Recalled, ...]:
    """The updates of these parts in a sum that is known from a file, and who holds which part by now."""
    empty = Payload(Manifest((), {}, 0, 0), np.empty(0, np.uint8), 0)
    return tuple(
        Recalled(  # whoever is not back yet has no number, and counts nevertheless
            held.get(part.id, -at), part, Contribution(part.id, part.examples, empty, math.nan)
        )
        for at, part in enumerate(parts, 1)
    )


def _reason(outcome: Unmask | Failed) -> str:
    return outcome.reason if isinstance(outcome, Failed) else ""


def _future() -> asyncio.Future[Unmask | Failed]:
    return asyncio.get_running_loop().create_future()
