"""A learner in a session whose leader lies, in every way that docs/privacy.md promises something against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from leader.secagg.actions import Send
from learner.secagg.member import Floors, MaskMember, Phase
from protos import leader_pb2
from tests.secagg import MODEL, SESSION, Cohort, order, plan
from utils.errors import LateUpdateError, PayloadError
from utils.secagg.roster import bit_set

Lie = Callable[[leader_pb2.Roster], None]


def never(work_id: str, survivors: bytes) -> bool:
    """A vow that nothing passes."""
    return False


class Victim:
    """One of four learners, whose messages the test carries; the others are honest."""

    def __init__(self) -> None:
        self.cohort = Cohort(4)
        self.name = self.cohort.names[0]
        self.member = self.cohort.members[self.name]
        session = self.cohort.session
        for name, member in self.cohort.members.items():
            actions = session.heard(name, member.advert, 0.0)
        self.told = {one.name: one.message for one in actions if isinstance(one, Send)}

    @property
    def roster(self) -> leader_pb2.MaskDown:
        """What the leader should say next."""
        copied = leader_pb2.MaskDown()
        copied.CopyFrom(self.told[self.name])
        return copied

    def share(self) -> leader_pb2.MaskDown:
        """Take the roster; the shares that come then."""
        for name, message in self.told.items():
            answer = self.cohort.members[name].heard(message, self.cohort.allow)
            assert answer is not None
            actions = self.cohort.session.heard(name, answer, 0.0)
        return next(one.message for one in actions if isinstance(one, Send) and one.name == self.name)

    def masked(self) -> leader_pb2.MaskDown:
        """Take the shares as well, and mask; the reveal of all four."""
        for one in self.others_shares():
            self.cohort.members[one[0]].heard(one[1], self.cohort.allow)
        self.cohort.masked(self.name)
        everybody = bit_set(range(4), 4)
        survivors = leader_pb2.Survivors(in_sum=everybody, masked_with=everybody)
        return leader_pb2.MaskDown(session=SESSION, reveal=leader_pb2.Reveal(survivors=survivors))

    def others_shares(self) -> list[tuple[str, leader_pb2.MaskDown]]:
        """The shares for the victim, as a list of one."""
        return [(self.name, self.share())]


def seat_of_another(roster: leader_pb2.Roster) -> leader_pb2.Seat:
    """A seat that is not the reader's own."""
    return roster.seats[(roster.you + 1) % len(roster.seats)]


def twice(field: str) -> Lie:
    """Another learner's field, in a third one's advert."""

    def lie(roster: leader_pb2.Roster) -> None:
        one, other = (roster.seats[(roster.you + n) % len(roster.seats)] for n in (1, 2))
        setattr(other.advert, field, getattr(one.advert, field))

    return lie


def own_key(roster: leader_pb2.Roster) -> None:
    roster.seats[roster.you].advert.mask_key = bytes(range(32))


def own_name(roster: leader_pb2.Roster) -> None:
    roster.seats[roster.you].name += "x"


def other_seat(roster: leader_pb2.Roster) -> None:
    roster.you = (roster.you + 1) % len(roster.seats)


def no_seat(roster: leader_pb2.Roster) -> None:
    roster.you = 4


def too_few(roster: leader_pb2.Roster) -> None:
    del roster.seats[2:]
    roster.you = 0


def too_many(roster: leader_pb2.Roster) -> None:
    added = roster.seats.add(name="z")
    added.advert.CopyFrom(roster.seats[0].advert)


def a_name_twice(roster: leader_pb2.Roster) -> None:
    roster.seats[3].name = roster.seats[2].name


def low_order(field: str) -> Lie:
    """A key with which everybody's secret is known."""

    def lie(roster: leader_pb2.Roster) -> None:
        setattr(seat_of_another(roster).advert, field, bytes(32))

    return lie


def short(roster: leader_pb2.Roster) -> None:
    seat_of_another(roster).advert.self_hash = b"short"


@pytest.mark.parametrize(
    ("lie", "why"),
    [
        (own_key, "own seat"),
        (own_name, "own seat"),
        (other_seat, "own seat"),
        (no_seat, "own seat"),
        (too_few, "from 3 to 4 were planned"),
        (too_many, "from 3 to 4 were planned"),
        (a_name_twice, "once, in order"),
        (twice("share_key"), "one share_key"),
        (twice("mask_key"), "one mask_key"),
        (twice("self_hash"), "one self_hash"),
        (low_order("share_key"), "low order"),
        (low_order("mask_key"), "low order"),
        (short, "32 bytes"),
    ],
)
def test_a_roster_that_lies_is_refused(lie: Lie, why: str) -> None:
    victim = Victim()
    message = victim.roster
    message.roster.you = sorted(victim.cohort.names).index(victim.name)
    lie(message.roster)
    with pytest.raises(PayloadError, match=why):
        victim.member.heard(message, never)
    assert victim.member.phase is Phase.ADVERTISED


def test_a_second_roster_is_refused_and_the_first_answered_again_alike() -> None:
    victim = Victim()
    first = victim.member.heard(victim.roster, never)
    assert victim.member.heard(victim.roster, never) == first
    other = victim.roster
    seat_of_another(other.roster).advert.mask_key = bytes(range(32))
    with pytest.raises(PayloadError, match="no advertised step"):
        victim.member.heard(other, never)


@pytest.mark.parametrize("swapped", ["share_key", "mask_key", "self_hash"])
def test_a_key_that_is_swapped_for_one_learner_alone_lets_no_shares_open(swapped: str) -> None:
    victim = Victim()
    message = victim.roster
    setattr(seat_of_another(message.roster).advert, swapped, bytes(range(1, 33)))
    victim.told[victim.name] = message
    shares = victim.share()
    with pytest.raises(PayloadError, match="don't open"):
        victim.member.heard(shares, never)


def test_another_order_for_one_learner_alone_lets_no_shares_open() -> None:
    """Others that train with a rate of 0 would leave the sum to the one that does not."""
    victim = Victim()
    own = MaskMember(victim.name, SESSION, order(victim.name, victim.cohort.plan, momentum=0.9), Floors())
    victim.cohort.members[victim.name] = own
    victim.cohort.session._adverts[victim.name] = own.advert.advert
    for message in victim.told.values():
        for seat in message.roster.seats:
            if seat.name == victim.name:
                seat.advert.CopyFrom(own.advert.advert)
    shares = victim.share()
    with pytest.raises(PayloadError, match="don't open"):
        own.heard(shares, never)


def test_shares_that_are_tampered_with_or_missing_are_refused() -> None:
    victim = Victim()
    shares = victim.share()
    for change, why in (
        (lambda s: setattr(s[0], "sealed", s[0].sealed[:-1] + b"!"), "don't open"),
        (lambda s: setattr(s[0], "sealed", s[1].sealed), "don't open"),
        (lambda s: setattr(s[0], "sealed", b""), "82 bytes"),
        (lambda s: setattr(s[0], "seat", s[1].seat), "once from each"),
        (lambda s: setattr(s[0], "seat", 9), "once from each"),
        (lambda s: s.__delitem__(slice(0, 2)), "at least 3 are needed"),
    ):
        bad = leader_pb2.MaskDown()
        bad.CopyFrom(shares)
        change(bad.shares.shares)
        with pytest.raises(PayloadError, match=why):
            victim.member.heard(bad, never)
    assert victim.member.heard(shares, never) is None
    assert victim.member.heard(shares, never) is None  # as after a reconnect
    assert victim.member.phase is Phase.READY


def test_an_update_is_masked_once() -> None:
    victim = Victim()
    victim.masked()
    with pytest.raises(PayloadError, match="session that is masked"):
        victim.member.mask(*victim.cohort.plain(victim.name), MODEL)


def survivors_of(in_sum: list[int], masked_with: list[int], size: int = 4) -> leader_pb2.MaskDown:
    survivors = leader_pb2.Survivors(in_sum=bit_set(in_sum, size), masked_with=bit_set(masked_with, size))
    return leader_pb2.MaskDown(session=SESSION, reveal=leader_pb2.Reveal(survivors=survivors))


@pytest.mark.parametrize(
    ("in_sum", "masked_with", "size", "why"),
    [
        ([0, 1], [0, 1, 2, 3], 4, "a sum of 2 updates"),  # too few
        ([0, 1, 2], [0, 1, 2], 4, "have not sent"),  # one that has shared is left out
        ([0, 1, 2, 3], [0, 1, 2], 4, "have not sent"),  # one that has not is in
        ([0, 1, 2], [0, 1, 2, 3], 9, "none of 4"),
    ],
)
def test_survivors_that_can_not_be_are_shown_nothing(
    in_sum: list[int], masked_with: list[int], size: int, why: str
) -> None:
    victim = Victim()
    victim.masked()
    with pytest.raises(PayloadError, match=why):
        victim.member.heard(survivors_of(in_sum, masked_with, size), lambda work_id, digest: True)
    assert victim.member.phase is Phase.MASKED


def test_of_each_seat_one_share_is_shown_never_both() -> None:
    victim = Victim()
    victim.masked()
    first = victim.member.heard(survivors_of([0, 1, 2], [0, 1, 2, 3]), lambda work_id, digest: True)
    assert first is not None
    assert len(first.revealed.shares) == 4 * 33
    with pytest.raises(PayloadError, match="session that is revealed"):
        victim.member.heard(survivors_of([0, 1, 3], [0, 1, 2, 3]), lambda work_id, digest: True)
    again = victim.member.heard(survivors_of([0, 1, 2], [0, 1, 2, 3]), lambda work_id, digest: True)
    assert again == first


def test_without_the_vow_nothing_is_shown() -> None:
    victim = Victim()
    reveal = victim.masked()
    with pytest.raises(PayloadError, match="revealed with other learners before"):
        victim.member.heard(reveal, never)


@pytest.mark.parametrize(
    ("planned", "why"),
    [
        ({"threshold": 2}, "more than half"),
        ({"threshold": 5}, "more than half"),
        ({"least": 2}, "this learner asks for 3"),
        ({"least": 1}, "from 2"),
        ({"bits": 8}, "16, 32 or 64"),
        ({"range": float("nan")}, "above 0"),
        ({"neighbours": 2, "neighbour_threshold": 2}, "all share with all"),
        ({"parties": 150, "threshold": 101, "neighbours": 2, "neighbour_threshold": 2}, "must be needed"),
        ({"parties": 150, "threshold": 101, "neighbours": 60, "neighbour_threshold": 2}, "must be needed"),
        ({"signed": True}, "no identity"),
        ({"parties": 6, "threshold": 4, "signed": True}, "more than two thirds must be needed"),
        (
            {"parties": 150, "threshold": 101, "neighbours": 60, "neighbour_threshold": 40, "signed": True},
            "60 neighbours could unmask",  # enough for a leader that follows the protocol
        ),
    ],
)
def test_a_weak_plan_is_refused_before_anything_is_said(planned: dict[str, Any], why: str) -> None:
    with pytest.raises(PayloadError, match=why):
        MaskMember("a", SESSION, order("a", plan(**{"parties": 4, **planned})), Floors())


def test_what_was_said_is_said_again_alike_in_every_phase() -> None:
    """A learner that reconnects is told the last message once more, and answers as if it had not been."""
    cohort = Cohort(4)
    name = cohort.names[0]
    told: list[leader_pb2.MaskDown] = []
    truth = cohort.answer

    def answer(send: Send) -> leader_pb2.MaskUp | None:
        if send.name == name:
            told.append(send.message)
        return truth(send)

    cohort.answer = answer  # type: ignore[method-assign]
    cohort.do(cohort.session.open())
    cohort.collect(cohort.names)
    shares = told[-1]
    assert shares.HasField("shares")
    assert cohort.members[name].heard(shares, cohort.allow) is None  # when masked
    cohort.do(cohort.session.close(cohort.names, 0.0))
    cohort.do(cohort.session.unmask(0.0))
    first = cohort.members[name].heard(told[-1], cohort.allow)
    assert first is not None
    assert first.HasField("revealed")
    assert cohort.members[name].heard(told[-1], cohort.allow) == first


def test_nothing_is_masked_with_secrets_that_are_forgotten() -> None:
    """A leader that ends the session in the moment before would know the mask."""
    cohort = Cohort(4)
    cohort.do(cohort.session.open())
    member, (values, wide) = cohort.members[cohort.names[0]], cohort.plain(cohort.names[0])
    member.forget()
    before = values.copy()
    with pytest.raises(LateUpdateError, match="is over"):
        member.mask(values, wide, MODEL)
    assert (values == before).all()
