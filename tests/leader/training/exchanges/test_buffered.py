from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import nn

from leader.aggregation.base import Contribution
from leader.aggregation.choose import open_aggregate
from leader.aggregation.exact_sum import Scale
from leader.config import RunConfig
from leader.data.part import Part
from leader.learners.membership import Member, Membership
from leader.rounds.buffer import Buffer, Desk, OpenWork
from leader.rounds.protocol import (
    Accepted,
    Action,
    Applied,
    Begin,
    Deserted,
    Dispatch,
    OpenOrder,
    Outdated,
    RoundPlan,
)
from leader.state import RunState
from leader.storage.checkpoint import load_checkpoint, save_checkpoint
from leader.training.exchanges.buffered import BufferedExchange, BufferedOrders
from leader.training.inbox import Upload
from leader.training.work_orders import WorkPlanner
from leader.trust.identities.callers import anonymous
from model.layout import Layout
from protos import leader_pb2
from tests.leader.training.office import Office
from utils.errors import DuplicateUpdateError, LateUpdateError
from utils.wire.payload import Payload, PayloadReader, encode_header

LAYOUT = Layout.of(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
SPLIT, TOTAL = LAYOUT.parameter_count, LAYOUT.total
PARTS = {part.id: part for part in (Part.of_shard(0, 10, 0), Part.of_shard(1, 30, 0))}
QUICK, SLOW = PARTS
OWN = Part.of_own("c", 20, "ff", 0)
HOLDERS = {QUICK: 1, SLOW: 2, OWN.id: 3}


def config_of(*, size: int = 1, exponent: float = 0.5, weighting: str = "examples") -> RunConfig:
    return RunConfig.model_validate(
        {
            "rounds": 20,
            "train": {"local_steps": 4},
            "buffer": {"size": size, "exponent": exponent, "max_staleness": 5},
            "aggregate": {"weighting": weighting},
        }
    )


def member(learner_id: int) -> Member:
    info = leader_pb2.LearnerInfo(name="a", control=leader_pb2.CONTROL_SESSION)
    member, _ = Membership(max_learners=1, lease_s=1.0).register(info, anonymous("peer"), 0.0)
    return replace(member, learner_id=learner_id)


def payload(value: float) -> Payload:
    reader = PayloadReader(max_bytes=10_000, header_bytes=10_000)
    reader.feed(encode_header((entry.name, "F32", entry.shape) for entry in LAYOUT.entries))
    reader.feed(np.full(TOTAL, value, np.float32).tobytes())
    return reader.finish()


class Run:
    """An asynchronous run without learners or network: what the coordinator does with the exchange."""

    def __init__(
        self, config: RunConfig, state: RunState | None = None, holders: Mapping[str, int] = HOLDERS
    ) -> None:
        self.config = config
        self.holders = holders
        self.state = state or RunState("run", 0, 0, 100, np.zeros(TOTAL, np.float32), {})
        planner = WorkPlanner(config, self.state.secret)
        self.orders = BufferedOrders(planner, self.state, SPLIT, config.buffer.max_staleness)
        orders = {part: OpenOrder(work.round, work.turn) for part, work in self.state.open_work.items()}
        self.desk = Desk(orders, self.state.turns)

    def begin(self, parts: Mapping[str, Part] = PARTS) -> Buffer:
        buffer = self.config.buffer
        plan = RoundPlan(self.state.round + 1, 1, tuple(parts), 1, deadline_s=9.0, target=buffer.size)
        self.machine = Buffer(
            plan,
            self.desk,
            at_work=0,
            max_staleness=buffer.max_staleness,
            pick=lambda idle, count, _: idle[:count],
        )
        self.total = open_aggregate(self.config, LAYOUT, Scale.of(1024.0, 1000), None)
        self.orders.begin(self.state, self.machine, parts)
        self._perform(self.machine.handle(Begin(self.holders), 0.0))
        return self.machine

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Dispatch):
                self.orders.give(action.learner, action.part)

    def contribution(self, upload: Upload, part: str, learner_id: int = 0) -> Contribution:
        sender = member(learner_id or self.holders[part])
        return self.orders.admit(sender, upload, self.orders.order(part).work_id).contribution

    def send(self, part: str, value: float, weight: int) -> None:
        header = leader_pb2.UpdateHeader(examples=weight, loss=0.5)
        turn = self.orders.order(part).step
        self.total.add(self.contribution(Upload(header, payload(value), 1), part))
        self._perform(self.machine.handle(Accepted(part, turn), 0.0))

    def commit(self, vector: NDArray[np.float32] | None = None) -> None:
        self.machine.handle(Applied(), 0.0)
        self.desk = self.machine.desk
        self.state = replace(
            self.state,
            round=self.state.round + 1,
            version=self.state.version + 1,
            vector=self.state.vector if vector is None else vector,
            open_work=self.orders.open_work(),
            turns=self.desk.turns,
        )

    def quick_rounds(self, count: int) -> None:
        """Rounds made of the quick learner's updates alone; the next one is open afterwards."""
        for _ in range(count):
            self.send(QUICK, 1.0, 10)
            self.commit()
            self.begin()


def started(config: RunConfig | None = None, *, learners: int = 2) -> Run:
    run = Run(config or config_of(), holders=HOLDERS if learners == 2 else dict.fromkeys(HOLDERS, 1))
    run.begin()
    return run


def test_an_order_stays_the_same_over_rounds_and_starts_from_its_own_model() -> None:
    run = started()
    first = run.orders.order(SLOW)
    run.quick_rounds(3)
    assert run.orders.order(SLOW) == first
    assert (first.round, first.step, first.version, first.last_round) == (1, 0, 100, 6)
    newest = run.orders.order(QUICK)
    assert (newest.round, newest.step, newest.version, newest.last_round) == (4, 3, 103, 9)
    assert [order.work_id for order in run.orders.owed_by(2)] == [first.work_id]


def test_later_work_on_a_part_goes_on_in_its_batches() -> None:
    run = started(config_of(size=2), learners=1)
    batches: list[int] = []
    for _ in range(3):
        for _ in range(2):
            order = run.orders.order(QUICK)
            batches += range(order.first_batch, order.first_batch + order.local_steps)
            run.send(QUICK, 1.0, 10)
        run.commit()
        run.begin()
    assert batches == list(range(24))


def test_open_work_has_the_same_work_ids_after_a_restart(tmp_path: Path) -> None:
    run = started()
    run.quick_rounds(2)
    path = save_checkpoint(tmp_path, run.state, keep=1, config="{}")
    resumed = Run(run.config, load_checkpoint(path))
    resumed.begin()
    for part in PARTS:
        assert resumed.orders.order(part) == run.orders.order(part)
    work_id = run.orders.order(SLOW).work_id
    assert resumed.orders.part(work_id) == PARTS[SLOW]
    resumed.quick_rounds(1)
    run.quick_rounds(1)
    assert resumed.orders.open_work() == run.orders.open_work()
    assert resumed.orders.order(QUICK) == run.orders.order(QUICK)


def test_a_checkpoint_keeps_open_work_of_a_round_that_was_given_up_and_tried_again() -> None:
    run = started()
    slow = run.orders.order(SLOW).work_id
    run.machine.handle(Deserted(), 0.0)
    with pytest.raises(LateUpdateError, match="round 1 was given up"):
        run.orders.part(slow)
    run.begin()
    assert run.orders.order(SLOW).work_id == slow
    run.quick_rounds(1)
    assert run.state.open_work == {SLOW: OpenWork(1, 0, 100)}
    assert run.state.turns == {QUICK: 1, SLOW: 1}


def test_work_that_nobody_was_told_of_is_from_its_own_round_all_the_same() -> None:
    run = started()
    run.machine.handle(Outdated(SLOW, 0), 0.0)  # the new order's learner has just left
    run.quick_rounds(2)
    order = run.orders.order(SLOW)
    assert (order.round, order.step, order.version) == (1, 1, 100)


def test_an_update_sent_twice_is_told_apart_from_a_late_one() -> None:
    run = started(config_of(size=2), learners=1)
    counted, slow = run.orders.order(QUICK).work_id, run.orders.order(SLOW).work_id
    run.send(QUICK, 1.0, 10)
    with pytest.raises(DuplicateUpdateError, match="is already counted in round 1"):
        run.orders.part(counted)
    run.machine.handle(Outdated(SLOW, 0), 0.0)
    with pytest.raises(LateUpdateError, match="no longer open in round 1"):
        run.orders.part(slow)
    assert run.orders.order(SLOW).step == 1
    with pytest.raises(LateUpdateError, match=r"work of round 1, step 0 is no longer open \(round 1 is\)"):
        run.orders.part(slow)
    run.send(QUICK, 1.0, 10)
    run.commit()
    run.begin()
    with pytest.raises(LateUpdateError, match=r"work of round 1, step 0 is no longer open \(round 2 is\)"):
        run.orders.part(counted)


def test_work_is_answered_only_by_the_learner_that_it_was_given_to_over_rounds_too() -> None:
    run = Run(config_of())
    parts = {**PARTS, OWN.id: OWN}
    run.begin(parts)
    upload = Upload(leader_pb2.UpdateHeader(examples=20), payload(1.0), 1)
    for round_ in (1, 2):
        assert run.contribution(upload, OWN.id).part == "own-c:0"
        for other in (HOLDERS[QUICK], HOLDERS[SLOW]):
            with pytest.raises(LateUpdateError, match="work of round 1, step 0 was given to another learner"):
                run.contribution(upload, OWN.id, other)
        if round_ == 1:
            run.send(QUICK, 1.0, 10)
            run.commit()
            run.begin(parts)


def test_an_update_knows_its_staleness_and_how_far_the_buffers_have_moved_since() -> None:
    run = started()
    upload = Upload(leader_pb2.UpdateHeader(examples=30), payload(1.0), 1)
    fresh = run.contribution(upload, SLOW)
    assert (fresh.part, fresh.staleness, fresh.buffers_shift) == (f"{SLOW}:0", 0, None)
    for round_ in (1, 2):
        run.send(QUICK, 1.0, 10)
        run.commit(np.full(TOTAL, 10.0 * round_, np.float32))
        run.begin()
    stale = run.contribution(upload, SLOW)
    assert stale.staleness == 2
    assert stale.buffers_shift is not None
    assert stale.buffers_shift.tolist() == [0.0 - 20.0] * (TOTAL - SPLIT)
    resumed = Run(run.config, run.state)
    resumed.begin()
    stale = resumed.contribution(upload, SLOW)
    assert (stale.staleness, stale.buffers_shift) == (2, None)  # that model was not kept


@pytest.mark.parametrize(
    ("weighting", "exponent", "mean"),
    [
        ("uniform", 0.5, (1.0 + 6.0 / 2.0) / 2),  # 6 from three rounds ago: (1 + 3) ** -0.5 = 1/2
        ("uniform", 0.0, (1.0 + 6.0) / 2),
        ("uniform", 1.0, (1.0 + 6.0 / 4.0) / 2),
        ("examples", 0.5, (10 * 1.0 + 30 * 6.0 / 2.0) / 40),
    ],
)
def test_a_stale_update_counts_less_and_divides_as_a_fresh_one(
    weighting: str, exponent: float, mean: float
) -> None:
    run = started(config_of(size=2, exponent=exponent, weighting=weighting), learners=1)
    for _ in range(3):
        for _ in range(2):
            run.send(QUICK, 1.0, 10)
        run.commit()
        run.begin()
    run.send(SLOW, 6.0, 30)
    run.send(QUICK, 1.0, 10)
    result = run.total.finish()
    assert result.mean[:SPLIT].tolist() == [mean] * SPLIT
    assert result.examples == 40


def test_one_part_twice_in_a_buffer_counts_twice() -> None:
    run = started(config_of(size=2, weighting="uniform"), learners=1)
    run.send(QUICK, 1.0, 10)
    run.send(QUICK, 4.0, 10)
    assert run.total.finish().mean[:SPLIT].tolist() == [2.5] * SPLIT


def sequence(seed: int, policy: str = "uniform") -> list[str]:
    """Who gets work in a buffer with two at work, where the older work is always done first."""
    office = Office(seed=seed, buffer={"size": 30}, cohort={"size": 2, "policy": policy})
    exchange = BufferedExchange(office.engine, office.state())
    exchange.begin(office.state())
    given = exchange.machine.handle(Begin(dict.fromkeys(exchange.machine.plan.parts, 1)), 0.0)
    assert len(given) == 2
    for number in range(20):
        done = given[number]
        assert isinstance(done, Dispatch)
        (more,) = exchange.machine.handle(Accepted(done.part, done.step), 0.0)
        given.append(more)
    return [action.part for action in given if isinstance(action, Dispatch)]


@pytest.mark.parametrize("policy", ["uniform", "by_examples", "round_robin", "oort", "power_of_choice"])
def test_who_works_next_in_a_buffer_is_drawn_by_the_seed(policy: str) -> None:
    first = sequence(1, policy)
    assert sequence(1, policy) == first
    assert sequence(2, policy) != first
    assert set(first) == {Part.shard_id(number) for number in range(4)}


def test_open_work_of_a_learner_that_came_back_with_other_data_is_given_out_anew() -> None:
    office = Office(own=True, learners=2, buffer={"size": 2})
    open_work = {"own-learner-0": OpenWork(1, 4, 5), "own-learner-1": OpenWork(1, 7, 5)}
    before = replace(office.state(2), open_work=open_work, turns={"own-learner-0": 5})
    exchange = BufferedExchange(office.engine, before)
    exchange.begin(before)
    assert set(exchange.machine.pending) == set(open_work)
    office.join("learner-1", own=35)
    exchange.begin(before)
    assert exchange.machine.pending == ("own-learner-0",)
    exchange.begin(replace(before, round=2))
    assert set(exchange.machine.pending) == set(open_work)
