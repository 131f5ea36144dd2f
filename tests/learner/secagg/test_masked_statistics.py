"""What a leader sees of masked updates, from fixed keys: bytes as even as chance has them, nothing of the update."""

from __future__ import annotations

import hashlib
from itertools import combinations, count
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from leader.secagg.actions import Send
from leader.secagg.session import MaskSession
from learner.secagg.member import Draw, Floors, MaskMember
from tests.secagg import MODEL, TIMES, order, plan
from tests.statistics import assert_frequencies, assert_unrelated
from utils.secagg.roster import order_bytes

SIZE, NAMES = 1 << 15, "abc"
Values = NDArray[Any]


def keyed(name: str) -> Draw:
    """Secrets that are the same in each run."""
    numbers = count()
    return lambda size: hashlib.shake_256(f"{name} {next(numbers)}".encode()).digest(size)


def ready(bits: int, session: bytes) -> dict[str, MaskMember]:
    """Three learners that may mask."""
    masking = plan(len(NAMES), bits=bits)
    orders = {name: order(name, masking) for name in NAMES}
    members = {
        name: MaskMember(name, session, orders[name], Floors(), draw=keyed(f"{session!r} {name}"))
        for name in NAMES
    }
    work = {name: one.work_id for name, one in orders.items()}
    leader = MaskSession(session, masking, order_bytes(orders["a"]), work, 0.0, TIMES)
    queue = leader.open()
    while queue:
        action = queue.pop(0)
        if isinstance(action, Send):
            member, opens = members[action.name], action.message.HasField("open")
            answer = member.advert if opens else member.heard(action.message, lambda work, digest: True)
            queue += leader.heard(action.name, answer, 0.0) if answer is not None else []
    return members


def update(name: str, bits: int) -> Values:
    """Small values around zero, as updates have, in an order of their own: long runs go up and down."""
    levels = 100 * np.sin(np.arange(SIZE) * (0.001 + 0.0001 * ord(name)))
    return np.asarray(levels.astype(f"i{bits // 8}").view(f"u{bits // 8}"))


def sent(bits: int, session: bytes = bytes(16)) -> dict[str, tuple[Values, NDArray[np.uint64]]]:
    """What the learners send."""
    found = {}
    for name, member in ready(bits, session).items():
        values, wide = update(name, bits), np.full(SIZE, 24, np.uint64)
        member.mask(values, wide, MODEL)
        found[name] = values, wide
    return found


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_each_byte_is_as_likely_as_any_other(bits: int) -> None:
    expected = np.full(256, SIZE / 256)
    for values, wide in sent(bits).values():
        for words in (values, wide):
            for at in range(words.itemsize):
                place = words.view(np.uint8)[at :: words.itemsize]
                assert_frequencies(np.bincount(place, minlength=256), expected)
    plain = update("a", bits)
    with pytest.raises(AssertionError):
        assert_frequencies(np.bincount(plain.view(np.uint8)[:: plain.itemsize], minlength=256), expected)


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_nothing_of_it_goes_with_the_update_or_with_what_another_sends(bits: int) -> None:
    uploads = {name: _signed(values) for name, (values, _) in sent(bits).items()}
    for masked in uploads.values():
        for name in NAMES:
            plain = _signed(update(name, bits))
            assert_unrelated(masked, plain)
            assert_unrelated(np.abs(masked), np.abs(plain))
        assert_unrelated(masked[1:], masked[:-1])
    for one, other in combinations(uploads.values(), 2):
        assert_unrelated(one, other)


def test_the_same_update_in_another_session_is_other_bytes() -> None:
    """Their difference would be zero if the masks were the same, and small if only some were."""
    first, second = (sent(32, bytes([number]) * 16)["a"][0] for number in (1, 2))
    difference = (first - second).view(np.uint8)
    assert_frequencies(np.bincount(difference, minlength=256), np.full(256, 4 * SIZE / 256))
    assert_unrelated(_signed(first), _signed(second))


def test_two_of_three_together_are_no_nearer_to_what_they_sent_in() -> None:
    """Masks that two have in common fall out of their sum; those with the third, and their own, do not."""
    uploads = sent(32)
    pair = uploads["a"][0] + uploads["b"][0]
    assert_frequencies(np.bincount(pair.view(np.uint8), minlength=256), np.full(256, 4 * SIZE / 256))
    assert_unrelated(_signed(pair), _signed(update("a", 32) + update("b", 32)))


def _signed(words: Values) -> NDArray[np.float64]:
    return words.view(f"i{words.itemsize}").astype(np.float64)
