"""The learners at work: who is here, by which link each is reached, and who does what."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Set
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leader.condition import Signal
from leader.config import RunConfig
from leader.data.part import Part
from leader.events import EventStream, LearnerJoined, LearnerLeft, LearnerOverdue
from leader.learners.allocation import Allocation
from leader.learners.dialling import Dialling
from leader.learners.eligibility import Eligibility
from leader.learners.links import Dial, DialledLink, LearnerLink, dial_in_plain
from leader.learners.membership import REMEMBERED, Member, Membership
from leader.learners.registration import CONTROL_NAMES, name_of
from leader.learners.standing import Standings
from leader.runtime import Clock, WallClock
from leader.state import Seats
from leader.trust.audit.chain import BEGINNING, Head
from leader.trust.identities.callers import Caller, host_of
from protos import leader_pb2
from utils.errors import UnknownLearnerError

_log = logging.getLogger(__name__)
_TABLES = (Path("/proc/self/net/tcp"), Path("/proc/self/net/tcp6"))
_ESTABLISHED = "01"
_ASLEEP_S = 1.0  # a timer this late means that the process was stopped


class Workforce:
    """Who is here and who does what; notifies `changed` and those that subscribe when that moves."""

    def __init__(
        self,
        config: RunConfig,
        *,
        classes: int,
        labels: NDArray[np.int64] | None,
        seats: Seats | None,
        events: EventStream,
        groups: NDArray[np.int64] | None = None,
        frozen: str = "",
    ) -> None:
        self._config = config
        self._events = events
        self._members = Membership(
            max_learners=config.limits.max_learners,
            lease_s=config.cohort.lease_s,
            plain_lease_s=max(config.cohort.deadline_s, config.limits.stall_s),
            claims=seats.claims if seats else {},
            began=time.monotonic(),
            stands=stands,
        )
        held = None if labels is None else len(labels)
        self._eligibility = Eligibility(config, classes=classes, held=held, frozen=frozen)
        self.clock: Clock = WallClock()  # of the rounds
        self._standings = Standings(REMEMBERED * config.limits.max_learners)
        self._allocation = Allocation(
            config, labels=labels, groups=groups, resumed=seats, rank=self._rank, noted=self._noted
        )
        self._links: dict[int, LearnerLink] = {}  # by learner, those that are addressed
        self._away: dict[str, leader_pb2.LearnerInfo] = {}  # plain ones whose lease ran out, by connection
        self.dialling = Dialling(config)
        self.dial: Dial = dial_in_plain
        self.audit_head: Callable[[], Head] = lambda: BEGINNING  # what learners shall bear witness to
        self.changed = Signal()
        self._listeners: list[Callable[[], None]] = []

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call `listener` after each change of who is here or who holds what."""
        self._listeners.append(listener)

    def announce(self) -> None:
        """Let everybody look who is here and who holds what."""
        self.changed.notify()
        for listener in self._listeners:
            listener()

    # --- who is here -----------------------------------------------------------------------

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def get(self, learner_id: int) -> Member | None:
        """The member with this id, if it is registered."""
        return self._members.get(learner_id)

    def of(self, caller: Caller) -> Member | None:
        """The member of this identity, or that registered over this connection, if there is one."""
        return self._members.of(caller)

    def identities(self) -> Collection[str]:
        """What tells the members from all other callers; it follows them."""
        return self._members.identities

    def sharing(self, caller: Caller) -> Iterator[Member]:
        """The members of this identity, or that registered over this connection."""
        return self._members.sharing(caller)

    def by_token(self, token: bytes, caller: Caller) -> Member:
        """The member with this session token, of which this is a sign of life; raises UnknownLearnerError."""
        return self._alive(self._members.by_token(token, caller))

    def calling(self, caller: Caller, token: bytes, network_addr: str = "") -> Member:
        """The member that makes a call, a plain one without a token; raises UnknownLearnerError."""
        if token:
            return self.by_token(token, caller)
        try:
            member = self._members.by_address(network_addr, caller, time.monotonic())
        except UnknownLearnerError:
            if (said := self._away.pop(caller.place, None)) is None:
                raise
            member = self.register(said, caller)  # it was only silent
        return self._alive(member)

    def _alive(self, member: Member) -> Member:
        self.heard(member)
        return member

    def heard(self, member: Member) -> None:
        """A sign of life from `member`."""
        first = not member.called
        self._members.touch(member, time.monotonic())
        if first and self._allocation.review():
            self.announce()

    def register(self, info: leader_pb2.LearnerInfo, caller: Caller) -> Member:
        """Take a learner in.

        Raises ForbiddenError, IncompatibleError, NameTakenError, LimitError or PayloadError.
        """
        target = self.dialling.choose(info, caller, partial(self._dialled_beside, info, caller))
        member, new = self._members.register(info, caller, time.monotonic(), self._eligibility.check)
        if target:
            member.link.end()
            self._reach(member, self._dialled(member, target))
        eligible = self._eligibility.met_by(member)
        if not eligible and (new or member in self._allocation):
            _warn_of(member, self._config.cohort.require)
        self._allocation.place(member, eligible=eligible)
        if new:
            member.joined = self.clock.now()
            own = member.own_data.examples if member.own_data else None
            control = CONTROL_NAMES[member.control]
            self._events.publish(
                LearnerJoined(member.learner_id, member.name, member.device or control, control, own)
            )
        self.announce()
        return member

    def _dialled_beside(self, info: leader_pb2.LearnerInfo, caller: Caller) -> list[str]:
        """Where others than the learner that registers are dialled."""
        name = name_of(info, caller)
        return [m.link.target for m in self if m.link.target and m.name != name]

    def _dialled(self, member: Member, target: str) -> DialledLink:
        return DialledLink(
            self.dial(target, member.caller),
            work_timeout_s=self._config.cohort.deadline_s,
            heartbeat_s=None if member.plain else self._config.cohort.lease_s / 2,
            seen=lambda: self.heard(member),
            lost=lambda reason: self.leave(member, f"can't be dialled any more: {reason}"),
            target=target,
        )

    def attach(self, member: Member, link: LearnerLink) -> None:
        """The member's session is open: push to it through `link` from now on."""
        member.link.end()
        self._reach(member, link)
        self.heard(member)
        self.announce()

    def _reach(self, member: Member, link: LearnerLink) -> None:
        member.link, member.connected = link, True
        self._links.pop(member.learner_id, None)
        if link.addressed:
            self._links[member.learner_id] = link

    def address(self, link: LearnerLink) -> None:
        """Tell this link, of no member, what all learners are told."""
        self._links[0] = link

    def links(self) -> list[LearnerLink]:
        """The links by which all who are here are told something."""
        return list(self._links.values())

    def detach(self, member: Member, link: LearnerLink) -> None:
        """The member's session broke; its lease goes on, so that it can come back."""
        if member.link is link:
            member.connected = False
            member.parted = time.monotonic()
            self.announce()

    def leave(self, member: Member, reason: str) -> None:
        """The member is gone; the parts that it held go to others."""
        if not self._members.remove(member):
            return
        member.link.end()
        self._links.pop(member.learner_id, None)
        self._allocation.remove(member)
        self._events.publish(LearnerLeft(member.learner_id, member.name, reason))
        self.announce()

    async def watch_leases(self) -> None:
        """Let members go as their leases run out, for ever."""
        while True:
            due, now = self._members.next_expiry(), time.monotonic()
            wait_s = min(self._config.cohort.lease_s, max(0.0, due - now))  # who comes may be due sooner
            await asyncio.sleep(wait_s)
            if time.monotonic() <= now + wait_s + _ASLEEP_S:
                self.expire()
                continue
            for member in self:  # it was this process that slept, and heard nobody
                self.heard(member)

    def expire(self) -> None:
        """Let go of every member whose lease has run out."""
        for member in self._members.expired(time.monotonic()):
            lease_s = self._members.lease_s(member)
            self.leave(member, f"no sign of life for {lease_s:g} s")
            if member.plain:
                self._away[member.identity] = member.said
                while len(self._away) > self._members.max_learners:
                    del self._away[next(iter(self._away))]

    # --- how they stand; see Standings -----------------------------------------------------

    def _noted(self) -> Set[int] | None:
        """The only ones whose rank may be other than 0, as far as that can be told without a look at each."""
        return self._members.silent if self._standings.calm(self.clock.now()) else None

    def _rank(self, member: Member) -> int:
        return self._standings.rank(member, self.clock.now())

    def worked(self, member: Member) -> None:
        """An update of `member` counts."""
        member.owes_since = None
        self._standings.worked(member.name)

    def ask_spent(self, spent: Callable[[], Set[str]]) -> None:
        """`spent` tells which parts can't pay for a further round."""
        self._allocation.spent = spent

    def proven(self, name: str) -> bool:
        """Whether work of the learner of this name has counted."""
        return self._standings.proven(name)

    def failed(self, member: Member, seconds: float) -> None:
        """`member` could not do its work, and said so after so many seconds."""
        self._standings.held_up({member.name: seconds}, self.clock.now())

    def overdue(self, learners: Collection[int], deadline_s: float, *, abandoned: bool) -> None:
        """These learners' work is too old, or past the deadline: it goes to others, if others are here.

        Where the exchange closes without them, those whose work has counted before are only slow.
        """
        late = [m for m in self if m.learner_id in learners and (abandoned or not self.proven(m.name))]
        now = self.clock.now()
        waited = {
            m.name: deadline_s if m.owes_since is None else min(deadline_s, now - m.owes_since) for m in late
        }
        self._standings.held_up(waited, now)
        before = dict(self.holders())
        self._allocation.spread()
        after, names = self.holders(), {member.learner_id: member.name for member in self}
        for member in late:
            parts = sorted(part for part, learner in before.items() if learner == member.learner_id)
            moved = {part: names.get(after.get(part, 0), "") for part in parts}
            behind_s, waited_s = self._standings.behind_s(member.name, now), waited[member.name]
            self._events.publish(LearnerOverdue(member.learner_id, member.name, waited_s, behind_s, moved))
        self.announce()

    # --- who does what; see Allocation -----------------------------------------------------

    def deal(self) -> None:
        """Before the first round: split the leader's data among the learners that bring none."""
        if not self.dealt:
            self._allocation.deal()
            self.announce()

    def rebalance(self) -> None:
        """Between rounds: spread the shards evenly again, with as few moves as possible."""
        self._allocation.spread()
        self.announce()

    @property
    def dealt(self) -> bool:
        """Whether the data has been dealt out."""
        return self._allocation.dealt

    def seats(self, *, over: bool = False) -> Seats | None:
        """The deal as it stands, by learners' names; None before the data is dealt. `over`: the run ends with it."""
        seats = self._allocation.seats()
        return seats and replace(seats, claims=self._members.claims(time.monotonic(), over=over))

    def shard_of(self, member: Member, shard: int | None) -> NDArray[np.int64]:
        """Example indices of a shard that `member` may fetch; its first one where none is named."""
        return self._allocation.shard_of(member, shard)

    def parts(self) -> Mapping[str, Part]:
        """All the work there is at present, by part id."""
        return self._allocation.parts()

    def available(self) -> Mapping[str, Part]:
        """The work that somebody is to do, by part id."""
        return self._allocation.available()

    def examples(self) -> int:
        """Of all the work there is."""
        return self._allocation.examples()

    def holders(self) -> Mapping[str, int]:
        """Which learner does which part; parts that nobody can do are left out."""
        return self._allocation.holders()

    def eligible(self) -> int:
        """How many of the learners meet cohort.require."""
        return len(self._allocation)

    def others(self, names: Collection[str]) -> bool:
        """Whether somebody who may do work is here beside these."""
        return any(member in self._allocation and member.name not in names for member in self)

    def enough(self) -> bool:
        """Whether a further round can begin with the learners that are here."""
        return self._allocation.enough()


def _warn_of(member: Member, required: str) -> None:
    """Tell why a member is given no work."""
    _log.warning(
        "%s is left out, it does not meet cohort.require (%s): it said tags %s, device %s, %.1f GiB of memory",
        member.name,
        required,
        ",".join(sorted(member.tags)) or "none",
        member.device_kind or "unknown",
        member.memory_bytes / (1 << 30),
    )


def stands(peer: str) -> bool | None:
    """Whether the connection from a gRPC peer is open, which gRPC tells nobody; None where this system does not say."""
    try:
        packed = ipaddress.ip_address(host_of(peer)).packed
        # As the kernel prints it: in words of the machine's order, here that of all that torch runs on.
        words = "".join(packed[at : at + 4][::-1].hex() for at in range(0, len(packed), 4))
        remote = f"{words}:{int(peer.rpartition(':')[2]):04x}".upper()
        rows = [line.split()[2:4] for table in _TABLES for line in table.read_text().splitlines()[1:]]
    except (OSError, ValueError):
        return None
    return any(address.endswith(remote) and state == _ESTABLISHED for address, state in rows)
