"""Which faults strike whom and when: a list that a seed and a number of rounds decide alone."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import Enum

from utils.faults import EDGE_POINTS, LEADER_POINTS, LEARNER_POINTS

ROUNDS_A_FAULT = 2
LEADER = 0  # target of a fault; learners count from 1, edges from -1 down


class Kind(Enum):
    """What is done, to whom, and what restores it."""

    KILL_AT = "killed at"  # by a named fault point; started again at once
    KILL = "killed"  # at any moment; started again at once
    FREEZE = "frozen past its lease"  # SIGSTOP, then SIGCONT
    LEAVE = "told to leave"  # SIGTERM; started again at once
    CUT = "connection cut"
    CUT_AFTER = "connection cut in the middle of"  # an upload, or a download
    HALF_CLOSE = "connection half closed,"  # up or down
    SILENCE = "network silent past the lease"
    DELAY = "network delayed"
    BANDWIDTH = "network slow"
    REFUSE = "connections refused"
    REORDER = "all reconnect in another order"


@dataclass(frozen=True)
class Fault:
    """One fault, to strike in `round` or the first round after it that its target takes part in."""

    number: int
    kind: Kind
    target: int  # LEADER, a learner, an edge, or the learner whose network it is
    detail: str  # fault point, or direction, or ""
    round: int
    moment: float  # 0..1, how far into the round it strikes
    amount: float  # 0..1, how much of it: bytes, seconds or bytes a second

    @property
    def name(self) -> str:
        """What happens, in words."""
        who = "leader" if self.target == LEADER else "learner" if self.target > 0 else "edge"
        match self.kind:
            case Kind.KILL_AT:
                return f"{who} killed at {self.detail.rpartition('.')[2]}"
            case Kind.KILL | Kind.FREEZE | Kind.LEAVE:
                return f"{who} {self.kind.value}"
            case Kind.CUT_AFTER:
                return f"{self.kind.value} {'an upload' if self.detail == 'up' else 'a download'}"
            case _:
                return f"{self.kind.value} {self.detail}".rstrip()


#: Of runs with edges, beside the others.
_EDGE_DECK: tuple[tuple[Kind, None, str], ...] = (
    *((Kind.KILL_AT, None, point) for point in EDGE_POINTS),
    (Kind.KILL, None, ""),
    (Kind.KILL, None, ""),
    (Kind.FREEZE, None, ""),
    (Kind.LEAVE, None, ""),
)
#: Dealt out over and over, shuffled anew each time; the flag says whether it strikes the leader.
_DECK: tuple[tuple[Kind, bool, str], ...] = (
    *((Kind.KILL_AT, True, point) for point in LEADER_POINTS),
    *((Kind.KILL_AT, False, point) for point in LEARNER_POINTS),
    (Kind.KILL, True, ""),
    (Kind.KILL, False, ""),
    (Kind.KILL, False, ""),
    (Kind.FREEZE, True, ""),
    (Kind.FREEZE, False, ""),
    (Kind.LEAVE, False, ""),
    (Kind.CUT, False, ""),
    (Kind.CUT, False, ""),
    (Kind.CUT_AFTER, False, "up"),
    (Kind.CUT_AFTER, False, "up"),
    (Kind.CUT_AFTER, False, "down"),
    (Kind.HALF_CLOSE, False, "up"),
    (Kind.HALF_CLOSE, False, "down"),
    (Kind.SILENCE, False, ""),
    (Kind.DELAY, False, ""),
    (Kind.BANDWIDTH, False, ""),
    (Kind.REFUSE, False, ""),
    (Kind.REORDER, False, ""),
)


def plan_faults(seed: int, rounds: int, learners: int, edges: int = 0) -> tuple[Fault, ...]:
    """The faults of a run, in the order in which they strike: one in every two rounds."""
    drawn = random.Random(seed)
    faults: list[Fault] = []
    whole: tuple[tuple[Kind, bool | None, str], ...] = (*_DECK, *_EDGE_DECK) if edges else _DECK
    deck: list[tuple[Kind, bool | None, str]] = []
    for number in range(rounds // ROUNDS_A_FAULT):
        if not deck:
            deck = drawn.sample(whole, len(whole))
        kind, at_leader, detail = deck.pop()
        faults.append(
            Fault(
                number,
                kind,
                _target(drawn, at_leader, learners, edges),
                detail,
                ROUNDS_A_FAULT * number + drawn.randint(1, ROUNDS_A_FAULT),
                drawn.random(),
                drawn.random(),
            )
        )
    return tuple(faults)


def _target(drawn: random.Random, at_leader: bool | None, learners: int, edges: int) -> int:
    if at_leader is None:
        return -drawn.randint(1, edges)
    return LEADER if at_leader else drawn.randint(1, learners)
