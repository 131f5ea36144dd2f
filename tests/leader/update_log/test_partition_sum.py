"""Sums over a log have the bits of one sum, whatever else stands in it, and whoever reads it from where."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from leader.update_log.grid import BLOCK, Grid
from leader.update_log.partition_sum import PartitionSum
from leader.update_log.records import uids_of
from protos import log_pb2
from tests.leader.update_log.logs import Update, block, close, expected, plan_of, updates_of
from utils.errors import LateUpdateError, PayloadError, ValueRangeError, WireError

SMALL = Grid(5, 8, partitions=3)
LARGE = Grid(2 * BLOCK + 40_000, 2 * BLOCK + 40_011, partitions=8)


class Log:
    """What stands in each partition, and who reads it."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.records: list[list[log_pb2.LogRecord]] = [[] for _ in range(grid.partitions)]

    def write(self, record: log_pb2.LogRecord, *partitions: int) -> None:
        for partition in partitions:
            self.records[partition].append(record)

    def upload(self, update: Update, numbers: Iterable[int], plan: log_pb2.LogPlan | None = None) -> None:
        for partition in self.grid.places(update.uid):
            for number in self.grid.numbers(partition):
                if number in numbers:
                    self.write(block(self.grid, update, number, plan), partition)

    def close(self, members: Sequence[Update], attempt: int = 1, plan: log_pb2.LogPlan | None = None) -> None:
        for partition in range(self.grid.groups * self.grid.slices):
            own = [member for member in members if partition in self.grid.places(member.uid)]
            self.write(close(self.grid, own, attempt, plan), partition)

    def summed(self, partition: int, start: int = 0) -> PartitionSum:
        return PartitionSum(partition, self.records[partition].__getitem__)

    def answers(self, partition: int, start: int = 0) -> list[log_pb2.BlockSum]:
        """What a reader that begins at offset `start` answers to all that follows."""
        reader = self.summed(partition)
        records = enumerate(self.records[partition][start:], start)
        return [answer for offset, record in records for answer in reader.read(record, offset)]


def total(grid: Grid, answers: Iterable[log_pb2.BlockSum]) -> tuple[tuple[int, ...], NDArray[np.int64]]:
    """Weights of the first and the last block, and the sum, of answers from all partitions."""
    words, weights = np.zeros(grid.values, np.int64), [0] * len(grid.blocks)
    for answer in answers:
        start = grid.blocks[answer.number][0] + answer.piece * BLOCK // 2
        found = np.frombuffer(answer.words, "<i8")
        words[start : start + found.size] += found
        if not answer.piece:
            weights[answer.number] += answer.weight
    return (weights[0], weights[-1]), words


def assert_sum(log: Log, members: Sequence[Update], attempt: int, start: Callable[[int], int]) -> None:
    """Check what all partitions answer to an attempt, read from the offset that `start` gives."""
    used = range(log.grid.groups * log.grid.slices)
    answers = [one for p in used for one in log.answers(p, start(p)) if one.attempt == attempt]
    assert not any(answer.missing for answer in answers)
    weights, words = total(log.grid, answers)
    assert (weights, words.tobytes()) == (
        expected(log.grid, members)[0],
        expected(log.grid, members)[1].tobytes(),
    )


def scenario(grid: Grid, draw: st.DataObject) -> None:
    """Uploads of all sorts in any order, a first close amid them and a second one behind them."""
    updates = updates_of(grid, draw.draw(st.integers(1, 7)), draw.draw(st.integers(0, 99)))
    blocks = range(len(grid.blocks))
    jobs = [(which, number) for which in range(len(updates)) for number in blocks]
    jobs += draw.draw(st.lists(st.sampled_from(jobs), max_size=6))  # sent twice
    cut = draw.draw(st.sets(st.sampled_from(jobs), max_size=4), label="half uploads")
    order = draw.draw(st.permutations([job for job in jobs if job not in cut]))
    log, done = Log(grid), set[tuple[int, int]]()
    first_close = draw.draw(st.integers(0, len(order)))
    first: list[Update] = []

    def chosen() -> list[Update]:
        whole = [
            which for which in range(len(updates)) if done.issuperset((which, number) for number in blocks)
        ]
        return [updates[which] for which in whole if draw.draw(st.booleans())]

    for at, job in enumerate([*order, None]):
        if at == first_close:
            first = chosen()
            log.close(first, attempt=1)
        if job is not None:
            log.upload(updates[job[0]], {job[1]})
            done.add(job)
    second = chosen()
    log.close(second, attempt=2)
    assert_sum(log, first, 1, lambda _: 0)
    assert_sum(log, second, 2, lambda _: 0)


@given(st.data())
def test_any_order_of_uploads_comes_to_the_sum_of_the_members(draw: st.DataObject) -> None:
    scenario(SMALL, draw)


@settings(max_examples=10)
@given(st.data())
def test_and_so_where_the_model_is_cut_into_slices(draw: st.DataObject) -> None:
    assert (LARGE.slices, LARGE.groups) == (4, 2)
    scenario(LARGE, draw)


@given(st.integers(0, 99), st.integers(0, 20))
def test_a_reader_that_begins_after_a_commit_or_before_it_gives_the_same_bytes(seed: int, start: int) -> None:
    log, plan = Log(SMALL), plan_of(SMALL, 2)
    before, now = updates_of(SMALL, 3, seed), updates_of(SMALL, 4, seed + 1)
    for one in before:
        log.upload(one, {0, 1})
    log.close(before)
    log.upload(now[0], {0, 1}, plan)  # by an edge that is ahead
    log.write(log_pb2.LogRecord(commit=log_pb2.LogCommit(sum=1)), 0, 1, 2)
    for one in now[1:]:
        log.upload(one, {0, 1}, plan)
    log.close(now, plan=plan)
    for partition in range(3):
        begin = next(n for n, r in enumerate(log.records[partition]) if r.HasField("commit"))
        mine = [n for n, r in enumerate(log.records[partition]) if r.block.plan == plan]
        begin = min([begin, *mine])
        whole = [one for one in log.answers(partition) if one.sum == 2]
        assert whole == [one for one in log.answers(partition, min(start, begin)) if one.sum == 2]
        assert whole
    answers = [one for p in range(3) for one in log.answers(p) if one.sum == 2]
    assert total(SMALL, answers)[1].tobytes() == expected(SMALL, now)[1].tobytes()


def test_members_that_are_not_whole_are_named_and_nothing_is_guessed() -> None:
    log, (one, half, none) = Log(SMALL), updates_of(SMALL, 3)
    log.upload(one, {0, 1})
    log.upload(half, {1})
    log.close([one, half, none])
    answers = [answer for partition in range(3) for answer in log.answers(partition)]
    missing = frozenset[bytes]().union(*(uids_of(answer.missing) for answer in answers))
    assert missing == {half.uid, none.uid}
    assert not any(answer.words for answer in answers if answer.missing)


def test_taking_out_what_is_no_member_reads_it_again_and_leaves_no_trace() -> None:
    grid = Grid(5, 8, partitions=1)
    log, updates = Log(grid), updates_of(grid, 6)
    for one in updates:
        log.upload(one, {0, 1})
    log.close(updates[:4], attempt=1)
    log.close(updates[2:], attempt=2)
    log.close([], attempt=3)
    reread: list[int] = []

    def read(offset: int) -> log_pb2.LogRecord:
        reread.append(offset)
        return log.records[0][offset]

    reader = PartitionSum(0, read)
    found = [(list(reader.read(record, at)), tuple(reread)) for at, record in enumerate(log.records[0])]
    assert [total(grid, answers)[1].tolist() for answers, _ in found[-3:]] == [
        expected(grid, members)[1].tolist() for members in (updates[:4], updates[2:], [])
    ]
    assert reread == [8, 9, 10, 11, 0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 8, 9, 10, 11]


def bad(what: str) -> log_pb2.LogRecord:
    """A block with something wrong."""
    (one,) = updates_of(SMALL, 1)
    record = block(SMALL, one, 0)
    made = record.block
    match what:
        case "uid":
            made.uid = made.uid[:15]
        case "partition":
            made.uid = (int.from_bytes(made.uid[:4], "big") ^ 1).to_bytes(4, "big") + made.uid[4:]
        case "number":
            made.number = 2
        case "short":
            made.values = made.values[:-1]
        case "weightless":
            made.weight = 0
        case "heavy":
            made.weight = 1 << 40
        case "factor":
            made.factor = -1.0
        case "nan":
            made.values = np.full(5, np.nan, np.float32).tobytes()
        case "scale":
            made.plan.scale.fraction_bits += 1
        case "sums":
            return log_pb2.LogRecord(sum=log_pb2.BlockSum())
        case "nothing":
            return log_pb2.LogRecord()
    return record


@pytest.mark.parametrize(
    ("what", "error", "why"),
    [
        ("uid", PayloadError, "in a partition that is not its own"),
        ("partition", PayloadError, "in a partition that is not its own"),
        ("number", PayloadError, "in a partition that is not its own"),
        ("short", PayloadError, "has 19 bytes"),
        ("weightless", PayloadError, "has 20 bytes"),
        ("heavy", PayloadError, "weight 1099511627776"),
        ("factor", PayloadError, "factor -1"),
        ("nan", ValueRangeError, "values from nan"),
        ("scale", PayloadError, "plan is another than that of its sum"),
        ("sums", PayloadError, "does not belong among updates"),
        ("nothing", PayloadError, "does not belong among updates"),
    ],
)
def test_a_wrong_record_is_refused_and_changes_nothing(what: str, error: type[WireError], why: str) -> None:
    one, other = updates_of(SMALL, 2)
    (partition,) = SMALL.places(one.uid)
    log = Log(SMALL)
    reader = log.summed(partition)
    other = Update(one.uid[:4] + other.uid[4:], other.weight, other.factor, other.values, buffers=True)
    log.upload(other, {0, 1})
    for offset in range(2):
        list(reader.read(log.records[partition][offset], offset))
    with pytest.raises(error, match=why):
        list(reader.read(bad(what), 2))
    answers = list(reader.read(close(SMALL, [other]), 3))
    assert total(SMALL, answers)[1].tobytes() == expected(SMALL, [other])[1].tobytes()


@pytest.mark.parametrize(
    ("parameters", "values", "partitions"), [(0, 5, 3), (9, 5, 3), (5, 2**50, 3), (5, 5, 0), (5, 5, 10**6)]
)
def test_a_plan_that_cant_be_is_refused_and_leaves_the_open_sum(
    parameters: int, values: int, partitions: int
) -> None:
    (one,) = updates_of(SMALL, 1)
    (partition,) = SMALL.places(one.uid)
    reader, log = Log(SMALL).summed(partition), Log(SMALL)
    log.upload(one, {0, 1})
    for offset, record in enumerate(log.records[partition]):
        list(reader.read(record, offset))
    plan = plan_of(SMALL, 2)
    plan.parameters, plan.values, plan.partitions = parameters, values, partitions
    with pytest.raises(PayloadError, match="impossible size"):
        list(reader.read(log_pb2.LogRecord(close=log_pb2.LogClose(plan=plan)), 2))
    assert all(not answer.missing for answer in reader.read(close(SMALL, [one]), 3))


def test_what_comes_of_a_sum_that_is_over_is_too_late() -> None:
    (one,) = updates_of(SMALL, 1)
    (partition,) = SMALL.places(one.uid)
    reader = Log(SMALL).summed(partition)
    list(reader.read(block(SMALL, one, 0, plan_of(SMALL, 2)), 0))
    with pytest.raises(LateUpdateError, match="of a sum that is over"):
        list(reader.read(block(SMALL, one, 1), 1))
    with pytest.raises(LateUpdateError, match="of a sum that is over"):
        list(reader.read(close(SMALL, [one]), 2))


def test_another_record_where_a_block_was_is_refused() -> None:
    log, updates = Log(Grid(5, 8, 1)), updates_of(Grid(5, 8, 1), 2)
    for one in updates:
        log.upload(one, {0, 1})
    reader = PartitionSum(0, lambda offset: log.records[0][(offset + 1) % 4])
    for offset, record in enumerate(log.records[0]):
        list(reader.read(record, offset))
    with pytest.raises(PayloadError, match="another record where a block was"):
        list(reader.read(close(log.grid, updates[:1]), 4))
