from __future__ import annotations

import math

import numpy as np
import pytest

from leader.aggregation.base import Contribution, Result
from leader.data.part import Part
from leader.state import PartHistory
from leader.training.round_metrics import Tally, Traffic
from protos import leader_pb2
from utils.wire.payload import PayloadReader, encode_header

PARTS = tuple(Part.of_shard(shard, 10, 0) for shard in range(3))


def contribution(loss: float) -> Contribution:
    reader = PayloadReader(max_bytes=1000, header_bytes=1000)
    reader.feed(encode_header([("w", "F32", (1,))]) + bytes(4))
    return Contribution("any", 10, reader.finish(), loss)


def result(examples: int, loss: float) -> Result:
    return Result(np.zeros(1, np.float32), examples, loss, "")


def test_a_round_tells_what_its_updates_and_steps_came_to() -> None:
    traffic = Traffic(100, 200)
    tally = Tally(5.0, traffic)
    traffic.up, traffic.down = 107, 230
    for learner, part in ((1, PARTS[0]), (2, PARTS[1]), (1, PARTS[0])):
        tally.counted(learner, part, contribution(1.0), (), 0.5)
    tally.applied(0, result(30, 4.0), [part.id for part in PARTS[:2]])
    tally.applied(1, result(10, 8.0), [])
    tally.applied(2, result(10, math.nan), [])
    committed = tally.committed(3, 0.25, 7.5, traffic)
    assert (committed.round, committed.lr, committed.seconds) == (3, 0.25, 2.5)
    assert (committed.bytes_up, committed.bytes_down) == (7, 30)
    assert (committed.learners, committed.examples) == (2, 50)
    assert committed.loss == pytest.approx((30 * 4.0 + 10 * 8.0) / 40)


def test_traffic_before_the_round_is_not_its_own() -> None:
    traffic = Traffic(1, 2)
    tally = Tally(0.0, traffic)
    assert tally.committed(1, 0.1, 0.0, traffic).bytes_up == 0
    traffic.up += 3
    assert tally.committed(1, 0.1, 0.0, traffic).bytes_up == 3


def test_what_an_exchange_that_begins_anew_has_lost_is_no_more_of_the_round() -> None:
    tally = Tally(0.0, Traffic(0, 0))
    tally.counted(1, PARTS[0], contribution(3.0), (), 9.0)
    tally.applied(0, result(10, 3.0), [PARTS[0].id])
    for learner, part in ((1, PARTS[0]), (2, PARTS[1]), (3, PARTS[2])):
        tally.counted(learner, part, contribution(2.0), (), 1.0)
    tally.reopened((PARTS[1].id,))
    tally.counted(4, PARTS[2], contribution(1.0), (), 2.0)
    tally.applied(1, result(20, 2.0), [part.id for part in PARTS])
    assert tally.committed(6, 0.1, 0.0, Traffic(0, 0)).learners == 3
    history = tally.history({}, 6, present={part.id for part in PARTS}, absent=0)
    assert {part: told.loss for part, told in history.items()} == {
        PARTS[0].id: 3.0,
        PARTS[1].id: 2.0,
        PARTS[2].id: 1.0,
    }


def test_the_history_has_the_last_update_of_each_part() -> None:
    tally = Tally(0.0, Traffic(0, 0))
    tally.counted(1, PARTS[0], contribution(3.0), (), 9.0)
    tally.counted(1, PARTS[0], contribution(2.0), (), 1.0)
    tally.applied(0, result(10, 2.0), [PARTS[0].id])
    past = {PARTS[0].id: PartHistory(4, 1, 5.0, 1.0), PARTS[1].id: PartHistory(1, 1, 7.0, 2.0)}
    history = tally.history(past, 6, present={part.id for part in PARTS}, absent=0)
    assert history == {PARTS[0].id: PartHistory(5, 6, 2.0, 1.0), PARTS[1].id: past[PARTS[1].id]}


def test_an_update_in_a_sum_that_came_to_nothing_has_not_counted() -> None:
    """As where nobody takes the masks off, or an edge is lost with it, and the round goes on without its learner."""
    tally = Tally(0.0, traffic := Traffic(0, 0))
    for learner in (0, 1, 2, 0, 1):
        tally.counted(learner, PARTS[learner], contribution(2.0), (), 1.0)
    tally.applied(0, result(20, 2.0), [PARTS[0].id, PARTS[1].id])
    history = tally.history({PARTS[2].id: (past := PartHistory(4, 1, 5.0, 1.0))}, 6, present=(), absent=9)
    assert {part: one.last_round for part, one in history.items()} == {
        PARTS[0].id: 6, PARTS[1].id: 6, PARTS[2].id: 1
    }  # fmt: skip
    assert history[PARTS[2].id] == past
    assert tally.committed(6, 0.1, 0.0, traffic).learners == 2


def test_scores_of_learners_that_sent_some_are_spread() -> None:
    tally = Tally(0.0, Traffic(0, 0))
    for part, value in zip(PARTS, (0.5, 1.0, 0.0), strict=True):
        metrics = (leader_pb2.Metric(name="accuracy", value=value, examples=2),) if value else ()
        tally.counted(1, part, contribution(1.0), metrics, 1.0)
    spread = tally.scores()["accuracy"]
    assert (spread["learners"], spread["mean"], spread["min"]) == (2, 0.75, 0.5)
