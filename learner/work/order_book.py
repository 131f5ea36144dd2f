"""The order book: what a learner owes, holds and sends again. Events in, decisions out; no I/O, no clock, no tensors.

An order is queued, then under way, then over. The update that it comes to is held, as the last of its part, until
the commit of its round: when the order comes again after a reconnect or a leader's restart, that is sent, and
nothing is trained twice.

    --ordered--> queued --next--> under way --made--> under way, its update held --finished--> held
    queued --disconnected--> forgotten: it will come again     queued or held --commit of its round, refused--> let go
    under way --a later order, the commit of its round--> unwanted, for whoever trains it to stop
"""

from __future__ import annotations

from collections import deque
from enum import Enum, auto
from typing import TypeVar

from protos import leader_pb2
from utils.errors import DuplicateUpdateError, LateUpdateError, WireError

T = TypeVar("T")


class Fate(Enum):
    """What has become of an update that was sent."""

    COUNTED = auto()
    REFUSED = auto()  # its round has closed without it
    UNKNOWN = auto()  # an earlier stream of it may have come in time, though this one did not


class OrderBook:
    """The orders of one learner, and the last update of each part."""

    def __init__(self) -> None:
        self._queue: deque[leader_pb2.WorkOrder] = deque()
        #: Of work that is queued or under way: each order as it came last, by id of the work.
        self._wanted: dict[str, leader_pb2.WorkOrder] = {}
        self._current: leader_pb2.WorkOrder | None = None
        self._held: dict[str, tuple[leader_pb2.WorkOrder, object]] = {}  # by part
        self._last_sent = ""  # work id
        self._repeated: leader_pb2.WorkOrder | None = None  # came again while its update was on its way
        self.unwanted = False  # the order under way was cancelled, perhaps before its training began

    @property
    def idle(self) -> bool:
        """Whether no order is queued."""
        return not self._queue

    def ordered(self, order: leader_pb2.WorkOrder) -> bool:
        """An order came, perhaps once more; whether it tells that the one under way is no longer wanted."""
        known = order.work_id in self._wanted
        self._wanted[order.work_id] = order
        if known:
            if order.work_id == self._last_sent:
                self._repeated = order
            return False
        self._queue.append(order)
        return self._cancelled(self._current is not None and _is_over(self._current, order))

    def next(self) -> leader_pb2.WorkOrder | None:
        """The oldest order that is queued, which is under way from now on."""
        if not self._queue:
            return None
        self._current, self.unwanted = self._queue.popleft(), False
        return self._current

    def latest(self, order: leader_pb2.WorkOrder) -> leader_pb2.WorkOrder:
        """An order under way as it came last: its ticket is one of the leader that is there now."""
        return self._wanted.get(order.work_id, order)

    def made(self) -> None:
        """The update of the order under way is made: nothing is left to cancel."""
        self._current = None

    def finished(self, order: leader_pb2.WorkOrder, *, refused: bool = False) -> None:
        """The order that was under way is over, whatever came of it.

        If the order came again meanwhile, what an edge has counted may be lost with it, or, where the update was
        `refused`, its ticket be one of a leader that is gone: the update is offered once more.
        """
        self._current = None
        self._wanted.pop(order.work_id, None)
        repeated, self._repeated = self._repeated, None
        if repeated is None or repeated.work_id != order.work_id:
            return
        if refused or order.HasField("via"):
            self._wanted[order.work_id] = repeated
            self._queue.append(repeated)

    def hold(self, order: leader_pb2.WorkOrder, update: object) -> None:
        """Keep the update of an order, in place of its part's last one."""
        self._held[part_of(order)] = (order, update)

    def let_go(self, part: str) -> None:
        """The update of a part is void: should its order come again, it is to be made again."""
        self._held.pop(part, None)

    def held(self, order: leader_pb2.WorkOrder, kind: type[T]) -> T | None:
        """The update of this very order, if it is kept, as one of `kind`."""
        kept, update = self._held.get(part_of(order), (None, None))
        return (
            update
            if kept is not None and kept.work_id == order.work_id and isinstance(update, kind)
            else None
        )

    def newest(self) -> leader_pb2.WorkOrder | None:
        """Of the orders whose updates are held, the one of the newest exchange."""
        orders = (order for order, _ in self._held.values())
        return max(orders, key=lambda order: (order.round, order.step), default=None)

    def sending(self, order: leader_pb2.WorkOrder) -> bool:
        """An order's update goes out; whether it is the one that went out last: an earlier stream may have come."""
        again, self._last_sent = self._last_sent == order.work_id, order.work_id
        latest = self.latest(order)
        self._repeated = latest if latest != order else None  # it came again since its ticket was looked up
        return again

    def fate(self, refusal: WireError | None, *, again: bool) -> Fate:
        """What an answer tells of the update; `again` is what `sending` said of its first stream."""
        if refusal is None or isinstance(
            refusal, DuplicateUpdateError
        ):  # the answer to an earlier one was lost
            return Fate.COUNTED
        final = isinstance(refusal, LateUpdateError) and not again and self._repeated is None
        return Fate.REFUSED if final else Fate.UNKNOWN

    def committed(self, round_: int) -> bool:
        """All rounds up to this one are on disk; whether that ends the order under way."""
        self._held = {part: kept for part, kept in self._held.items() if last_round(kept[0]) > round_}
        over = {order.work_id for order in self._queue if last_round(order) <= round_}
        self._queue = deque(order for order in self._queue if order.work_id not in over)
        for work_id in over:
            self._wanted.pop(work_id, None)
        if self._repeated is not None and last_round(self._repeated) <= round_:
            self._repeated = None
        return self._cancelled(self._current is not None and last_round(self._current) <= round_)

    def closed(self) -> bool:
        """The learner ends; what is under way, if anything is, is not wanted."""
        return self._cancelled(True)

    def disconnected(self) -> None:
        """The session is gone: orders that were not begun will come again."""
        for order in self._queue:
            self._wanted.pop(order.work_id, None)
        self._queue.clear()

    def cleared(self) -> None:
        """Another run begins: what is held belongs to the last one."""
        self._held.clear()

    def _cancelled(self, now: bool) -> bool:
        self.unwanted = self.unwanted or now
        return now


def part_of(order: leader_pb2.WorkOrder) -> str:
    """The part of the work that an order is for, as the learner calls it."""
    return f"shard-{order.shard:05d}" if order.HasField("shard") else "own"


def last_round(order: leader_pb2.WorkOrder) -> int:
    """The round whose commit ends the order."""
    return order.last_round or order.round


def _is_over(current: leader_pb2.WorkOrder, newer: leader_pb2.WorkOrder) -> bool:
    """Whether an order that comes now tells that the one under way is no longer wanted."""
    if current.last_round:
        return current.last_round < newer.round
    return (current.round, current.step) < (newer.round, newer.step)
