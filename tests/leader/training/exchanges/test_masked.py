"""Masked exchanges: what learners are told of sums that they were in, and who gets work."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace

import numpy as np
import pytest

from leader.aggregation.base import Contribution
from leader.rounds.protocol import Accepted, Applied, Assigned, Begin, Dispatch, RoundEvent, Unmasked
from leader.secagg.pending import Place
from leader.state import PartHistory
from leader.training.exchanges.masked import MaskedExchange, Masking
from leader.training.exchanges.masked_buffered import MaskedBufferedExchange
from tests.leader.training.office import LAYOUT, Office


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_each_order_says_which_rounds_sum_its_part_was_last_in(bits: int) -> None:
    """Whatever is remembered with an update, such as SCAFFOLD's variates, holds only if that was in its round's sum."""

    async def told() -> list[int]:
        office = Office(own=True, exchange="delta", secagg={"mode": "masked", "bits": bits})
        opening = office.open(5)
        newest, *others = sorted(opening.parts)
        history = {newest: PartHistory(3, 4, 1.0, 1.0), others[0]: PartHistory(2, 2, 1.0, 1.0)}
        state = replace(office.state(5), history=history)
        exchange = MaskedExchange(office.engine, state, opening, Masking(office.engine))
        orders = [exchange.orders.order(part) for part in (newest, *others)]
        assert all(order.HasField("counted_round") for order in orders)
        return [order.counted_round for order in orders]

    assert asyncio.run(told()) == [4, 2, 0, 0]


def test_whoever_was_left_out_of_a_group_works_again_when_that_is_given_up() -> None:
    """Of four, one sent no keys in time, and another leaves before its update came: three are enough."""

    async def given_out() -> list[list[str]]:
        buffer = {"size": 4, "group": 4}
        office = Office(own=True, exchange="delta", secagg={"mode": "masked"}, buffer=buffer)
        told: list[bool] = []
        exchange, masking = MaskedBufferedExchange(office.engine, office.state()), Masking(office.engine)
        exchange.begin(office.state())
        masking.open_now = exchange
        office.workforce.subscribe(lambda: told.append(True))
        machine = exchange.machine
        members = {member.name: member for member in office.workforce}

        def happens(*events: RoundEvent) -> list[str]:
            does = [
                one for event in events for one in machine.handle(event, 1.0) if isinstance(one, Dispatch)
            ]
            for one in does:
                exchange.orders.give(one.learner, one.part)
            return [one.part for one in does]

        def looked() -> list[str]:
            """As the coordinator does when learners have changed."""
            holders = exchange.holders()
            return happens(*(Assigned(part, holders.get(part)) for part in machine.plan.parts))

        first = happens(Begin(exchange.holders()))
        [group] = exchange._open.values()
        group.ready = frozenset(sorted(members)[:3])
        waiting = looked()
        office.workforce.leave(members[sorted(members)[2]], "it leaves")
        told.clear()
        again = looked()
        await asyncio.sleep(0)
        return [first, waiting, again, looked() if told else []]

    found = asyncio.run(given_out())
    assert [len(parts) for parts in found] == [4, 0, 0, 3]


@pytest.mark.parametrize("resumed", [False, True])
def test_a_sum_has_room_though_its_largest_learner_has_left_before_its_round_begins(resumed: bool) -> None:
    async def counted() -> int:
        buffer = {"size": 5, "group": 5}
        office = Office(own=True, learners=9, exchange="delta", secagg={"mode": "masked"}, buffer=buffer)
        office.join("large", own=100_000)
        office.workforce.deal()
        exchange = MaskedBufferedExchange(office.engine, office.state())
        exchange.begin(office.state())
        machine, [large] = exchange.machine, [m for m in office.workforce if m.name == "large"]
        for one in machine.handle(Begin(exchange.holders()), 0.0):
            assert isinstance(one, Dispatch)
            exchange.orders.give(one.learner, one.part)
        part = next(part for part, id_ in exchange.holders().items() if id_ == large.learner_id)
        its = machine.orders[part].key
        others = [one for one, order in machine.orders.items() if order.key != its]
        machine.handle(Accepted(part, 0), 0.0)
        office.workforce.leave(large, "it leaves")
        machine.handle(Unmasked(machine.orders[others[0]].key, tuple(others)), 1.0)
        machine.handle(Applied(), 1.0)
        exchange.end()
        if resumed:  # and who is in the sum is on disk
            place, kept = Place(buffer=2, turns=dict.fromkeys(exchange._members(its), 0)), exchange._open[its]
            exchange = MaskedBufferedExchange(office.engine, office.state(2))
            exchange._decided[its] = kept, place
        exchange.begin(office.state(2))
        mean = np.zeros(LAYOUT.total, np.float32)
        sum_ = Contribution("1-1", 100_100, exchange._payload(mean), math.nan, updates=5)
        await office.engine.fold(exchange.aggregate, exchange.orders.aged(sum_, 1))
        return exchange.aggregate.finish().examples

    assert asyncio.run(counted()) == 100_100
