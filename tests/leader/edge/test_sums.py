"""What an edge has added, through every order of updates, verdicts and closes: each that counts is given once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from leader.aggregation.aggregate import Aggregate
from leader.aggregation.base import Contribution, Elsewhere, Mergeable
from leader.aggregation.exact_sum import Scale
from leader.aggregation.weighting import FedNova
from leader.edge.sums import EdgeSum
from model.layout import Entry, Layout
from utils.errors import LimitError, NotReadyError, PayloadError, ValueRangeError
from utils.wire.payload import Manifest, Payload, encode_header, parse_header

LAYOUT = Layout((Entry("w", (3,), 0, 3),), (Entry("b", (2,), 3, 2),), frozenset())
SCALE = Scale.of(1024.0, 1000)
MANIFEST = parse_header(encode_header((entry.name, "F32", entry.shape) for entry in LAYOUT.entries))


def empty() -> Aggregate:
    return Aggregate(LAYOUT, SCALE, FedNova(0.9))


def uid(number: int) -> bytes:
    return number.to_bytes(16)


def update(number: int, factor: float = 1.0, weight: int = 0) -> Contribution:
    values = np.random.default_rng(number).normal(size=5).astype(np.float32) * np.float32(factor)
    elsewhere = Elsewhere(uid(number), 0.0, buffers=True)
    payload = Payload(MANIFEST, values.view(np.uint8), number)
    part = uid(number).hex()
    return Contribution(part, weight or 1 + number % 5, payload, 0.5, 1 + number % 3, elsewhere=elsewhere)


def receipt(number: int) -> Contribution:
    one = update(number)
    return Contribution(
        one.part,
        one.weight,
        Payload(Manifest((), {}, 0, 0), np.empty(0, np.uint8), number),
        one.loss,
        one.local_steps,
        elsewhere=one.elsewhere,
    )


Summed = tuple[tuple[int, ...], NDArray[np.uint8]]


def told(total: Mergeable | EdgeSum) -> Summed:
    weights, arrays = total.summed()
    return weights, np.concatenate([np.ascontiguousarray(array).view(np.uint8) for array in arrays])


def sum_of(numbers: set[int]) -> Summed:
    total = empty()
    for number in numbers:
        total.add(update(number))
    return told(total)


def assert_sum_of(total: EdgeSum, numbers: set[int]) -> None:
    (weights, data), (awaited, expected) = told(total), sum_of(numbers)
    assert weights == awaited
    assert data.tobytes() == expected.tobytes()


def asked(*numbers: int) -> frozenset[bytes]:
    return frozenset(map(uid, numbers))


class World:
    """An edge with updates of its own and of an edge below, its parent, and what is on the way between them."""

    def __init__(self) -> None:
        self.edge = EdgeSum(empty)
        self.down: deque[Callable[[], None]] = deque()  # on its way to the edge
        self.answers: deque[int] = deque()  # attempts that the parent has taken, on their way to the edge
        self.added = 0
        self.below: set[int] = set()  # that the edge below has
        self.unjudged: set[int] = set()
        self.counted: set[int] = set()  # at the parent, and not given
        self.lost: set[int] = set()
        self.given: list[int] = []
        self.attempt = 0
        self.awaited: set[int] | None = None  # what the parent waits for
        self.closing = False  # whether the edge has heard that

    def actions(self) -> list[Callable[[], None]]:
        """What can happen next."""
        found: list[Callable[[], None]] = [self.add, self.add_below]
        if self.unjudged:
            found += [self.count, self.refuse]
        if self.counted and self.awaited is None:
            found.append(self.close)
        if self.down:
            found += [self.deliver, self.deliver]
        if self.closing:
            found += [self.give, self.give, self.lose]
        if self.answers:
            found.append(self.answer)
        return found

    def add(self) -> None:
        self.added += 1
        self.edge.add(lambda number=self.added: update(number))  # type: ignore[misc]
        self.unjudged.add(self.added)

    def add_below(self) -> None:
        self.added += 1
        self.below.add(self.added)
        self.unjudged.add(self.added)

    def count(self) -> None:
        one = self.unjudged.pop()
        self.counted.add(one)
        self.down.append(lambda: self.edge.counts(uid(one)))

    def refuse(self) -> None:
        one = self.unjudged.pop()
        self.below.discard(one)
        self.down.append(lambda: self.edge.refused(uid(one)))

    def close(self) -> None:
        self.attempt += 1
        self.awaited = set(self.counted)
        number, uids = self.attempt, asked(*self.counted)

        def heard() -> None:
            self.edge.close(number, uids)
            self.closing = number == self.attempt and self.awaited is not None

        self.down.append(heard)

    def deliver(self) -> None:
        self.down.popleft()()

    def give(self) -> None:
        """The edge has what is below given to it, and gives the whole to the parent."""
        assert self.awaited is not None
        lacking = self.edge.lacks(asked(*self.awaited))
        below = self.awaited & self.below
        assert lacking == asked(*below)
        if below:
            self.edge.merge([receipt(number) for number in below], *sum_of(below))
            self.below -= below
        assert_sum_of(self.edge, self.awaited)
        self.given += self.awaited
        self.counted -= self.awaited
        self.answers.append(self.attempt)
        self.awaited, self.closing = None, False

    def lose(self) -> None:
        """The edge below is gone, which the parent hears."""
        lost, self.below = self.below, set()
        self.lost |= lost
        self.unjudged -= lost
        self.counted -= lost
        if self.awaited is not None and self.awaited & lost:
            self.awaited, self.closing = None, False

    def answer(self) -> None:
        self.edge.given(self.answers.popleft())

    def end(self) -> None:
        """All that is on its way comes."""
        while self.unjudged:
            self.count()
        while self.down or self.counted or self.answers:
            if self.down:
                self.deliver()
            elif self.closing:
                self.give()
            elif self.awaited is None and self.counted:
                self.close()
            elif self.answers:
                self.answer()


@given(st.lists(st.integers(0, 2**16), max_size=60))
def test_whatever_the_order_each_update_that_counts_is_given_once(choices: list[int]) -> None:
    world, counted = World(), set()
    for choice in choices:
        possible = world.actions()
        possible[choice % len(possible)]()
        counted |= world.counted
    world.end()
    assert len(world.given) == len(set(world.given))
    assert counted - world.lost <= set(world.given)
    assert_sum_of(world.edge, set())


def test_what_is_refused_leaves_the_sum_to_the_last_bit() -> None:
    edge = EdgeSum(empty)
    for number in (1, 2, 3):
        edge.add(lambda number=number: update(number))  # type: ignore[misc]
    edge.refused(uid(2))
    edge.counts(uid(1))
    edge.counts(uid(3))
    assert_sum_of(edge, {1, 3})


def test_an_update_that_is_refused_here_changes_nothing() -> None:
    edge = EdgeSum(empty)
    edge.add(lambda: update(1))
    for close in (False, True):
        if close:
            edge.close(1, asked(1))
        with pytest.raises(ValueRangeError):
            edge.add(lambda: update(2, factor=1e6))
        with pytest.raises(LimitError):
            edge.add(lambda: update(2, weight=2000))
        assert_sum_of(edge, {1})
    edge.counts(uid(2))
    edge.given(1)
    assert_sum_of(edge, set())


def test_one_that_waits_is_counted_where_it_is_asked_for_and_left_out_where_it_is_not() -> None:
    edge = EdgeSum(empty)
    edge.add(lambda: update(1))
    edge.add(lambda: update(2))
    edge.close(1, asked(1))
    assert edge.lacks(asked(1)) == frozenset()
    assert_sum_of(edge, {1})
    edge.counts(uid(2))
    assert_sum_of(edge, {1})
    edge.given(1)
    assert_sum_of(edge, {2})


def test_what_comes_during_a_close_is_in_the_sum_after_it() -> None:
    edge = EdgeSum(empty)
    edge.add(lambda: update(1))
    edge.close(1, asked(1))
    edge.add(lambda: update(2))
    edge.add(lambda: update(3))
    edge.counts(uid(2))
    assert_sum_of(edge, {1})
    edge.given(1)
    assert_sum_of(edge, {2})
    edge.counts(uid(3))
    assert_sum_of(edge, {2, 3})


def test_a_sum_that_was_not_given_is_asked_for_again_with_what_came_since() -> None:
    edge = EdgeSum(empty)
    edge.add(lambda: update(1))
    edge.close(1, asked(1, 9))
    assert edge.lacks(asked(1, 9)) == asked(9)
    edge.add(lambda: update(2))
    edge.close(2, asked(1, 2))
    assert edge.lacks(asked(1, 2)) == frozenset()
    assert_sum_of(edge, {1, 2})
    edge.given(1)  # of an attempt that is over
    assert_sum_of(edge, {1, 2})


def test_whoever_asks_for_others_has_taken_what_was_asked_for_before() -> None:
    edge = EdgeSum(empty)
    edge.add(lambda: update(1))
    edge.close(1, asked(1))
    edge.add(lambda: update(2))
    edge.close(2, asked(2))
    assert_sum_of(edge, {2})
    edge.given(1)
    assert_sum_of(edge, {2})


def test_a_parent_that_forgets_what_it_has_counted_is_not_believed() -> None:
    edge = EdgeSum(empty)
    edge.add(lambda: update(1))
    edge.counts(uid(1))
    with pytest.raises(PayloadError, match="leaves out updates that it has counted"):
        edge.close(1, asked(2))


def test_a_sum_from_below_that_cant_be_over_these_is_refused_and_changes_nothing() -> None:
    edge = EdgeSum(empty)
    edge.add(lambda: update(1))
    edge.close(1, asked(1, 2, 3))
    with pytest.raises(PayloadError, match="weights"):
        edge.merge([receipt(2), receipt(3)], *sum_of({2}))
    assert_sum_of(edge, {1})
    assert edge.lacks(asked(1, 2, 3)) == asked(2, 3)
    edge.merge([receipt(2), receipt(3)], *sum_of({2, 3}))
    assert_sum_of(edge, {1, 2, 3})


def test_copies_that_wait_for_their_verdict_send_others_elsewhere_until_they_are_out_again() -> None:
    total, most = EdgeSum(empty), SCALE.max_weight
    for copy in (1, 2):
        total.add(lambda copy=copy: update(copy, weight=most // 2))  # type: ignore[misc]
    with pytest.raises(NotReadyError, match="no room beside updates that wait to be judged"):
        total.add(lambda: update(3))
    total.refused(uid(2))
    total.add(lambda: update(3))
    for number in (1, 3):
        total.counts(uid(number))
    with pytest.raises(LimitError):  # nothing waits that could make room
        total.add(lambda: update(4, weight=most))
    total.close(1, frozenset({uid(1), uid(3)}))
    assert told(total)[0][0] == most // 2 + update(3).weight
