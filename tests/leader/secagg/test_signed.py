"""Signed sessions, as the two machines have them: who signs what, and what is refused without."""

from __future__ import annotations

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from leader.secagg.session import Phase, Send
from protos import leader_pb2
from tests.secagg import SESSION, Cohort, names_of
from utils.errors import ForbiddenError, PayloadError
from utils.secagg.roster import bit_set


class Signer:
    """Keys that everybody knows to be whose they are; the identity is the public key."""

    def __init__(self, name: str, known: dict[str, bytes]) -> None:
        self._key = Ed25519PrivateKey.generate()
        self._known = known
        self.identity = known[name] = self._key.public_key().public_bytes_raw()

    def sign(self, digest: bytes) -> bytes:
        """See Signing."""
        return self._key.sign(digest)

    def check(self, identity: bytes, name: str, digest: bytes, signature: bytes) -> None:
        """See Signing."""
        try:
            Ed25519PublicKey.from_public_bytes(identity).verify(signature, digest)
        except (InvalidSignature, ValueError):
            raise ForbiddenError(f"the advert of {name} is not signed by it") from None
        if self._known.get(name) != identity:
            raise ForbiddenError(f"the advert of {name} is not signed by it")


def cohort(count: int = 4) -> Cohort:
    known: dict[str, bytes] = {}
    return Cohort(count, signing={name: Signer(name, known) for name in names_of(count)}, signed=True)


def closed(these: Cohort) -> None:
    """All have sent; the survivors are decided."""
    these.do(these.session.open())
    these.collect(these.names)
    these.do(these.session.close(these.names, 0.0))


def test_survivors_sign_who_is_in_the_sum_before_anything_is_revealed() -> None:
    these = cohort()
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


def test_an_advert_that_another_has_signed_is_refused_by_leader_and_learner() -> None:
    these = cohort()
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


def test_nothing_is_revealed_to_other_survivors_than_were_agreed_on_or_without_enough_signatures() -> None:
    these = cohort(6)  # five unmask
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


def test_too_few_signatures_end_the_session() -> None:
    these = cohort()
    closed(these)
    these.gone |= set(these.names[:2])
    these.do(these.session.unmask(0.0))
    these.do(these.session.tick(10.0), 10.0)
    assert these.failure == "2 learners agreed to who is in the sum, 3 must"
