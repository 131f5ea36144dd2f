"""The leader in one session of secure aggregation: messages and time in, messages out; no sockets, no clock, no files.

    KEYS --adverts--> SHARES --shares--> COLLECTING --close--> CLOSED --unmask--> [AGREEING -->] REVEALING --> DONE
    any of them --too few learners, or too late--> FAILED

Uploads are not seen here: between SHARES and `close` learners train and send what they have masked. Between `close`
and `unmask` the caller writes down who is in the sum, so that a crash never asks for another set of survivors.
Bonawitz et al. 2017, figure 4 (https://eprint.iacr.org/2017/281).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from itertools import product
from typing import Any

from leader.secagg.actions import Action, Closed, Failed, Ready, Send, Unmask
from leader.secagg.complaints import Complaints
from protos import leader_pb2
from utils.errors import PayloadError
from utils.secagg import shamir
from utils.secagg.roster import (
    Seated,
    bit_set,
    check_advert,
    need,
    seats_of,
    signed_advert,
)

_SEALED = 2 * shamir.SHARE_BYTES + 16


class Phase(Enum):
    """Where the session stands."""

    KEYS = auto()
    SHARES = auto()
    COLLECTING = auto()
    CLOSED = auto()
    AGREEING = auto()
    REVEALING = auto()
    DONE = auto()
    FAILED = auto()


#: Raises ForbiddenError unless it is signed: identity, name, digest, signature, what. See utils.secagg.signatures.
Check = Callable[[bytes, str, bytes, bytes, str], object]


@dataclass(frozen=True)
class Times:
    """How long learners have, in seconds."""

    keys_s: float = 30.0  # for their keys, and again for their shares
    reveal_s: float = 30.0  # for their agreement, and again for what they reveal


class MaskSession:
    """One cohort's masked sum."""

    def __init__(
        self,
        session: bytes,
        plan: leader_pb2.MaskPlan,
        order: bytes,
        work: Mapping[str, str],
        now: float,
        times: Times = Times(),
        check: Check | None = None,
    ) -> None:
        """`work` has the ids of the cohort's open work by learners' names, `order` what is alike in all of it."""
        self.plan = plan
        self.phase = Phase.KEYS
        self.deadline: float | None = now + times.keys_s
        self.session = session
        self._order = order
        self._times = times
        assert check is not None or not plan.signed
        self._check = check if plan.signed else None
        self._work = dict(work)
        self.here = set(work)  # that are waited for
        self._adverts: dict[str, leader_pb2.Advert] = {}
        self._seats: dict[str, int] = {}  # by name, once keys are here
        self._shares: dict[int, dict[int, bytes]] = {}  # sealed: by sender, by receiver
        self._last: dict[str, leader_pb2.MaskDown] = {}  # what each was told last, for whoever reconnects
        self._signatures: dict[int, bytes] = {}
        self._revealed: dict[int, dict[int, bytes]] = {}  # by who answered, by whose share it is
        self._refused: set[str] = set()  # that take no part any more, such as after a restart
        self.complaints = Complaints(plan.parties)
        self._tried = 0  # how many answers were there when secrets were put together last
        self._misfit = 0, ""  # how many of them gave none, and what is said to that
        self._ends = 0.0  # clock value at which nobody is waited for any more

    @classmethod
    def resumed(cls, closed: Closed, times: Times, check: Check | None = None) -> MaskSession:
        """A session that was closed and written down before the leader ended; nobody is there yet."""
        work = {seat.name: "" for seat in closed.seats}
        made = cls(closed.session, closed.plan, closed.order, work, 0.0, times, check)
        made._open_seats(closed.seats)
        made._shares = {seat: {} for seat in seats_of(closed.survivors.masked_with, len(closed.seats))}
        made.survivors = closed.survivors
        made.phase, made.deadline = Phase.CLOSED, None
        return made

    @property
    def closed(self) -> Closed:
        """What is to be written down of a session that is closed."""
        return Closed(self.session, self._seated.order, self.plan, self._seated.seats, self.survivors)

    # --- events ----------------------------------------------------------------------------

    def open(self) -> list[Action]:
        """Ask everybody for keys."""
        return [
            self._send(name, open=leader_pb2.MaskOpen(work_id=work_id))
            for name, work_id in self._work.items()
        ]

    def returned(self, name: str) -> list[Action]:
        """A learner is connected again: one of the cohort hears once more what it was told last."""
        self.here |= {name} & self._work.keys()
        return [Send(name, self._last[name])] if name in self._last else []

    def lost(self, name: str, now: float) -> list[Action]:
        """A learner is gone; it is not waited for."""
        self.here.discard(name)
        return self._advance(now)

    def heard(self, name: str, message: leader_pb2.MaskUp, now: float) -> list[Action]:
        """A learner has said something; raises PayloadError or ForbiddenError if that has no place here."""
        if name not in self._work:
            raise PayloadError("a message of a learner that this session does not have")
        match message.WhichOneof("kind"):
            case "advert":
                self._on_advert(name, message.advert)
            case "shares":
                self._on_shares(self._seat(name), message.shares)
            case "agreed":
                self._on_agreed(self._seat(name), message.agreed)
            case "revealed":
                self._on_revealed(self._seat(name), message.revealed)
            case "refused":
                return self._on_refused(name, set(message.refused.unopened), now)
            case kind:
                raise PayloadError(f"{kind} is nothing that a masking session knows")
        return self._advance(now)

    def tick(self, now: float) -> list[Action]:
        """Time has passed."""
        return self._advance(now)

    def close(self, names: Collection[str], now: float) -> list[Action]:
        """Updates of these learners are in the sum, and no other will be."""
        assert self.phase is Phase.COLLECTING
        here = {self._seats[name] for name in names if name in self._seats} & self._shares.keys()
        if len(here) < need(self.plan):
            return self._fail(f"{len(here)} masked updates came, {need(self.plan)} are needed")
        size = len(self._seated.seats)
        self.survivors = leader_pb2.Survivors(
            in_sum=bit_set(here, size), masked_with=bit_set(self._shares.keys(), size)
        )
        self.phase, self.deadline = Phase.CLOSED, None
        return []

    def misfit(self, now: float, reason: str) -> list[Action]:
        """What was revealed gives no secrets: try with what has come since, wait for the others, or give up."""
        assert self.phase is Phase.DONE
        self.phase, self.deadline = Phase.REVEALING, self._ends
        self._misfit = self._tried, reason
        return self._advance(now)

    def unmask(self, now: float) -> list[Action]:
        """The survivors are written down: ask them for what unmasks the sum."""
        assert self.phase is Phase.CLOSED
        self.deadline = now + self._times.reveal_s
        if self._check is not None:
            self.phase = Phase.AGREEING
            return self._tell(self._in_sum, survivors=self.survivors)
        return self._reveal()

    def over(self, reason: str) -> list[Action]:
        """The round has ended: whoever is in the session may forget its secrets."""
        return [self._send(name, over=leader_pb2.MaskOver(reason=reason)) for name in self._work]

    def _on_refused(self, name: str, unopened: Collection[int], now: float) -> list[Action]:
        self.here.discard(name)
        self._refused.add(name)
        self.complaints.add(name, [of for of, seat in self._seats.items() if seat in unopened])
        return [self._ready()] if self.phase is Phase.COLLECTING else self._advance(now)

    # --- keys and shares -------------------------------------------------------------------

    def _on_advert(self, name: str, advert: leader_pb2.Advert) -> None:
        if self.phase is not Phase.KEYS:
            if self._adverts.get(name) == advert:
                return
            raise PayloadError("keys came too late, or others than before; wait for the next session")
        check_advert(advert)
        if self._check is not None:
            signed = signed_advert(self.session, self._order, name, advert)
            self._check(advert.identity, name, signed, advert.signature, "the advert")
        _check_own(advert, [other for of, other in self._adverts.items() if of != name])
        self._adverts[name] = advert
        self._refused.discard(name)

    def _seat(self, name: str) -> int:
        if name not in self._seats:
            raise PayloadError("this learner has no seat in the session; wait for the next one")
        return self._seats[name]

    def _open_shares(self, now: float) -> list[Action]:
        names = sorted(self._adverts)
        seats = tuple(leader_pb2.Seat(name=name, advert=self._adverts[name]) for name in names)
        self._open_seats(seats)
        self.phase, self.deadline = Phase.SHARES, now + self._times.keys_s
        return [
            self._send(name, roster=leader_pb2.Roster(seats=seats, you=seat))
            for name, seat in self._seats.items()
        ]

    def _open_seats(self, seats: tuple[leader_pb2.Seat, ...]) -> None:
        self._seated = Seated(self.session, self._order, self.plan, seats)
        self._seats = {seat.name: number for number, seat in enumerate(seats)}

    def _on_shares(self, seat: int, shares: leader_pb2.Shares) -> None:
        sealed = {share.seat: share.sealed for share in shares.shares}
        if self._shares.get(seat) == sealed:
            return
        if self.phase is not Phase.SHARES or seat in self._shares:
            raise PayloadError("shares came too late, or others than before; wait for the next session")
        complete = len(shares.shares) == len(sealed) and sealed.keys() == set(
            self._seated.graph.neighbours(seat)
        )
        if not complete or any(len(one) != _SEALED for one in sealed.values()):
            raise PayloadError(f"shares are sent to each neighbour once, {_SEALED} bytes each")
        self._shares[seat] = sealed

    def _open_collecting(self) -> list[Action]:
        self.phase, self.deadline = Phase.COLLECTING, None
        actions: list[Action] = []
        for seat in sorted(self._shares):
            senders = sorted(set(self._seated.graph.neighbours(seat)) & self._shares.keys())
            shares = [leader_pb2.Share(seat=other, sealed=self._shares[other][seat]) for other in senders]
            actions.append(self._send(self._name(seat), shares=leader_pb2.Shares(shares=shares)))
        return [*actions, self._ready()]

    def _ready(self) -> Ready:
        names = (self._name(seat) for seat in sorted(self._shares))
        return Ready(tuple(name for name in names if name not in self._refused))

    # --- survivors -------------------------------------------------------------------------

    @property
    def _in_sum(self) -> tuple[int, ...]:
        return seats_of(self.survivors.in_sum, len(self._seated.seats))

    def _on_agreed(self, seat: int, agreed: leader_pb2.Agreed) -> None:
        if self.phase is not Phase.AGREEING or self._check is None:
            return  # enough had agreed before
        if seat not in self._in_sum:
            raise PayloadError("who is not in the sum has no say in it")
        digest = self._seated.survivors_digest(self.survivors)
        advert = self._seated.seats[seat].advert
        self._check(advert.identity, self._name(seat), digest, agreed.signature, "the agreement")
        self._signatures[seat] = agreed.signature

    def _reveal(self) -> list[Action]:
        self.phase, self._ends = Phase.REVEALING, self.deadline or 0.0
        signatures = [leader_pb2.Share(seat=s, sealed=self._signatures[s]) for s in sorted(self._signatures)]
        return self._tell(
            sorted(self._asked), reveal=leader_pb2.Reveal(survivors=self.survivors, signatures=signatures)
        )

    @property
    def _asked(self) -> Collection[int]:
        """Who is to reveal shares."""
        return self._in_sum if self._check is None else self._signatures

    def _held_by(self, seat: int) -> list[int]:
        return sorted({seat, *self._seated.graph.neighbours(seat)} & self._shares.keys())

    def _on_revealed(self, seat: int, revealed: leader_pb2.Revealed) -> None:
        if self.phase not in (Phase.REVEALING, Phase.DONE):
            return
        held, size = self._held_by(seat), shamir.SHARE_BYTES
        if seat not in self._in_sum or len(revealed.shares) != size * len(held):
            raise PayloadError(
                f"who is in the sum reveals {size} bytes for each seat that it holds shares of"
            )
        self._revealed[seat] = {
            of: revealed.shares[size * at : size * (at + 1)] for at, of in enumerate(held)
        }

    # --- going on --------------------------------------------------------------------------

    def _advance(self, now: float) -> list[Action]:
        late = self.deadline is not None and now >= self.deadline
        match self.phase:
            case Phase.KEYS if late or self.here <= self._adverts.keys():
                if len(self._adverts) >= need(self.plan):
                    return self._open_shares(now)
                asked = len(self._work)
                return self._fail(
                    f"{len(self._adverts)} of {asked} learners sent keys, {need(self.plan)} are needed"
                )
            case Phase.SHARES if late or self._awaited(self._seats.values()) <= self._shares.keys():
                if len(self._shares) >= need(self.plan):
                    return self._open_collecting()
                return self._fail(
                    f"{len(self._shares)} of {len(self._seats)} learners sent shares, {need(self.plan)} are needed"
                )
            case Phase.AGREEING if len(self._signatures) >= self.plan.threshold:
                if late or self._awaited(self._in_sum) <= self._signatures.keys():
                    self.deadline = now + self._times.reveal_s
                    return self._reveal()
            case Phase.AGREEING if late:
                return self._fail(
                    f"{len(self._signatures)} learners agreed to who is in the sum, {self.plan.threshold} must"
                )
            case Phase.REVEALING if self._can_unmask():
                self.phase, self.deadline, self._tried = Phase.DONE, None, len(self._revealed)
                return [Unmask(self._seated, self.survivors, dict(self._revealed))]  # more may come meanwhile
            case Phase.REVEALING if late or not self._silent:
                few = f"{len(self._revealed)} learners revealed shares, {self.plan.threshold} are needed"
                return self._fail(self._misfit[1] or few)
        return []

    def _awaited(self, seats: Collection[int]) -> set[int]:
        return {seat for seat in seats if self._name(seat) in self.here}

    def _can_unmask(self) -> bool:
        """Whether there are enough answers for every secret, and more than such as gave none."""
        counts = dict.fromkeys(self._shares, 0)
        for shares in self._revealed.values():
            for of in shares:
                counts[of] += 1
        return min(counts.values()) >= self._seated.shares_needed and len(self._revealed) > self._misfit[0]

    @property
    def _silent(self) -> set[int]:
        """Who may still reveal something: who is not connected may be back in time."""
        return {seat for seat in self._asked if self._name(seat) not in self._refused} - self._revealed.keys()

    def _fail(self, reason: str) -> list[Action]:
        self.phase, self.deadline = Phase.FAILED, None
        return [*self.over(reason), Failed(reason)]

    def _name(self, seat: int) -> str:
        return self._seated.seats[seat].name

    def _tell(self, seats: Collection[int], **said: Any) -> list[Action]:
        return [self._send(self._name(seat), **said) for seat in seats]

    def _send(self, name: str, **said: Any) -> Send:
        message = leader_pb2.MaskDown(session=self.session, **said)
        self._last[name] = message
        return Send(name, message)


def _check_own(advert: leader_pb2.Advert, others: Iterable[leader_pb2.Advert]) -> None:
    """Raises PayloadError where another's is repeated."""
    for other, field in product(others, ("share_key", "mask_key", "self_hash")):
        if getattr(other, field) == getattr(advert, field):
            raise PayloadError(f"another learner has the same {field}")
