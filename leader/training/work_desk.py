"""The work desk: what RPCs ask about the open work, and what they hand in."""

from __future__ import annotations

from collections.abc import Callable

from leader.condition import Signal
from leader.global_model.versions import VersionStore
from leader.learners.membership import Member
from leader.learners.workforce import Workforce
from leader.rounds.protocol import Outdated
from leader.runtime import Clock
from leader.training.exchanges.base import OpenExchange
from leader.training.inbox import Inbox, Upload
from leader.trust.identities.callers import Caller
from protos import leader_pb2
from utils.errors import LateUpdateError, NotReadyError, WireError


class WorkDesk:
    """Hands out the work of the exchange that the coordinator has open, and takes answers."""

    def __init__(
        self,
        workforce: Workforce,
        versions: VersionStore,
        inbox: Inbox,
        clock: Clock,
        over: Callable[[], bool],
        stop: Callable[[str], None],
    ) -> None:
        self.exchange: OpenExchange | None = None
        self.opened = Signal()  # new work is open, or the run is over
        #: Whether an order is answered already by what an edge has written down; then it is not pushed.
        self.answered: Callable[[Member, leader_pb2.WorkOrder], bool] = lambda member, order: False
        self._workforce = workforce
        self._versions = versions
        self._inbox = inbox
        self._clock = clock
        self._over = over
        self._stop = stop
        self.trouble = ""  # why all who are here could not do their work; "" as long as one may
        self._failed: set[str] = set()  # names of learners that could not, since the last commit
        self._given_at: dict[str, float] = {}  # clock value at which work was given out, by part
        self._counted: set[str] = set()  # identities of plain learners with an update in the open exchange

    def work_of(self, member: Member) -> list[leader_pb2.WorkOrder]:
        """The open work orders of a learner."""
        return self.exchange.orders.owed_by(member.learner_id) if self.exchange else []

    def owes(self, member: Member, work_id: str) -> bool:
        """Whether this is open work of the learner."""
        return work_id in (order.work_id for order in self.work_of(member))

    def check(self, member: Member, work_id: str) -> None:
        """Raise what the learner's update for `work_id` would be refused with now."""
        if self.exchange is None:
            raise LateUpdateError("no round is open; wait for new work")
        self.exchange.orders.part_of(member.learner_id, work_id)

    def is_open(self, work_id: str) -> bool:
        """Whether an update for `work_id` would be taken now."""
        try:
            return self.exchange is not None and self.exchange.orders.part(work_id) is not None
        except WireError:
            return False

    def knows(self, work_id: str) -> bool:
        """Whether this is work of the open exchange, whatever has become of it."""
        return self.exchange is not None and self.exchange.orders.knows(work_id)

    async def submit(
        self, member: Member, upload: Upload, work_id: str, piece: leader_pb2.Piece | None = None
    ) -> None:
        """Count a complete update, or add a piece of one; raises a WireError if that is refused."""
        await self._inbox.submit(member, upload, work_id, piece)

    def failed(self, member: Member, work_id: str, reason: str) -> None:
        """A learner says that it can't do its work; when all who are here have said so since the last commit, the
        run stops.

        One learner's machine may be broken, and two may lie; work that fails on all is itself at fault: training that
        diverges does so everywhere. At once if one of them has done counted work; anybody can make learners up, so
        else others are waited for (`Rendezvous.enough`). Work that the learner does not owe says nothing.
        """
        if self.exchange is None or not self.owes(member, work_id):
            return
        self._failed.add(member.name)
        seconds = self.seconds_at_work(self.exchange.orders.part(work_id).id)
        self._workforce.failed(member, seconds)
        if self._workforce.others(self._failed):
            return
        self.trouble = f"learner {member.name} failed: {reason}"
        if any(self._workforce.proven(name) for name in self._failed):
            self._stop(self.trouble)

    def outdated(self, member: Member, version: int) -> None:
        """A learner asks for a version that is gone: open work that needs it is to be given out anew."""
        if self.exchange is None:
            return
        for part in self.exchange.machine.pending_of(member.learner_id):
            order = self.exchange.orders.order(part)
            if order.version == version:
                self._inbox.outdated(Outdated(part, order.step))

    async def awaited(self, member: Member, timeout_s: float) -> bool:
        """Wait until the learner has open work, or the run is over; False if `timeout_s` seconds passed first."""
        return await self.opened.wait_until(lambda: self._over() or bool(self.work_of(member)), timeout_s)

    async def plain_work(self, member: Member, timeout_s: float) -> str:
        """The work id that a plain learner's update answers: its open work, awaited if need be."""
        if not await self.awaited(member, timeout_s):
            raise NotReadyError("no round is open for this learner yet; send the gradients again later")
        orders = self.work_of(member)
        if not orders:
            raise LateUpdateError("the run is over")
        return orders[0].work_id

    async def fresh_model(self, caller: Caller, timeout_s: float) -> None:
        """Before a plain learner fetches the model: wait until its last update is applied.

        It can't say which version it wants, and must not get the one that it worked on again, unless it owes another
        update of that.
        """
        served = self._versions.number

        def ready() -> bool:
            owes = any(map(self.work_of, self._workforce.sharing(caller)))
            return self._over() or self._versions.number != served or owes

        if caller.place in self._counted:
            await self.opened.wait_until(ready, timeout_s)

    # --- what the coordinator tells --------------------------------------------------------

    def give(self, learner: int, part: str) -> None:
        """Push the work order of a part to a learner."""
        if self.exchange is None:
            return
        order = self.exchange.orders.give(learner, part)
        if (member := self._workforce.get(learner)) is not None:
            self._given_at[part] = now = self._clock.now()
            member.owes_since = now if member.owes_since is None else member.owes_since
            self._push(member, order)

    def resend_work(self, member: Member) -> None:
        """Push the open work orders again, after the learner's session came back."""
        for order in self.work_of(member):
            self._push(member, order)

    def _push(self, member: Member, order: leader_pb2.WorkOrder) -> None:
        if not self.answered(member, order):
            member.link.work(order)

    def seconds_at_work(self, part: str) -> float:
        """Since the part's work was given out."""
        now = self._clock.now()
        return now - self._given_at.get(part, now)

    def counted(self, member: Member) -> None:
        """The learner's update is in the sum."""
        self._workforce.worked(member)
        self._failed.discard(member.name)
        if member.plain:
            self._counted.add(member.identity)

    def step_made(self) -> None:
        """The open exchange is closed, and a new version is served.

        Not before: a plain learner must not be given the same version again.
        """
        self._counted.clear()

    def committed(self) -> None:
        """A round is committed: somebody can do the work."""
        self._failed.clear()
        self.trouble = ""
