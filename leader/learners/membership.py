"""Who is registered: names, tokens and leases; pure data, the clock is passed in."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import math
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping, Set
from dataclasses import dataclass, field

from leader.learners.links import LearnerLink
from leader.learners.registration import check, name_of
from leader.state import Claim
from leader.trust.identities.callers import Caller
from protos import leader_pb2
from utils.errors import LimitError, NameTakenError, UnknownLearnerError

#: How long a learner whose connection broke has its name to itself, on its own host too: a part of a lease, and at
#: most seconds. A learner that was not killed is back by then, as it never waits longer than half of that.
_GRACE, _GRACE_S = 1 / 4, 10.0
REMEMBERED = 4  # names whose ids are kept, as a multiple of the learners that may be registered
_NO_TAGS: frozenset[str] = frozenset()  # one for all: a run may have a hundred thousand members
_NOTHING = leader_pb2.LearnerInfo()


@dataclass(frozen=True, slots=True)
class OwnData:
    """Training data that a learner brings and keeps."""

    examples: int
    classes: int
    fingerprint: str


@dataclass(slots=True)
class Member:
    """One registered learner."""

    learner_id: int
    name: str
    token: bytes = field(repr=False)
    control: int  # leader_pb2.Control
    network_addr: str
    caller: Caller  # who registered
    device: str
    own_data: OwnData | None
    last_seen: float
    tags: frozenset[str] = frozenset()  # words of its owner
    device_kind: str = ""  # such as "cuda"; "" = not said
    memory_bytes: int = 0  # of the device; 0 = not said
    inline_bytes: int = 0  # of the largest model that it takes with a work order
    connected: bool = False  # its session is open, or it was reached by dialling
    parted: float = 0.0  # when it registered, or its session broke
    called: bool = False  # since it registered
    joined: float = 0.0  # when it came, by the clock of the rounds
    owes_since: float | None = (
        None  # when it was given work first since its last update counted; the same clock
    )
    said: leader_pb2.LearnerInfo = field(default_factory=leader_pb2.LearnerInfo, repr=False)  # of a plain one
    link: LearnerLink = field(default_factory=LearnerLink, repr=False)

    @property
    def plain(self) -> bool:
        """Whether it speaks only the plain contract."""
        return self.control == leader_pb2.CONTROL_PLAIN

    @property
    def identity(self) -> str:
        """What tells it apart from all others: the name that it has proven, else its connection."""
        return self.caller.place

    @property
    def claim(self) -> Claim:
        """Who may come back under its name."""
        return Claim("" if self.plain else _digest(self.token), self.caller.address)

    def may_be(self, caller: Caller) -> bool:
        """Whether this caller's token or address counts: between identities, only its own."""
        return self.identity == caller.place or not (self.caller.known or caller.known)


class Membership:
    """Register of learners by id, name, token and identity."""

    def __init__(
        self,
        *,
        max_learners: int,
        lease_s: float,
        plain_lease_s: float = 0.0,
        claims: Mapping[str, Claim] | None = None,
        began: float = 0.0,
        stands: Callable[[str], bool | None] = lambda peer: None,
    ) -> None:
        self.max_learners = max_learners
        self._lease_s = lease_s
        self._plain_lease_s = max(lease_s, plain_lease_s)
        self._claims = dict(claims or {})  # of learners that were here before a restart, and may come back
        self._began = began
        self._stands = stands  # whether the connection from a peer is open, where that is known
        self._ids = itertools.count(1)
        self._known_ids: dict[str, int] = {}  # by name, also of learners that left
        self._members: dict[int, Member] = {}
        self._by_token: dict[bytes, Member] = {}
        self._by_identity: dict[str, dict[int, Member]] = {}  # by id; several may share a connection
        self._own_examples = 0  # of all members together
        self._unproven: dict[int, Member] = {}  # those whose name is kept by a claim
        self._silent: set[int] = set()  # those that have not called since they registered

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members.values())

    def __len__(self) -> int:
        return len(self._members)

    def get(self, learner_id: int) -> Member | None:
        """The member with this id, if it is registered."""
        return self._members.get(learner_id)

    def register(
        self,
        info: leader_pb2.LearnerInfo,
        caller: Caller,
        now: float,
        accept: Callable[[leader_pb2.LearnerInfo, int], None] = lambda info, others: None,
    ) -> tuple[Member, bool]:
        """The member that `info` describes, and whether it is new.

        A learner that proves an earlier registration by its token, or whose lease has run out,
        keeps its id. `accept` is called with well-formed `info` and the number of examples that all others
        brought, and raises to refuse it.
        Raises ForbiddenError, IncompatibleError, NameTakenError, LimitError or PayloadError.
        """
        check(info, caller)
        name = name_of(info, caller)
        known = self._members.get(self._known_ids.get(name, 0))
        accept(info, self._own_examples - _own_examples(known))
        claim = known.claim if known is not None else self._kept(now).get(name)
        if claim is not None and not self._may_return(known, claim, info, caller, now):
            raise _taken(name, connected=known is not None and known.connected)
        if known is None and len(self._members) >= self.max_learners:
            raise LimitError(
                f"{self.max_learners} learners are registered, no more are taken (limits.max_learners)"
            )
        member = self._make(info, name, caller, now)
        if claim is not None and _proves(info, claim):
            member.token = info.token  # so that what a checkpoint says of it stays true
        self._claims.pop(name, None)
        if known is not None:
            self._by_token.pop(known.token, None)
            self._unlist(known)
            member.link = known.link  # until there is another
            member.joined = known.joined
        self._own_examples += _own_examples(member) - _own_examples(known)
        self._enter(member)
        return member, known is None

    def _enter(self, member: Member) -> None:
        self._members[member.learner_id] = member
        self._silent.add(member.learner_id)
        self._unproven.pop(member.learner_id, None)
        if not member.caller.known:
            self._unproven[member.learner_id] = member
        self._by_token[member.token] = member
        self._list(member)

    def _list(self, member: Member) -> None:
        self._by_identity.setdefault(member.identity, {})[member.learner_id] = member

    def _unlist(self, member: Member) -> None:
        sharing = self._by_identity[member.identity]
        del sharing[member.learner_id]
        if not sharing:
            del self._by_identity[member.identity]

    def _may_return(
        self, known: Member | None, claim: Claim, info: leader_pb2.LearnerInfo, caller: Caller, now: float
    ) -> bool:
        """Whether a caller may go on under a name that is kept for whom `claim` tells of.

        A learner that restarted has no token: it waits until the one that it was could have come back.
        """
        if known is not None and not known.may_be(caller):
            return False
        if known is not None and known.plain:
            return info.control == leader_pb2.CONTROL_PLAIN and self._is(known, caller, now)
        if _proves(info, claim):
            return True
        if known is not None and known.connected:
            return False
        since = self._began if known is None else known.parted
        rested = now >= since + min(_GRACE * self._lease_s, _GRACE_S) or not claim.digest
        return caller.known or (rested and claim.host == caller.address)

    def _kept(self, now: float) -> Mapping[str, Claim]:
        """Claims of learners that were here before a restart, for a lease."""
        return self._claims if now < self._began + self._lease_s else {}

    def claims(self, now: float, *, over: bool = False) -> dict[str, Claim]:
        """Who may come back under which name after a restart at clock value `now`.

        When the run is `over`, those that are connected hear of it and end: who is started by their names is new.
        """
        mine = {m.name: m.claim for m in self._unproven.values() if not (over and m.connected)}
        return {**self._kept(now), **mine}

    @property
    def silent(self) -> Set[int]:
        """Those that have registered and not called since; it follows them."""
        return self._silent

    def _is(self, member: Member, caller: Caller, now: float) -> bool:
        """Whether a caller without a token is this plain learner: by its connection, or where that is gone."""
        if member.identity == caller.place:
            return True
        silent = now >= member.last_seen + self._lease_s
        stands = self._stands(member.identity)
        gone = silent if stands is None else not stands
        return gone and (silent or member.caller.address == caller.address)

    def _make(self, info: leader_pb2.LearnerInfo, name: str, caller: Caller, now: float) -> Member:
        if name not in self._known_ids:
            if len(self._known_ids) >= REMEMBERED * self.max_learners:
                self._known_ids = {member.name: id_ for id_, member in self._members.items()}
            self._known_ids[name] = next(self._ids)
        own = info.own_data
        return Member(
            learner_id=self._known_ids[name],
            name=name,
            token=secrets.token_bytes(16),
            control=info.control,
            network_addr=info.network_addr,
            caller=caller,
            device=info.device,
            own_data=OwnData(own.examples, own.classes, own.fingerprint)
            if info.HasField("own_data")
            else None,
            last_seen=now,
            parted=now,
            tags=frozenset(info.tags) if info.tags else _NO_TAGS,
            device_kind=info.device_kind,
            memory_bytes=info.memory_bytes,
            inline_bytes=info.inline_bytes,
            said=info if info.control == leader_pb2.CONTROL_PLAIN else _NOTHING,
        )

    def by_token(self, token: bytes, caller: Caller) -> Member:
        """The member with this session token; of an identity, if it is that one's. Raises UnknownLearnerError."""
        member = self._by_token.get(token)
        if member is None or not member.may_be(caller):
            raise UnknownLearnerError("unknown session token; register again")
        return member

    def by_address(self, network_addr: str, caller: Caller, now: float) -> Member:
        """The plain member that a call with no token came from.

        By its identity or connection; where its connection is gone, by its network address, or by its host
        where one plain learner alone registered from there. Raises UnknownLearnerError.
        """
        plain = [member for member in self._members.values() if member.plain and member.may_be(caller)]
        for matches in (
            [m for m in plain if m.identity == caller.place],
            [m for m in plain if network_addr and m.network_addr == network_addr],
            [m for m in plain if m.caller.address == caller.address],
        ):
            if len(matches) == 1 and self._is(matches[0], caller, now):
                self._unlist(matches[0])
                matches[0].caller = caller
                self._list(matches[0])
                return matches[0]
        raise UnknownLearnerError(
            "can't tell which learner this call is from; register first, and call on the same connection"
        )

    def of(self, caller: Caller) -> Member | None:
        """The member of this identity, or that registered over this connection, if there is one."""
        return next(self.sharing(caller), None)

    @property
    def identities(self) -> Collection[str]:
        """What tells the members from all other callers; it follows them."""
        return self._by_identity.keys()

    def sharing(self, caller: Caller) -> Iterator[Member]:
        """The members of this identity, or that registered over this connection."""
        return iter(self._by_identity.get(caller.place, {}).values())

    def touch(self, member: Member, now: float) -> None:
        """A sign of life from `member`."""
        member.last_seen = now
        member.called = True
        if self._members.get(member.learner_id) is member:
            self._silent.discard(member.learner_id)

    def lease_s(self, member: Member) -> float:
        """Seconds without a sign of life after which `member` counts as lost.

        A plain learner that has called computes in silence; one that is dialled is called by the leader.
        """
        if not member.plain:
            return self._lease_s
        return math.inf if member.connected else self._plain_lease_s if member.called else self._lease_s

    def expired(self, now: float) -> list[Member]:
        """Members whose lease has run out."""
        return [m for m in self._members.values() if now >= m.last_seen + self.lease_s(m)]

    def next_expiry(self) -> float:
        """Clock value at which the next lease runs out, if nothing is heard until then; inf = none."""
        return min((m.last_seen + self.lease_s(m) for m in self._members.values()), default=math.inf)

    def remove(self, member: Member) -> bool:
        """Forget `member`; False if it was replaced or removed before."""
        if self._members.get(member.learner_id) is not member:
            return False
        del self._members[member.learner_id]
        self._unlist(member)
        self._silent.discard(member.learner_id)
        self._unproven.pop(member.learner_id, None)
        self._own_examples -= _own_examples(member)
        self._by_token.pop(member.token, None)
        return True


def _digest(token: bytes) -> str:
    return hashlib.sha256(token).hexdigest()


def _proves(info: leader_pb2.LearnerInfo, claim: Claim) -> bool:
    return hmac.compare_digest(claim.digest, _digest(info.token))


def _own_examples(member: Member | None) -> int:
    return member.own_data.examples if member is not None and member.own_data is not None else 0


def _taken(name: str, *, connected: bool) -> NameTakenError:
    return NameTakenError(
        f"a learner named {name!r} is connected already; start this one with another --name (or without)"
        if connected
        else f"the name {name!r} is kept for a while for the learner that had it; wait, or choose another"
    )
