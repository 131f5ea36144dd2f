from __future__ import annotations

import pytest

from leader.config.rules.edges import MOST_LOGGED
from leader.update_log.grid import BLOCK, Grid
from leader.update_log.records import MOST_BYTES, Sealer, joined, uids_of
from protos import log_pb2
from tests.leader.update_log.logs import close, plan_of, updates_of
from utils.errors import ForbiddenError

GRID = Grid(BLOCK, BLOCK + 3, 4)
SEALER = Sealer(b"k" * 32)
PLACE = "updates 1"


def record() -> log_pb2.LogRecord:
    return close(GRID, updates_of(GRID, 2))


def test_a_record_comes_back_where_it_was_written_for_and_two_of_one_differ() -> None:
    sealed = SEALER.seal(PLACE, record())
    assert SEALER.open(PLACE, sealed) == record()
    assert sealed != SEALER.seal(PLACE, record())


@pytest.mark.parametrize("at", [0, 11, 12, 40, -1])
def test_a_record_with_another_bit_is_refused(at: int) -> None:
    sealed = bytearray(SEALER.seal(PLACE, record()))
    sealed[at] ^= 1
    with pytest.raises(ForbiddenError, match="in updates 1 that nobody of this run has written"):
        SEALER.open(PLACE, bytes(sealed))


@pytest.mark.parametrize(
    "sealed",
    [
        b"",
        b"x" * 12,
        b"x" * 27,
        b"x" * 5000,
        b"x" * (MOST_BYTES + 1),
        Sealer(b"l" * 32).seal(PLACE, record()),
        SEALER.seal("updates 2", record()),
        SEALER.seal("sums 1", record()),
    ],
)
def test_what_this_run_has_not_sealed_for_this_place_is_refused(sealed: bytes) -> None:
    with pytest.raises(ForbiddenError, match="nobody of this run has written there"):
        SEALER.open(PLACE, sealed)


def test_neither_values_nor_names_are_readable_in_the_log() -> None:
    (one,) = updates_of(GRID, 1)
    sealed = SEALER.seal(PLACE, close(GRID, [one]))
    assert one.uid not in sealed


def test_the_largest_records_fit_in_what_brokers_take() -> None:
    full = log_pb2.Block(
        plan=plan_of(GRID, 2**63),
        uid=bytes(16),
        number=2**32 - 1,
        weight=2**63,
        factor=0.1,
        values=bytes(4 * BLOCK),
    )
    named = log_pb2.LogClose(plan=plan_of(GRID, 2**63), attempt=2**32 - 1, uids=bytes(16 * MOST_LOGGED))
    for one in (log_pb2.LogRecord(block=full), log_pb2.LogRecord(close=named)):
        assert SEALER.open(PLACE, SEALER.seal(PLACE, one)) == one


def test_uids_come_back_from_one_string() -> None:
    uids = {bytes([n]) * 16 for n in range(5)}
    assert uids_of(joined(uids)) == sorted(uids)
    assert uids_of(b"") == []
