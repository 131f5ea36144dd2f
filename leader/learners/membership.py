"""Who is registered: names, tokens and leases; pure data, the clock is passed in."""

from __future__ import annotations

import hmac
import itertools
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from leader.learners.links import LearnerLink
from leader.trust.callers import PLAIN, Caller
from protos import leader_pb2
from utils.errors import (
    ForbiddenError,
    IncompatibleError,
    LimitError,
    NameTakenError,
    PayloadError,
    UnknownLearnerError,
)
from utils.version import PROTOCOL, RELEASE

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_MAX_TEXT = 256
_TAG = re.compile(r"[A-Za-z0-9._-]{1,32}")
_MAX_TAGS = 16
_DEVICE_KIND = re.compile(r"[a-z0-9]{0,16}")
_REMEMBERED = 4  # names whose ids are kept, as a multiple of the learners that may be registered
CONTROL_NAMES: dict[int, str] = {
    leader_pb2.CONTROL_PLAIN: "plain",
    leader_pb2.CONTROL_SESSION: "session",
    leader_pb2.CONTROL_DIALLED: "dialled",
}


@dataclass(frozen=True)
class OwnData:
    """Training data that a learner brings and keeps."""

    examples: int
    classes: int
    fingerprint: str


@dataclass
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
    connected: bool = False  # its session is open, or it was reached by dialling
    link: LearnerLink = field(default_factory=LearnerLink, repr=False)

    @property
    def plain(self) -> bool:
        """Whether it speaks only the plain contract."""
        return self.control == leader_pb2.CONTROL_PLAIN

    @property
    def identity(self) -> str:
        """What tells it apart from all others: the name that it has proven, else its connection."""
        return self.caller.place

    def may_be(self, caller: Caller) -> bool:
        """Whether this caller's token or address counts: between identities, only its own."""
        return self.identity == caller.place or not (self.caller.known or caller.known)


class Membership:
    """Register of learners by id, name, token and identity."""

    def __init__(self, *, max_learners: int, lease_s: float) -> None:
        self.max_learners = max_learners
        self._lease_s = lease_s
        self._ids = itertools.count(1)
        self._known_ids: dict[str, int] = {}  # by name, also of learners that left
        self._members: dict[int, Member] = {}
        self._by_token: dict[bytes, Member] = {}
        self._own_examples = 0  # of all members together

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
        _check(info)
        if caller.role == PLAIN and info.control != leader_pb2.CONTROL_PLAIN:
            raise ForbiddenError(
                "without an identity a learner may speak the plain contract alone; join first"
            )
        name = _name(info, caller)
        known = self._members.get(self._known_ids.get(name, 0))
        accept(info, self._own_examples - _own_examples(known))
        if known is not None and not self._may_replace(known, info, caller):
            raise NameTakenError(
                f"a learner named {name!r} is connected already; start this one with another --name (or without)"
            )
        if known is None and len(self._members) >= self.max_learners:
            raise LimitError(
                f"{self.max_learners} learners are registered, no more are taken (limits.max_learners)"
            )
        member = self._make(info, name, caller, now)
        if known is not None:
            self._by_token.pop(known.token, None)
            member.link = known.link  # until there is another
        self._own_examples += _own_examples(member) - _own_examples(known)
        self._members[member.learner_id] = member
        self._by_token[member.token] = member
        return member, known is None

    def _may_replace(self, known: Member, info: leader_pb2.LearnerInfo, caller: Caller) -> bool:
        if not known.may_be(caller):
            return False
        if known.plain:
            return info.control == leader_pb2.CONTROL_PLAIN
        return hmac.compare_digest(known.token, info.token) or not known.connected

    def _make(self, info: leader_pb2.LearnerInfo, name: str, caller: Caller, now: float) -> Member:
        if name not in self._known_ids:
            if len(self._known_ids) >= _REMEMBERED * self.max_learners:
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
            tags=frozenset(info.tags),
            device_kind=info.device_kind,
            memory_bytes=info.memory_bytes,
        )

    def by_token(self, token: bytes, caller: Caller) -> Member:
        """The member with this session token; of an identity, if it is that one's. Raises UnknownLearnerError."""
        member = self._by_token.get(token)
        if member is None or not member.may_be(caller):
            raise UnknownLearnerError("unknown session token; register again")
        return member

    def by_address(self, network_addr: str, caller: Caller) -> Member:
        """The plain member that a call with no token came from.

        By its identity where it has one; else by its network address, its connection, or its host where one
        plain learner alone registered from there. Raises UnknownLearnerError.
        """
        plain = [member for member in self._members.values() if member.plain and member.may_be(caller)]
        for matches in (
            [m for m in plain if network_addr and m.network_addr == network_addr],
            [m for m in plain if m.identity == caller.place],
            [m for m in plain if m.caller.address == caller.address],
        ):
            if len(matches) == 1:
                return matches[0]
        raise UnknownLearnerError(
            "can't tell which learner this call is from; register first, and call on the same connection"
        )

    def of(self, caller: Caller) -> Member | None:
        """The member of this identity, or that registered over this connection, if there is one."""
        return next((m for m in self._members.values() if m.identity == caller.place), None)

    def touch(self, member: Member, now: float) -> None:
        """A sign of life from `member`."""
        member.last_seen = now

    def expired(self, now: float) -> list[Member]:
        """Members whose lease has run out; plain ones have none."""
        return [m for m in self._members.values() if not m.plain and now >= m.last_seen + self._lease_s]

    def next_expiry(self) -> float | None:
        """Clock value at which the next lease runs out, if nothing is heard until then."""
        return min((m.last_seen + self._lease_s for m in self._members.values() if not m.plain), default=None)

    def remove(self, member: Member) -> bool:
        """Forget `member`; False if it was replaced or removed before."""
        if self._members.get(member.learner_id) is not member:
            return False
        del self._members[member.learner_id]
        self._own_examples -= _own_examples(member)
        self._by_token.pop(member.token, None)
        return True


def _own_examples(member: Member | None) -> int:
    return member.own_data.examples if member is not None and member.own_data is not None else 0


def _name(info: leader_pb2.LearnerInfo, caller: Caller) -> str:
    """The name to register under; raises ForbiddenError for one that belongs to another identity, or may."""
    if caller.role and info.name not in ("", caller.name):
        raise ForbiddenError(
            f"the name {info.name!r} is not this learner's: its certificate says {caller.name!r}; leave --name out"
            if caller.known
            else f"nobody without an identity may choose a name in this run; leave {info.name!r} out"
        )
    if caller.known or info.name:
        return caller.name or info.name
    if info.control != leader_pb2.CONTROL_PLAIN:
        return f"learner-{secrets.token_hex(4)}"
    return f"plain-{info.network_addr or caller.place}"


def _check(info: leader_pb2.LearnerInfo) -> None:
    if info.protocol not in (0, PROTOCOL):
        raise IncompatibleError(
            f"learner speaks protocol {info.protocol}, this leader {PROTOCOL}; install flockstep {RELEASE} there"
        )
    if info.control not in CONTROL_NAMES:
        raise PayloadError(f"control {info.control} is none of this contract's; see leader.proto")
    if info.name and not _NAME.fullmatch(info.name):
        raise PayloadError(f"name {info.name[:64]!r} is not 1 to 64 of letters, digits, '.', '_' and '-'")
    for text in (info.network_addr, info.device, info.release, info.own_data.fingerprint):
        if len(text) > _MAX_TEXT or not text.isprintable():
            raise PayloadError(
                f"text of {len(text)} characters in LearnerInfo; printable, at most {_MAX_TEXT}"
            )
    if len(info.tags) > _MAX_TAGS or not all(_TAG.fullmatch(tag) for tag in info.tags):
        raise PayloadError(
            f"{len(info.tags)} tags in LearnerInfo; at most {_MAX_TAGS}, each of 1 to 32 letters, digits, "
            "'.', '_' and '-'"
        )
    if not _DEVICE_KIND.fullmatch(info.device_kind):
        raise PayloadError(f"device_kind {info.device_kind[:64]!r} is no kind of device, such as cpu or cuda")
    if info.HasField("own_data") and not 0 < info.own_data.examples < 1 << 40:
        raise PayloadError(f"own_data.examples is {info.own_data.examples}; it must be from 1 to 2**40")
