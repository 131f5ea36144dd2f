"""A whole cohort in one session of secure aggregation, messages carried by hand: for tests."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leader.secagg.actions import Action, Failed, Send, Unmask
from leader.secagg.session import MaskSession, Times
from leader.secagg.unmasking import seeds
from learner.secagg.member import Floors, MaskMember, Phase, Signing
from protos import leader_pb2
from utils.secagg.masks import add_streams
from utils.secagg.roster import order_bytes

SESSION = bytes(range(16))
MODEL = bytes(32)
SIZE = 1000
WIDE = 5
TIMES = Times(keys_s=10.0, reveal_s=10.0)

Words = tuple[NDArray[Any], NDArray[np.uint64]]


def plan(parties: int, **other: Any) -> leader_pb2.MaskPlan:
    """For so many learners, of which two thirds and one unmask."""
    given = {"bits": 32, "range": 8.0, "least": 3, "threshold": 2 * parties // 3 + 1, **other}
    return leader_pb2.MaskPlan(parties=parties, **given)


def order(name: str, masking: leader_pb2.MaskPlan, **other: Any) -> leader_pb2.WorkOrder:
    """A learner's work; seed and work id are its own."""
    fields = {"round": 3, "version": 7, "exchange": "delta", "work_id": f"3-0-{name}", "seed": len(name)}
    return leader_pb2.WorkOrder(masking=masking, **{**fields, **other})


def names_of(count: int) -> list[str]:
    """Names of learners, not in the order in which they came."""
    return [f"learner-{n:04}" for n in sorted(range(count), key=lambda n: n * 7919 % 1009)]


class Cohort:
    """A leader's session and its learners; what is said is carried at once, in turn, unless it is held back."""

    def __init__(
        self,
        count: int,
        *,
        names: Iterable[str] = (),
        signing: Mapping[str, Signing] = MappingProxyType({}),
        **planned: Any,
    ) -> None:
        self.names = list(names) or names_of(count)
        self.signing = dict(signing)  # by name
        self.plan = plan(count, **planned)
        self.orders = {name: order(name, self.plan) for name in self.names}
        self.members = {
            name: MaskMember(
                name, SESSION, self.orders[name], Floors(least=self.plan.least), self.signing.get(name)
            )
            for name in self.names
        }
        work = {name: one.work_id for name, one in self.orders.items()}
        alike = order_bytes(self.orders[self.names[0]])
        check = next(iter(self.signing.values())).check if self.signing else None
        self.session = MaskSession(SESSION, self.plan, alike, work, 0.0, TIMES, check)
        self.gone: set[str] = set()
        self.vows: dict[str, bytes] = {}
        self.events: list[Action] = []  # all that is not a message

    def do(self, actions: Iterable[Action], now: float = 0.0) -> None:
        """Carry out what the session says, and what comes of it."""
        queue = list(actions)
        while queue:
            action = queue.pop(0)
            if not isinstance(action, Send):
                self.events.append(action)
            elif action.name not in self.gone and (answer := self.answer(action)) is not None:
                queue += self.session.heard(action.name, answer, now)

    def answer(self, send: Send) -> leader_pb2.MaskUp | None:
        """What the member says to a message."""
        member = self.members[send.name]
        match send.message.WhichOneof("kind"):
            case "open":
                return member.advert
            case "over":
                member.forget()
                return None
        return member.heard(send.message, self.allow)

    def allow(self, work_id: str, digest: bytes) -> bool:
        """The vow of a learner that is never restarted."""
        return self.vows.setdefault(work_id, digest) == digest

    def lose(self, *names: str, now: float = 0.0) -> None:
        """These are gone."""
        self.gone |= set(names)
        for name in names:
            self.do(self.session.lost(name, now), now)

    def plain(self, name: str) -> Words:
        """What a learner would send without masks."""
        rng = np.random.default_rng(sum(name.encode()))
        words = rng.integers(0, 2**20, SIZE).astype(f"u{self.plan.bits // 8}")
        return words, rng.integers(0, 2**40, WIDE).astype(np.uint64)

    def masked(self, name: str) -> Words:
        """What it sends."""
        values, wide = self.plain(name)
        self.members[name].mask(values, wide, MODEL)
        return values, wide

    def collect(self, names: Collection[str]) -> Words:
        """The masked sum of these."""
        return _sum([self.masked(name) for name in names], self.plan.bits)

    def expected(self, names: Iterable[str]) -> Words:
        """The sum that should come out."""
        return _sum([self.plain(name) for name in names], self.plan.bits)

    @property
    def revealed(self) -> Unmask:
        """What was revealed last."""
        return [event for event in self.events if isinstance(event, Unmask)][-1]

    def unmask(self, total: Words) -> Words:
        """The sum without masks, by what was revealed."""
        event = self.revealed
        found = seeds(event.seated, event.survivors, event.answers, MODEL)
        values, wide = total
        add_streams(values, [s[:32] for s in found.plus], [s[:32] for s in found.minus])
        add_streams(wide, [s[32:] for s in found.plus], [s[32:] for s in found.minus])
        return values, wide

    @property
    def failure(self) -> str:
        """Why the session failed; "" = it has not."""
        return next((event.reason for event in self.events if isinstance(event, Failed)), "")

    def phases(self) -> Mapping[str, Phase]:
        """Where each member stands."""
        return {name: member.phase for name, member in self.members.items()}


def _sum(all_words: Collection[Words], bits: int) -> Words:
    values, wide = np.zeros(SIZE, f"u{bits // 8}"), np.zeros(WIDE, np.uint64)
    for one, other in all_words:
        values += one
        wide += other
    return values, wide
