"""What a leader finds of the sum that was open: the newest alone, if its round goes on, and each update once."""

from __future__ import annotations

import time

import pytest

from leader.distributed.ticket import LIFE_S, seal
from leader.update_log.grid import Grid
from leader.update_log.recall import Recall
from leader.update_log.run_log import RunLog
from protos import edge_pb2, leader_pb2, log_pb2
from tests.leader.update_log.logs import plan_of
from tests.tools.kafka import MemoryLog
from utils.errors import NotReadyError

KEY = b"k" * 32
GRID = Grid(8, 10, 2)
OPENED = edge_pb2.Open(round=3, step=0)


def receipt(
    work_id: str, uid: bytes, *, round_: int = 3, key: bytes = KEY, told: str = ""
) -> edge_pb2.Receipt:
    ticket = edge_pb2.Ticket(run_id="r", work_id=work_id, round=round_, until=int(time.time()) + LIFE_S)
    header = leader_pb2.UpdateHeader(work_id=told or work_id)
    return edge_pb2.Receipt(uid=uid, ticket=seal(key, ticket), header=header)


class Left:
    """What edges have noted before the leader ended."""

    def __init__(self) -> None:
        self.memory = MemoryLog()
        self.log = RunLog(self.memory, "u", "r", KEY)

    def note(self, number: int, *receipts: edge_pb2.Receipt, grid: Grid = GRID) -> None:
        self.log.note(log_pb2.LogReceipt(plan=plan_of(grid, number)))
        for one in receipts:
            self.log.note(log_pb2.LogReceipt(plan=plan_of(grid, number), receipt=one))

    def recalled(self) -> Recall:
        recall = Recall("r", KEY)
        recall.read(self.log, 0.1)
        return recall


def test_the_open_sum_goes_on_under_its_number_and_the_first_receipt_of_a_part_counts() -> None:
    left = Left()
    left.note(6, receipt("a", b"0" * 16))
    left.note(7, receipt("a", b"1" * 16), receipt("a", b"2" * 16), receipt("b", b"3" * 16))
    recall, plan = left.recalled(), plan_of(GRID, 0)
    assert recall.goes_on(OPENED, plan)
    assert plan.sum == 7
    assert recall.holds(b"1" * 16)
    assert not recall.holds(b"0" * 16)
    assert not recall.holds(b"2" * 16)
    assert [one and one.uid for one in map(recall.take, "aab")] == [b"1" * 16, None, b"3" * 16]
    assert not recall.goes_on(OPENED, plan_of(GRID, 0))
    assert not recall.holds(b"1" * 16)


def test_a_sum_of_which_only_the_beginning_is_noted_ends_the_one_before() -> None:
    left = Left()
    left.note(7, receipt("a", b"1" * 16))
    left.note(8)
    plan = plan_of(GRID, 0)
    recall = left.recalled()
    assert not recall.goes_on(OPENED, plan)
    assert plan.sum == 8  # the next one has a greater number
    assert recall.take("a") is None


@pytest.mark.parametrize(
    ("opened", "grid"),
    [(edge_pb2.Open(round=4), GRID), (edge_pb2.Open(round=3, step=1), GRID), (OPENED, Grid(8, 10, 3))],
    ids=["another round", "another step", "other partitions"],
)
def test_what_is_no_part_of_what_opens_is_void(opened: edge_pb2.Open, grid: Grid) -> None:
    left = Left()
    left.note(7, receipt("a", b"1" * 16))
    recall = left.recalled()
    assert not recall.goes_on(opened, plan_of(grid, 0))
    assert recall.take("a") is None
    assert not recall.holds(b"1" * 16)


@pytest.mark.parametrize(
    ("forged", "why"),
    [
        (receipt("a", b"1" * 16, key=b"f" * 32), "was not given out by the leader"),
        (receipt("a", b"1" * 16, told="b"), "for other work than its ticket"),
        (receipt("a", b"1"), "its uid is not 16 bytes"),
    ],
    ids=["ticket", "work", "uid"],
)
def test_a_receipt_that_can_t_be_is_passed_over_by_name(
    forged: edge_pb2.Receipt, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    left = Left()
    left.note(7, forged, receipt("a", b"2" * 16))
    left.memory.topics["update-receipts.r"][0].insert(1, b"damaged" * 9)
    recall = left.recalled()
    assert recall.goes_on(OPENED, plan_of(GRID, 0))
    assert recall.holds(b"2" * 16)
    damaged, passed = caplog.messages
    assert damaged.startswith("a record in receipts that nobody of this run has written there")
    assert why in passed


def test_only_so_many_receipts_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leader.update_log.run_log._MOST_RECEIPTS", 1)
    left = Left()
    left.note(7, receipt("a", b"1" * 16), receipt("b", b"2" * 16))
    recall = left.recalled()
    assert recall.goes_on(OPENED, plan_of(GRID, 0))
    assert [recall.take("a"), recall.holds(b"2" * 16)] == [None, True]


def test_a_log_that_is_away_says_so() -> None:
    left = Left()
    left.memory.away = True
    with pytest.raises(NotReadyError, match="nobody there"):
        left.recalled()


def test_what_was_masked_in_a_session_before_does_not_go_on() -> None:
    left, masked = Left(), Grid(8, 10, 2, bits=32)
    left.note(7, receipt("a", b"1" * 16), grid=masked)
    recall = left.recalled()
    assert not recall.goes_on(OPENED, plan_of(masked, 0))
    assert recall.take("a") is None
