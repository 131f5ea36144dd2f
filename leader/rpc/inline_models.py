"""Small models go with the work orders that need them: their learners need not fetch them, which would cost more."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from leader.global_model.versions import VersionStore
from leader.learners.membership import Member
from leader.training.round_metrics import Traffic
from protos import leader_pb2
from utils.errors import WireError

Send = Callable[[leader_pb2.LeaderMessage], Awaitable[None]]


class InlineModels:
    """Puts models into the messages of sessions, `most` at once; without one, a learner fetches what it needs.

    So nobody waits here for those who read slowly, and the line for downloads is not theirs to block.
    """

    def __init__(
        self, versions: VersionStore, traffic: Traffic, most: int, at_chunk: Callable[[], None] = lambda: None
    ) -> None:
        """`at_chunk` is called after each model."""
        self._versions = versions
        self._traffic = traffic
        self._most = most
        self._at_chunk = at_chunk
        self._under_way = 0

    def beside(self, member: Member, send: Send) -> Send:
        """`send`, for one session of a learner: its orders bring the models that it can take, each once."""
        newest: int | None = None  # version that went last

        async def send_with_model(message: leader_pb2.LeaderMessage) -> None:
            nonlocal newest
            order = message.work
            wanted = message.HasField("work") and order.version != newest
            if not wanted or not (file := self._file(member, order)):
                await send(message)
                return
            newest = order.version
            self._under_way += 1
            try:
                # Not before it is sent: in the queues of learners that don't read, copies would add up.
                await send(leader_pb2.LeaderMessage(work=order, model=file))
            finally:
                self._under_way -= 1
            self._traffic.sent(len(file))
            self._at_chunk()

        return send_with_model

    def _file(self, member: Member, order: leader_pb2.WorkOrder) -> bytes:
        """The model of an order; nothing where the learner had better fetch it, or be told why it can't."""
        if self._under_way >= self._most or order.HasField("via"):
            return b""
        try:
            self._traffic.down_quota.check(member.identity)
            file = self._versions.get(order.version).inline
        except WireError:
            return b""
        return file if len(file) <= member.inline_bytes else b""
