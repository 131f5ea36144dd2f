"""A learner in one session of secure aggregation: messages in, answers out; no sockets, no clock, no files.

    ADVERTISED --roster--> SHARED --shares--> READY --mask--> MASKED [--survivors--> AGREED] --reveal--> REVEALED

Anything out of place is refused. The same message once more gets the same answer, as after a reconnect.
Bonawitz et al. 2017, figure 4 (https://eprint.iacr.org/2017/281); what is bound to what: docs/privacy.md.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from protos import leader_pb2
from utils.errors import LateUpdateError, PayloadError
from utils.secagg import keys, shamir
from utils.secagg.masks import add_streams
from utils.secagg.roster import (
    Seated,
    check_advert,
    check_plan,
    check_session,
    need,
    order_bytes,
    seats_of,
    signed_advert,
)

SEED_BYTES = 64  # a key for the values' stream, and one for that of the wide part
_SEALED = 2 * shamir.SHARE_BYTES + 16

Draw = Callable[[int], bytes]  # so many secret random bytes
#: Whether an update may be revealed in this set of survivors: (work id, digest). True once and again for the same.
Vow = Callable[[str, bytes], bool]


class Phase(Enum):
    """Where the session stands."""

    ADVERTISED = auto()
    SHARED = auto()
    READY = auto()
    MASKED = auto()
    AGREED = auto()
    REVEALED = auto()
    OVER = auto()


class Signing(Protocol):
    """Proves this learner's adverts, and checks the others'."""

    identity: bytes

    def sign(self, digest: bytes) -> bytes:
        """A signature of 32 bytes."""
        ...

    def check(self, identity: bytes, name: str, digest: bytes, signature: bytes, what: str) -> None:
        """Raise ForbiddenError unless `name`, whose identity this is, has signed; `what`, such as "the advert"."""
        ...


@dataclass(frozen=True)
class Floors:
    """What this learner asks of every session, whatever the leader says."""

    least: int = 3  # updates in a sum
    signed: bool = False

    def check(self, plan: leader_pb2.MaskPlan) -> None:
        """Raise PayloadError for a plan that is unsound, or below these."""
        check_plan(plan)
        if plan.least < self.least:
            raise PayloadError(
                f"sums of {plan.least} updates are planned, this learner asks for {self.least} (--least-learners); "
                "raise secagg.least at the leader, or lower that here"
            )
        if self.signed and not plan.signed:
            raise PayloadError("this learner takes part in signed sessions alone (--secagg signed)")


class MaskMember:
    """One learner in the session of one work order."""

    def __init__(
        self,
        name: str,
        session: bytes,
        order: leader_pb2.WorkOrder,
        floors: Floors = Floors(),
        signing: Signing | None = None,
        draw: Draw = secrets.token_bytes,
    ) -> None:
        """Raises PayloadError for a plan that is unsound, or below this learner's floors."""
        plan = order.masking
        check_session(session)
        floors.check(plan)
        if plan.signed and signing is None:
            raise PayloadError(
                "sessions of this run are signed, and this learner has no identity (--identity)"
            )
        self.phase = Phase.ADVERTISED
        self._name = name
        self.session = session  # its id
        self._work_id = order.work_id
        self._order = order_bytes(order)
        self._plan = plan
        self._signing = signing if plan.signed else None
        self._draw = draw
        self._share_key, self._mask_key, self._self_secret = (draw(keys.KEY_BYTES) for _ in range(3))
        self._advert = self._advertise()
        self._shares: leader_pb2.Shares | None = None
        self.unopened: list[int] = []  # seats whose sealed shares don't open
        self._answers: dict[bytes, leader_pb2.MaskUp] = {}  # by the message that they answer

    def _advertise(self) -> leader_pb2.Advert:
        advert = leader_pb2.Advert(
            share_key=keys.public(self._share_key),
            mask_key=keys.public(self._mask_key),
            self_hash=keys.digest("self hash", self.session, self._self_secret),
            identity=self._signing.identity if self._signing else b"",
        )
        if self._signing:
            advert.signature = self._signing.sign(
                signed_advert(self.session, self._order, self._name, advert)
            )
        return advert

    @property
    def advert(self) -> leader_pb2.MaskUp:
        """What begins the session."""
        return self._up(advert=self._advert)

    def heard(self, message: leader_pb2.MaskDown, allow: Vow) -> leader_pb2.MaskUp | None:
        """The answer to a message of this session, None if it has none; `allow` is asked before the reveal.

        Raises PayloadError or ForbiddenError, and then answers nothing more than before.
        """
        said = _asked(message)
        if said in self._answers:
            return self._answers[said]
        match message.WhichOneof("kind"):
            case "roster":
                answer = self._on_roster(message.roster)
            case "shares":
                self._on_shares(message.shares)
                return None
            case "survivors":
                answer = self._on_survivors(message.survivors)
            case "reveal":
                answer = self._on_reveal(message.reveal, allow)
            case kind:
                raise PayloadError(f"{kind} has no place in a session that is {self.phase.name.lower()}")
        self._answers[said] = answer
        return answer

    # --- keys and shares -------------------------------------------------------------------

    def _on_roster(self, roster: leader_pb2.Roster) -> leader_pb2.MaskUp:
        self._expect(Phase.ADVERTISED)
        seated = Seated(self.session, self._order, self._plan, tuple(roster.seats))
        self._check_roster(seated, roster.you)
        me = roster.you
        neighbours = seated.graph.neighbours(me)
        others = [seated.seats[seat].advert for seat in neighbours]
        shared = keys.agreed(self._share_key, (other.share_key for other in others))
        agreed = keys.agreed(self._mask_key, (other.mask_key for other in others))
        pairs = dict(zip(neighbours, agreed, strict=True))
        sharing = {
            seat: keys.SharingKeys(secret, self.session, seated.digest)
            for seat, secret in zip(neighbours, shared, strict=True)
        }
        holders = (me, *neighbours)
        mask, own = (
            shamir.split(secret, (seat + 1 for seat in holders), seated.shares_needed, self._below)
            for secret in (self._mask_key, self._self_secret)
        )
        shares = dict(zip(holders, zip(mask, own, strict=True), strict=True))
        self._seated, self._me, self._sharing, self._pairs = seated, me, sharing, pairs
        self._held = {me: shares[me]}  # by the seat whose they are: of its mask key, its self seed
        self.phase = Phase.SHARED
        sealed = [
            leader_pb2.Share(seat=seat, sealed=sharing[seat].seal(me, seat, b"".join(shares[seat])))
            for seat in neighbours
        ]
        return self._up(shares=leader_pb2.Shares(shares=sealed))

    def _check_roster(self, seated: Seated, me: int) -> None:
        seats, plan = seated.seats, self._plan
        if not need(plan) <= len(seats) <= plan.parties:
            raise PayloadError(
                f"a roster of {len(seats)} learners; from {need(plan)} to {plan.parties} were planned"
            )
        if me >= len(seats) or seats[me].name != self._name or seats[me].advert != self._advert:
            raise PayloadError("this learner's own seat in the roster is not as it advertised")
        names = [seat.name for seat in seats]
        if names != sorted(set(names)):
            raise PayloadError("a roster names each learner once, in order")
        for seat in seats:
            check_advert(seat.advert)
        for field in ("share_key", "mask_key", "self_hash"):  # an identity is its name's alone
            if len({getattr(seat.advert, field) for seat in seats}) < len(seats):
                raise PayloadError(f"two learners of the roster have one {field}")
        if self._signing:
            for seat in seats:
                signed = signed_advert(self.session, self._order, seat.name, seat.advert)
                advert = seat.advert
                self._signing.check(advert.identity, seat.name, signed, advert.signature, "the advert")

    def _below(self, bound: int) -> int:
        """A secret integer below `bound`, each as likely but for 2^-128."""
        size = bound.bit_length() // 8 + 17
        return int.from_bytes(self._draw(size), "big") % bound

    def _on_shares(self, shares: leader_pb2.Shares) -> None:
        if self._shares == shares:
            return
        self._expect(Phase.SHARED)
        senders = [share.seat for share in shares.shares]
        if senders != sorted(set(senders)) or not set(senders) <= set(self._sharing):
            raise PayloadError("shares come once from each neighbour, in order")
        if any(len(share.sealed) != _SEALED for share in shares.shares):
            raise PayloadError(f"sealed shares have {_SEALED} bytes")
        if not self._plan.neighbours and len(senders) + 1 < need(self._plan):
            raise PayloadError(
                f"shares of {len(senders) + 1} learners; at least {need(self._plan)} are needed"
            )
        held, why, self.unopened = {}, "", []
        for share in shares.shares:
            try:
                plain = self._sharing[share.seat].unseal(share.seat, self._me, share.sealed)
            except PayloadError as error:
                why = why or f"{self._seated.seats[share.seat].name}: {error}"
                self.unopened.append(share.seat)
                continue
            held[share.seat] = plain[: shamir.SHARE_BYTES], plain[shamir.SHARE_BYTES :]
        if why:
            raise PayloadError(why)
        self._held |= held
        self._shares = shares
        self.phase = Phase.READY

    # --- masks -----------------------------------------------------------------------------

    def mask(self, values: NDArray[Any], wide: NDArray[np.uint64], model: bytes, *, threads: int = 1) -> None:
        """Mask (n,) words of the plan's width and (m,) wide ones, in place, once.

        `model` is SHA-256 of what was trained from. Raises LateUpdateError where the session is over.
        """
        pairs, own, held = self._pairs, self._self_secret, self._held
        self._check_open()  # after they are at hand: another thread may forget them now
        self._expect(Phase.READY)
        self.phase = Phase.MASKED
        binding = self._seated.binding(model)
        plus = [keys.derive(own, self.session, "self", binding, SEED_BYTES)]
        minus: list[bytes] = []
        for seat in sorted(held.keys() - {self._me}):
            seed = keys.derive(pairs[seat], self.session, "pair", binding, SEED_BYTES)
            (plus if self._me < seat else minus).append(seed)
        add_streams(values, [s[:32] for s in plus], [s[:32] for s in minus], threads=threads)
        add_streams(wide, [s[32:] for s in plus], [s[32:] for s in minus])

    # --- survivors -------------------------------------------------------------------------

    def _on_survivors(self, survivors: leader_pb2.Survivors) -> leader_pb2.MaskUp:
        self._expect(Phase.MASKED)
        if self._signing is None:
            raise PayloadError("survivors are agreed on in signed sessions alone")
        self._check_survivors(survivors)
        self.phase = Phase.AGREED
        self._agreed = survivors
        digest = self._seated.survivors_digest(survivors)
        return self._up(agreed=leader_pb2.Agreed(signature=self._signing.sign(digest)))

    def _on_reveal(self, reveal: leader_pb2.Reveal, allow: Vow) -> leader_pb2.MaskUp:
        self._expect(Phase.AGREED if self._signing else Phase.MASKED)
        survivors = reveal.survivors
        in_sum = self._check_survivors(survivors)
        digest = self._seated.survivors_digest(survivors)
        if self._signing:
            if survivors != self._agreed:
                raise PayloadError("other survivors than this learner agreed to")
            self._check_signatures(reveal, digest)
        if not allow(self._work_id, digest):
            raise PayloadError("this update was revealed with other learners before; it is not shown again")
        held = sorted(self._held)
        shares = [self._held[seat][1 if seat in in_sum else 0] for seat in held]
        self.phase = Phase.REVEALED
        self._drop_secrets()
        return self._up(revealed=leader_pb2.Revealed(shares=b"".join(shares)))

    def _check_survivors(self, survivors: leader_pb2.Survivors) -> frozenset[int]:
        """The seats in the sum; raises PayloadError unless they have shared with this learner, and are enough."""
        size = len(self._seated.seats)
        in_sum = frozenset(seats_of(survivors.in_sum, size))
        masked_with = frozenset(seats_of(survivors.masked_with, size))
        mine = masked_with & {self._me, *self._seated.graph.neighbours(self._me)}
        if not in_sum <= masked_with or mine != self._held.keys():
            raise PayloadError("survivors that have not sent this learner their shares")
        if len(in_sum) < need(self._plan):
            raise PayloadError(f"a sum of {len(in_sum)} updates; at least {need(self._plan)} are to be in it")
        return in_sum

    def _check_signatures(self, reveal: leader_pb2.Reveal, digest: bytes) -> None:
        assert self._signing is not None
        seats = [signature.seat for signature in reveal.signatures]
        in_sum = seats_of(reveal.survivors.in_sum, len(self._seated.seats))
        if seats != sorted(set(seats)) or not set(seats) <= set(in_sum) or len(seats) < self._plan.threshold:
            raise PayloadError(
                f"{len(set(seats))} survivors agreed to who is in the sum; {self._plan.threshold} must"
            )
        for signature in reveal.signatures:
            seat = self._seated.seats[signature.seat]
            identity, name = seat.advert.identity, seat.name
            self._signing.check(identity, name, digest, signature.sealed, "the agreement")

    # --- and the rest ----------------------------------------------------------------------

    def forget(self) -> None:
        """Drop all secrets: the session is over."""
        self.phase = Phase.OVER
        self._drop_secrets()

    def _check_open(self) -> None:
        if self.phase is Phase.OVER:
            raise LateUpdateError("this session of masks is over; wait for the next one")

    def _drop_secrets(self) -> None:
        self._share_key = self._mask_key = self._self_secret = b""
        self._sharing = {}
        self._pairs = {}
        self._held = {}

    def _expect(self, phase: Phase) -> None:
        if self.phase is not phase:
            raise PayloadError(
                f"a session that is {self.phase.name.lower()} has no {phase.name.lower()} step"
            )

    def _up(self, **said: Any) -> leader_pb2.MaskUp:
        return leader_pb2.MaskUp(session=self.session, **said)


def _asked(message: leader_pb2.MaskDown) -> bytes:
    """What tells a message from others: a reveal is the same, whoever of those in the sum has signed it this time."""
    if message.HasField("reveal"):
        said = leader_pb2.Reveal(survivors=message.reveal.survivors)
        message = leader_pb2.MaskDown(session=message.session, reveal=said)
    return message.SerializeToString(deterministic=True)
