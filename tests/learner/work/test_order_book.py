"""The order book against a plain model of what a learner owes, through random orders of events."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from learner.work.order_book import Fate, OrderBook, part_of
from protos import leader_pb2
from utils.errors import DuplicateUpdateError, LateUpdateError, StalledError


def order(round_: int, step: int = 0, shard: int | None = None, last_round: int = 0) -> leader_pb2.WorkOrder:
    return leader_pb2.WorkOrder(
        work_id=f"{round_}-{step}-{shard}-{last_round}",
        round=round_,
        step=step,
        shard=shard,
        last_round=last_round,
    )


def test_an_order_in_hand_is_not_taken_twice_and_orders_are_done_as_they_came() -> None:
    book = OrderBook()
    for each in (order(1), order(1, shard=3), order(1)):
        assert not book.ordered(each)
    first = book.next()
    assert first == order(1)
    assert not book.ordered(order(1))  # it is under way
    assert book.next() == order(1, shard=3)
    assert book.idle
    book.finished(order(1))
    book.ordered(order(1))
    assert book.next() == order(1)


def test_a_duplicate_is_offered_again_if_its_order_came_again_while_it_was_on_its_way() -> None:
    book = OrderBook()
    book.ordered(order(1))
    book.next()
    book.ordered(order(1))  # before it is sent that means nothing
    book.sending(order(1))
    book.finished(order(1), refused=True)
    assert book.next() is None
    for committed in (0, 1):
        book.ordered(order(1))
        book.next()
        book.sending(order(1))
        book.ordered(order(1))
        book.committed(committed)
        book.finished(order(1), refused=True)
        assert book.next() == (order(1) if not committed else None)
        book.finished(order(1), refused=True)
        assert book.next() is None


def test_what_an_edge_has_counted_is_offered_again_if_its_order_came_again_before_the_answer() -> None:
    for via, then in ((leader_pb2.Via(ticket=b"t"), True), (None, False)):
        book, one = OrderBook(), order(1)
        if via is not None:
            one.via.CopyFrom(via)
        book.ordered(one)
        book.next()
        book.sending(one)
        book.ordered(one)  # the edge is gone, and its answer is still on its way
        book.finished(one)
        assert book.next() == (one if then else None)


def test_an_order_that_came_again_in_training_is_sent_with_its_newest_ticket() -> None:
    old, new = order(1), order(1)
    old.via.ticket, new.via.ticket = b"of a leader that is gone", b"of the one that is there"
    book, late = OrderBook(), LateUpdateError("given to another learner")
    book.ordered(old)
    assert book.next() == book.latest(old) == old
    book.disconnected()
    book.ordered(new)
    assert book.latest(old) == new
    assert book.fate(late, again=book.sending(book.latest(old))) is Fate.REFUSED
    book.sending(old)  # its ticket was looked up before the new one came: it is offered once more
    assert book.fate(late, again=False) is Fate.UNKNOWN
    book.finished(old, refused=True)
    assert book.next() == new


def test_an_update_that_is_refused_as_late_is_kept_if_its_order_came_again_meanwhile() -> None:
    book, late = OrderBook(), LateUpdateError("given to another learner")
    book.ordered(order(1))
    book.next()
    assert book.fate(late, again=book.sending(order(1))) is Fate.REFUSED
    book.ordered(order(1))
    assert book.fate(late, again=False) is Fate.UNKNOWN
    book.finished(order(1), refused=True)
    assert book.next() == order(1)


def test_a_later_order_ends_the_one_under_way_unless_its_update_is_made() -> None:
    book = OrderBook()
    book.ordered(order(2, 1))
    book.next()
    assert [book.ordered(order(2, 1, shard=1)), book.unwanted] == [False, False]
    assert [book.ordered(order(2, 2)), book.unwanted] == [True, True]
    book.finished(order(2, 1))
    book.next()
    book.made()
    assert [book.ordered(order(3)), book.unwanted] == [False, False]


def test_work_of_an_asynchronous_run_outlives_its_round() -> None:
    book = OrderBook()
    book.ordered(order(2, last_round=5))
    book.next()
    assert not book.ordered(order(5, last_round=9))
    assert not book.committed(4)
    book.hold(order(2, last_round=5), "update")
    assert book.held(order(2, last_round=5), str) == "update"
    assert book.committed(5)
    assert book.held(order(2, last_round=5), str) is None


def test_an_update_is_held_for_the_very_order_that_it_answers() -> None:
    book = OrderBook()
    book.hold(order(1), "one")
    assert book.held(order(1), str) == "one"
    assert book.held(order(1), int) is None
    assert book.held(order(1, 1), str) is None
    book.hold(order(1, 1), "two")  # the last of its part
    assert book.held(order(1), str) is None
    book.hold(order(1, shard=0), "other part")
    assert book.held(order(1, 1), str) == "two"
    assert book.newest() == order(1, 1)
    book.let_go("own")
    assert book.held(order(1, 1), str) is None
    assert book.held(order(1, shard=0), str) == "other part"
    book.cleared()
    assert book.held(order(1, shard=0), str) is None
    assert book.newest() is None


def test_what_an_answer_tells_hangs_on_whether_an_earlier_stream_may_have_come() -> None:
    book = OrderBook()
    late, twice = LateUpdateError("closed"), DuplicateUpdateError("counted")
    a, b = order(1), order(2)
    assert not book.sending(a)
    assert book.fate(None, again=False) is Fate.COUNTED
    assert book.fate(twice, again=False) is Fate.COUNTED
    assert book.fate(late, again=False) is Fate.REFUSED
    assert book.sending(a)
    assert book.fate(late, again=True) is Fate.UNKNOWN
    assert book.fate(StalledError("slow"), again=False) is Fate.UNKNOWN
    assert not book.sending(b)
    assert not book.sending(a)


class Learner(RuleBasedStateMachine):
    """A leader that orders, repeats, commits and goes away; a learner that trains, sends and dies half way."""

    def __init__(self) -> None:
        super().__init__()
        self.book = OrderBook()
        self.committed = 0  # rounds on disk at the leader
        self.round = 1  # that is open
        self.queued: list[str] = []
        self.current: leader_pb2.WorkOrder | None = None
        self.cancelled = False
        self.trained: dict[str, int] = {}
        self.kept: dict[str, leader_pb2.WorkOrder] = {}  # by part

    @rule(shard=st.sampled_from([None, 0, 1]), step=st.integers(0, 2))
    def ordered(self, shard: int | None, step: int) -> None:
        new = order(self.round, step, shard)
        known = new.work_id in self.queued or (self.current is not None and new == self.current)
        place = (self.current.round, self.current.step) if self.current is not None else None
        over = not known and place is not None and not self.made and place < (self.round, step)
        assert self.book.ordered(new) is over
        self.cancelled = self.cancelled or over
        if not known:
            self.queued.append(new.work_id)

    made = False

    @precondition(lambda self: self.current is None)
    @rule()
    def next(self) -> None:
        self.current = self.book.next()
        assert (self.current.work_id if self.current else None) == (
            self.queued.pop(0) if self.queued else None
        )
        if self.current is not None:
            self.cancelled = self.made = False

    @precondition(lambda self: self.current is not None and not self.made)
    @rule(dies=st.booleans())
    def answer(self, dies: bool) -> None:
        """Train, unless this very update is held; the connection may go before the order is finished."""
        assert self.current is not None
        part = part_of(self.current)
        held = self.book.held(self.current, str)
        assert (held is not None) is (self.kept.get(part) == self.current)
        if held is None and not self.book.unwanted:
            self.trained[self.current.work_id] = self.trained.get(self.current.work_id, 0) + 1
            self.book.hold(self.current, "update")
            self.kept[part] = self.current
            self.book.made()
            self.made = True
        if not dies:
            self.book.finished(self.current)
            self.current = None

    @precondition(lambda self: self.current is not None)
    @rule()
    def finished(self) -> None:
        assert self.current is not None
        self.book.finished(self.current)
        self.current = None

    @rule()
    def commit(self) -> None:
        self.committed, self.round = self.round, self.round + 1
        ends = self.current is not None and not self.made and self.current.round <= self.committed
        assert self.book.committed(self.committed) is ends
        self.cancelled = self.cancelled or ends
        self.kept = {part: kept for part, kept in self.kept.items() if kept.round > self.committed}
        self.queued.clear()  # all of it is of rounds that were open

    @rule()
    def disconnect(self) -> None:
        self.book.disconnected()
        self.queued.clear()

    @invariant()
    def nothing_is_held_after_its_commit_and_what_is_held_can_be_sent(self) -> None:
        for kept in self.kept.values():
            assert self.book.held(kept, str) == "update"
        newest = self.book.newest()
        assert newest is None or newest.round > self.committed
        assert (newest is None) is (not self.kept)
        assert self.book.idle is (not self.queued)
        assert self.book.unwanted is self.cancelled


Learner.TestCase.settings = settings(max_examples=300, stateful_step_count=40)
TestRandomOrders = Learner.TestCase
