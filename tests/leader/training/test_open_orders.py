from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from torch import nn

from leader.aggregation.base import Contribution
from leader.config import RunConfig
from leader.data.part import Part
from leader.learners.membership import Member, Membership
from leader.rounds.protocol import Accepted, Applied, Assigned, Begin, RoundPlan
from leader.rounds.round import Round
from leader.training.inbox import Upload
from leader.training.open_orders import Orders
from leader.training.work_orders import WorkPlanner
from leader.trust.identities.callers import anonymous
from model.layout import Layout
from protos import leader_pb2
from utils.errors import DuplicateUpdateError, LateUpdateError, LimitError
from utils.wire.payload import Payload, PayloadReader, encode_header

LAYOUT = Layout.of(nn.Linear(2, 1))
PARTS = (Part.of_shard(0, 10, 0), Part.of_shard(1, 20, 0), Part.of_own("c", 30, "ff", 0))
IDS = tuple(part.id for part in PARTS)


def exchange(steps: int = 2) -> tuple[Orders, Round]:
    round_ = Round(RoundPlan(1, steps, IDS, quorum=2, deadline_s=10.0))
    round_.handle(Begin(dict(zip(IDS, (1, 2, 3), strict=True))), 0.0)
    planner = WorkPlanner(RunConfig(), "run")
    orders = [(part, planner.order(1, 0, steps, part, version=5, first_exchange=0)) for part in PARTS]
    return Orders(round_, "round 1, step 0", orders), round_


def contribution(open_: Orders, name: str, upload: Upload, part: Part) -> Contribution:
    work_id = open_.give(member(name).learner_id, part.id).work_id
    return open_.admit(member(name), upload, work_id).contribution


def payload() -> Payload:
    reader = PayloadReader(max_bytes=1000, header_bytes=1000)
    reader.feed(encode_header((entry.name, "F32", entry.shape) for entry in LAYOUT.entries))
    reader.feed(np.ones(LAYOUT.total, np.float32).tobytes())
    return reader.finish()


def upload(examples: int | None, loss: float = 0.5) -> Upload:
    """From a full learner, or from a plain one where it does not say how many examples it has."""
    header = None if examples is None else leader_pb2.UpdateHeader(examples=examples, loss=loss)
    return Upload(header, payload(), 100)


def member(name: str) -> Member:
    info = leader_pb2.LearnerInfo(name=name, control=leader_pb2.CONTROL_SESSION)
    return Membership(max_learners=1, lease_s=1.0).register(info, anonymous("peer"), 0.0)[0]


def test_a_learner_owes_the_orders_of_its_pending_parts() -> None:
    open_, round_ = exchange()
    assert [order.shard for order in open_.owed_by(2)] == [1]
    assert open_.owed_by(2) == [open_.order("shard-00001")]
    round_.handle(Assigned("shard-00000", 2), 1.0)
    assert [order.shard for order in open_.owed_by(2)] == [0, 1]
    assert open_.owed_by(1) == []
    round_.handle(Accepted("shard-00001", 0), 1.0)
    assert [order.shard for order in open_.owed_by(2)] == [0]


def test_a_work_id_leads_to_its_part_as_long_as_it_is_open() -> None:
    open_, round_ = exchange()
    ids = [open_.order(part.id).work_id for part in PARTS]
    assert [open_.part(work_id) for work_id in ids] == list(PARTS)
    with pytest.raises(LateUpdateError, match=r"^work is no longer open \(round 1, step 0 is\); wait"):
        open_.part("0" * 32)
    past = f"4-2-{'0' * 32}"
    with pytest.raises(
        LateUpdateError, match=r"^work of round 4, step 2 is no longer open \(round 1, step 0 is"
    ):
        open_.part(past)
    round_.handle(Accepted(IDS[0], 0), 1.0)
    with pytest.raises(DuplicateUpdateError, match="shard-00000 is already counted"):
        open_.part(ids[0])
    for part in IDS[1:]:
        round_.handle(Accepted(part, 0), 1.0)
    with pytest.raises(DuplicateUpdateError):
        open_.part(ids[1])
    round_.handle(Applied(), 1.0)
    with pytest.raises(LateUpdateError, match="round 1, step 0, but round 1, step 1 is open"):
        open_.part(ids[1])


def test_a_full_learner_says_its_weight_and_loss_and_a_plain_one_stands_for_its_whole_part() -> None:
    open_, _ = exchange()
    full = contribution(open_, "a", upload(7), PARTS[0])
    assert (full.part, full.weight, full.loss) == ("shard-00000", 7, 0.5)
    plain = contribution(open_, "a", upload(None), PARTS[0])
    assert plain.weight == 10
    assert math.isnan(plain.loss)


@pytest.mark.parametrize(("said", "taken"), [(1e38, 1e38), (1e308, math.inf), (-1e39, -math.inf)])
def test_a_loss_that_no_float32_holds_is_infinite(said: float, taken: float) -> None:
    assert contribution(exchange()[0], "a", upload(7, said), PARTS[0]).loss == taken
    assert math.isnan(contribution(exchange()[0], "a", upload(7, math.nan), PARTS[0]).loss)


def test_a_contribution_tells_its_local_steps_and_the_loss_that_it_started_from() -> None:
    open_, _ = exchange()
    header = leader_pb2.UpdateHeader(examples=7, loss=0.5, start_loss=0.0)
    said = contribution(open_, "a", Upload(header, payload(), 100), PARTS[0])
    assert (said.local_steps, said.start_loss, said.staleness) == (1, 0.0, 0)
    assert math.isnan(contribution(open_, "a", upload(7), PARTS[0]).start_loss)
    assert math.isnan(contribution(open_, "a", upload(None), PARTS[0]).start_loss)


@pytest.mark.parametrize("examples", [0, 11, (1 << 64) - 1])
def test_nobody_weighs_more_than_its_part_has_examples(examples: int) -> None:
    open_, _ = exchange()
    with pytest.raises(LimitError, match=f"update claims {examples} examples, its part has 10"):
        contribution(open_, "a", upload(examples), PARTS[0])
    assert contribution(open_, "a", upload(10), PARTS[0]).weight == 10


def test_an_order_is_answered_only_by_learners_that_it_was_given_to() -> None:
    open_, round_ = exchange()
    me, other = member("a"), replace(member("b"), learner_id=2)
    for part in PARTS:
        work_id = open_.give(other.learner_id, part.id).work_id
        with pytest.raises(LateUpdateError, match="was given to another learner; wait for work of your own"):
            open_.admit(me, upload(10), work_id)
        assert open_.admit(other, upload(10), work_id).part == part
    work_id = open_.give(me.learner_id, PARTS[1].id).work_id
    assert open_.part_of(other.learner_id, work_id) == PARTS[1]  # it held it, and may have the update made
    round_.handle(Accepted(PARTS[1].id, 0), 1.0)
    for learner in (me, other):
        with pytest.raises(DuplicateUpdateError):
            open_.part_of(learner.learner_id, work_id)
