from __future__ import annotations

import hashlib
import hmac
import time

import pytest

from leader.distributed.ticket import key_of, seal, unseal
from protos import edge_pb2
from utils.errors import EndedError, ForbiddenError

KEY = key_of("secret")


def ticket(**more: int) -> edge_pb2.Ticket:
    made = edge_pb2.Ticket(run_id="r", work_id="1-0-ab", until=int(time.time()) + 60)
    for name, value in more.items():
        setattr(made, name, value)
    return made


def test_a_ticket_comes_back_as_it_was() -> None:
    one = ticket(learner_id=3, round=1, examples=2**40, local_steps=7, version=2**62)
    assert unseal(KEY, seal(KEY, one), "r") == one


@pytest.mark.parametrize("place", [0, 31, 32, -1])
def test_a_ticket_with_another_bit_is_refused(place: int) -> None:
    sealed = bytearray(seal(KEY, ticket()))
    sealed[place] ^= 1
    with pytest.raises(ForbiddenError, match="not given out by the leader"):
        unseal(KEY, bytes(sealed), "r")


@pytest.mark.parametrize(
    "sealed", [b"", b"x", b"y" * 32, b"z" * 5000, seal(key_of("other"), edge_pb2.Ticket())]
)
def test_what_the_key_has_not_signed_is_refused(sealed: bytes) -> None:
    with pytest.raises(ForbiddenError, match="not given out by the leader"):
        unseal(KEY, sealed, "r")


def test_a_ticket_of_another_run_is_refused() -> None:
    with pytest.raises(ForbiddenError, match="of another run"):
        unseal(KEY, seal(KEY, ticket()), "other")


def test_a_ticket_ends() -> None:
    with pytest.raises(EndedError, match="has ended"):
        unseal(KEY, seal(KEY, ticket(until=int(time.time()) - 2)), "r")


def test_a_ticket_that_is_no_message_is_refused() -> None:

    message = b"\xff\xff\xff"
    with pytest.raises(ForbiddenError, match="can't be read"):
        unseal(KEY, hmac.new(KEY, message, hashlib.sha256).digest() + message, "r")


def test_keys_of_two_runs_differ() -> None:
    assert len({key_of("secret"), key_of("secreT"), key_of("")}) == 3
