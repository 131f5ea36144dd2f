"""Signed sessions, as the two machines have them: who signs what, and what is refused without."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from leader.secagg.actions import Send, Unmask
from leader.secagg.session import MaskSession, Phase
from learner.secagg.signing import Peers, Signer
from protos import leader_pb2
from tests.leader.trust.fleet import Fleet
from tests.secagg import SESSION, TIMES, Cohort, names_of
from utils.errors import ForbiddenError, PayloadError
from utils.secagg.roster import bit_set


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    """A CA, and whom it admits."""
    return Fleet(tmp_path)


def cohort(fleet: Fleet, count: int = 4) -> Cohort:
    """Learners that all have an identity."""
    signing = {name: Signer(fleet.admit(name), None) for name in names_of(count)}
    return Cohort(count, signing=signing, signed=True)


def closed(these: Cohort) -> None:
    """All have sent; the survivors are decided."""
    these.do(these.session.open())
    these.collect(these.names)
    these.do(these.session.close(these.names, 0.0))


def test_survivors_sign_who_is_in_the_sum_before_anything_is_revealed(fleet: Fleet) -> None:
    these = cohort(fleet)
    these.do(these.session.open())
    total = these.collect(these.names)
    these.do(these.session.close(these.names, 0.0))
    asked = these.session.unmask(0.0)
    assert {send.message.WhichOneof("kind") for send in asked if isinstance(send, Send)} == {"survivors"}
    assert these.session.phase is Phase.AGREEING
    these.do(asked)
    values, wide = these.unmask(total)
    expected = these.expected(these.names)
    assert (values == expected[0]).all()
    assert (wide == expected[1]).all()


def test_an_advert_that_another_has_signed_is_refused_by_leader_and_learner(fleet: Fleet) -> None:
    these = cohort(fleet)
    one, other = sorted(these.names)[:2]
    forged = leader_pb2.MaskUp()
    forged.CopyFrom(these.members[one].advert)
    forged.advert.signature = these.signing[other].sign(b"x" * 32)
    with pytest.raises(ForbiddenError, match=f"the advert of {one} is not signed by it"):
        these.session.heard(one, forged, 0.0)
    for name, member in these.members.items():
        actions = these.session.heard(name, member.advert, 0.0)
    rosters = {send.name: send.message for send in actions if isinstance(send, Send)}
    lie = rosters[other]
    seat = next(seat for seat in lie.roster.seats if seat.name == one)
    seat.advert.mask_key = bytes(range(32))
    with pytest.raises(ForbiddenError, match=f"the advert of {one} is not signed by it"):
        these.members[other].heard(lie, these.allow)


def test_nothing_is_revealed_to_other_survivors_than_were_agreed_on_or_without_enough_signatures(
    fleet: Fleet,
) -> None:
    these = cohort(fleet, 6)  # five unmask
    closed(these)
    name = these.names[0]
    member, survivors = these.members[name], these.session.survivors
    answers = {send.name: these.answer(send) for send in these.session.unmask(0.0) if isinstance(send, Send)}
    seats = {name: seat for seat, name in enumerate(sorted(these.names))}
    signatures = sorted(
        (seats[who], said.agreed.signature) for who, said in answers.items() if said is not None
    )

    def reveal(survivors: leader_pb2.Survivors, signed: list[tuple[int, bytes]]) -> leader_pb2.MaskDown:
        shares = [leader_pb2.Share(seat=seat, sealed=signature) for seat, signature in signed]
        said = leader_pb2.Reveal(survivors=survivors, signatures=shares)
        return leader_pb2.MaskDown(session=SESSION, reveal=said)

    fewer = leader_pb2.Survivors(in_sum=bit_set(range(5), 6), masked_with=bit_set(range(6), 6))
    with pytest.raises(PayloadError, match="other survivors than this learner agreed to"):
        member.heard(reveal(fewer, signatures), these.allow)
    with pytest.raises(PayloadError, match="4 survivors agreed to who is in the sum; 5 must"):
        member.heard(reveal(survivors, signatures[:4]), these.allow)
    with pytest.raises(PayloadError, match="5 must"):
        member.heard(reveal(survivors, [signatures[0]] * 5), these.allow)
    with pytest.raises(ForbiddenError):
        member.heard(reveal(survivors, [*signatures[:4], (signatures[4][0], b"s" * 64)]), these.allow)
    assert these.vows == {}
    assert member.heard(reveal(survivors, signatures), these.allow) is not None


def asked(survivors: leader_pb2.Survivors) -> leader_pb2.MaskDown:
    """Whether a learner agrees."""
    return leader_pb2.MaskDown(session=SESSION, survivors=survivors)


def test_a_learner_agrees_once_and_to_nothing_that_it_would_not_reveal(fleet: Fleet) -> None:
    these = cohort(fleet)
    closed(these)
    member = these.members[these.names[0]]
    everybody = bit_set(range(4), 4)
    for in_sum, masked_with, why in (
        ([0, 1], range(4), "a sum of 2 updates"),
        ([0, 1, 2], range(3), "have not sent"),
    ):
        wrong = leader_pb2.Survivors(in_sum=bit_set(in_sum, 4), masked_with=bit_set(masked_with, 4))
        with pytest.raises(PayloadError, match=why):
            member.heard(asked(wrong), these.allow)
    first = member.heard(asked(these.session.survivors), these.allow)
    assert first is not None
    assert member.heard(asked(these.session.survivors), these.allow) == first
    fewer = leader_pb2.Survivors(in_sum=bit_set(range(3), 4), masked_with=everybody)
    with pytest.raises(PayloadError, match="session that is agreed has no masked step"):
        member.heard(asked(fewer), these.allow)
    unsigned = Cohort(4)
    closed(unsigned)
    with pytest.raises(PayloadError, match="in signed sessions alone"):
        unsigned.members[unsigned.names[0]].heard(asked(these.session.survivors), unsigned.allow)


def test_who_is_not_in_the_sum_has_no_say_in_it_and_a_forged_agreement_does_not_count(fleet: Fleet) -> None:
    """Of six learners, of which five unmask, one sends nothing: what it signs could be under any sum."""
    these = cohort(fleet, 6)
    these.do(these.session.open())
    these.collect(these.names)
    lost, *others = these.names
    these.do(these.session.close(others, 0.0))
    answers = {send.name: these.answer(send) for send in these.session.unmask(0.0) if isinstance(send, Send)}
    assert answers.keys() == set(others)
    outside = these.answer(Send(lost, asked(these.session.survivors)))
    assert outside is not None
    with pytest.raises(PayloadError, match="not in the sum has no say"):
        these.session.heard(lost, outside, 0.0)
    with pytest.raises(ForbiddenError, match=f"the agreement of {others[0]} is not signed by it"):
        these.session.heard(others[0], outside, 0.0)
    assert not these.session._signatures
    seats = {name: seat for seat, name in enumerate(sorted(these.names))}
    signed = {seats[name]: said.agreed.signature for name, said in answers.items() if said is not None}
    signed.pop(seats[others[0]])
    signed[seats[lost]] = outside.agreed.signature
    shares = [leader_pb2.Share(seat=seat, sealed=signed[seat]) for seat in sorted(signed)]
    reveal = leader_pb2.Reveal(survivors=these.session.survivors, signatures=shares)
    with pytest.raises(PayloadError, match="5 survivors agreed to who is in the sum; 5 must"):
        these.members[others[1]].heard(leader_pb2.MaskDown(session=SESSION, reveal=reveal), these.allow)


def test_too_few_signatures_end_the_session(fleet: Fleet) -> None:
    these = cohort(fleet)
    closed(these)
    these.gone |= set(these.names[:2])
    these.do(these.session.unmask(0.0))
    these.do(these.session.tick(10.0), 10.0)
    assert these.failure == "2 learners agreed to who is in the sum, 3 must"


def test_after_a_crash_the_same_survivors_are_agreed_on_and_revealed_again_by_whoever_signs_this_time(
    fleet: Fleet,
) -> None:
    """Of five only four have signed in time before, and another is silent now: nobody takes that for another sum."""
    these = cohort(fleet, 5)
    these.do(these.session.open())
    total = these.collect(these.names)
    these.do(these.session.close(these.names, 0.0))
    pending = these.session.closed
    these.gone = {these.names[0]}
    these.do(these.session.unmask(0.0))
    these.do(these.session.tick(10.0), 10.0)
    before = [event for event in these.events if isinstance(event, Unmask)]
    assert len(before) == 1
    check = these.signing[these.names[0]].check
    these.session = MaskSession.resumed(pending, TIMES, check)
    these.gone = {these.names[1]}
    these.do(these.session.unmask(20.0), 20.0)
    these.do(these.session.tick(30.0), 30.0)
    assert len([event for event in these.events if isinstance(event, Unmask)]) == 2
    assert (these.unmask(total)[0] == these.expected(these.names)[0]).all()


class Puppets:
    """A leader that plays all others for one learner: their keys are its own, and so are their certificates."""

    def __init__(self, signing: Mapping[str, Signer], **planned: Any) -> None:
        self.cohort = Cohort(4, names="abcd", signing=signing, **planned)

    def learnt(self, victim: str) -> bool:
        """Whether the sum of the victim's update and of nothing else comes out."""
        these = self.cohort
        these.do(these.session.open())
        total = these.collect(these.names)
        these.do(these.session.close(these.names, 0.0))
        these.do(these.session.unmask(0.0))
        values, _ = these.unmask(total)
        puppets, _ = these.expected(name for name in these.names if name != victim)
        return bool((values - puppets == these.plain(victim)[0]).all())


def test_puppets_of_the_leader_lay_an_update_bare_unless_keys_are_signed(
    fleet: Fleet, tmp_path: Path
) -> None:
    """What signing is for: masks alone promise nothing against a leader that lies to all about keys."""
    assert Puppets({}).learnt("a")
    elsewhere = Fleet(tmp_path / "elsewhere")
    signing = {name: Signer((fleet if name == "a" else elsewhere).admit(name), None) for name in "abcd"}
    signing["b"].check = lambda *given: None  # type: ignore[method-assign]
    with pytest.raises(
        ForbiddenError, match="the advert of b is not signed by it: its certificate is none of"
    ):
        Puppets(signing, signed=True).learnt("a")


def test_puppets_that_the_leaders_own_ca_certifies_are_kept_out_by_a_list_of_peers(
    fleet: Fleet, tmp_path: Path
) -> None:
    signing = {name: Signer(fleet.admit(name), None) for name in "abcd"}
    assert Puppets(signing, signed=True).learnt("a")  # what the CA says counts
    (tmp_path / "peers").write_text("clinic-*\n")
    signing["a"] = Signer(fleet.admit("a"), Peers(tmp_path / "peers"))
    with pytest.raises(ForbiddenError, match="b is none of those that this learner masks with"):
        Puppets(signing, signed=True).learnt("a")
