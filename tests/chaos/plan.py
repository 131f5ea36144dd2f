"""Which faults strike whom and when: a list that a seed and a number of rounds decide alone."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import Enum

from utils.faults import EDGE_POINTS, LEADER_POINTS, LEARNER_POINTS, TREE_POINTS

ROUNDS_A_FAULT = 2
LEADER = 0  # target of a fault; learners count from 1, edges from -1 down


class Whom(Enum):
    """Whom a fault strikes."""

    LEADER = "leader"
    LEARNER = "learner"
    EDGE = "edge"  # any
    BELOW = "edge under another"


class Kind(Enum):
    """What is done, to whom, and what restores it."""

    KILL_AT = "killed at"  # by a named fault point; started again at once
    STOP_AT = "frozen at"  # by a named fault point, until its lease is over
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


Card = tuple[Kind, Whom, str]


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
    below: bool = False  # whether its target is an edge under another

    @property
    def name(self) -> str:
        """What happens, in words."""
        who = "leader" if self.target == LEADER else "learner" if self.target > 0 else "edge"
        who += " under another" if self.below else ""
        match self.kind:
            case Kind.KILL_AT | Kind.STOP_AT:
                return f"{who} {self.kind.value} {self.detail.rpartition('.')[2]}"
            case Kind.KILL | Kind.FREEZE | Kind.LEAVE:
                return f"{who} {self.kind.value}"
            case Kind.CUT_AFTER:
                return f"{self.kind.value} {'an upload' if self.detail == 'up' else 'a download'}"
            case _:
                return f"{self.kind.value} {self.detail}".rstrip()


#: Of runs with edges, beside the others.
_EDGE_DECK: tuple[Card, ...] = (
    *((Kind.KILL_AT, Whom.LEADER, point) for point in TREE_POINTS),
    *((Kind.KILL_AT, Whom.EDGE, point) for point in EDGE_POINTS),
    (Kind.KILL, Whom.EDGE, ""),
    (Kind.KILL, Whom.EDGE, ""),
    (Kind.FREEZE, Whom.EDGE, ""),
    (Kind.LEAVE, Whom.EDGE, ""),
)
#: Of those with edges under edges, beside all of these.
_BELOW_DECK: tuple[Card, ...] = (
    *((Kind.KILL_AT, Whom.BELOW, point) for point in EDGE_POINTS),
    *((Kind.STOP_AT, Whom.BELOW, point) for point in EDGE_POINTS),
    (Kind.KILL, Whom.BELOW, ""),
    (Kind.LEAVE, Whom.BELOW, ""),
)
#: Dealt out over and over, shuffled anew each time.
_DECK: tuple[Card, ...] = (
    *((Kind.KILL_AT, Whom.LEADER, point) for point in LEADER_POINTS),
    *((Kind.KILL_AT, Whom.LEARNER, point) for point in LEARNER_POINTS),
    (Kind.KILL, Whom.LEADER, ""),
    (Kind.KILL, Whom.LEARNER, ""),
    (Kind.KILL, Whom.LEARNER, ""),
    (Kind.FREEZE, Whom.LEADER, ""),
    (Kind.FREEZE, Whom.LEARNER, ""),
    (Kind.LEAVE, Whom.LEARNER, ""),
    (Kind.CUT, Whom.LEARNER, ""),
    (Kind.CUT, Whom.LEARNER, ""),
    (Kind.CUT_AFTER, Whom.LEARNER, "up"),
    (Kind.CUT_AFTER, Whom.LEARNER, "up"),
    (Kind.CUT_AFTER, Whom.LEARNER, "down"),
    (Kind.HALF_CLOSE, Whom.LEARNER, "up"),
    (Kind.HALF_CLOSE, Whom.LEARNER, "down"),
    (Kind.SILENCE, Whom.LEARNER, ""),
    (Kind.DELAY, Whom.LEARNER, ""),
    (Kind.BANDWIDTH, Whom.LEARNER, ""),
    (Kind.REFUSE, Whom.LEARNER, ""),
    (Kind.REORDER, Whom.LEARNER, ""),
)


def plan_faults(seed: int, rounds: int, learners: int, edges: int = 0, below: int = 0) -> tuple[Fault, ...]:
    """The faults of a run, in the order in which they strike: one in every two rounds.

    The last `below` of the edges are under another.
    """
    drawn = random.Random(seed)
    faults: list[Fault] = []
    whole = (*_DECK, *(_EDGE_DECK if edges else ()), *(_BELOW_DECK if below else ()))
    deck: list[Card] = []
    for number in range(rounds // ROUNDS_A_FAULT):
        if not deck:
            deck = drawn.sample(whole, len(whole))
        kind, whom, detail = deck.pop()
        target = _target(drawn, whom, learners, edges, below)
        faults.append(
            Fault(
                number,
                kind,
                target,
                detail,
                ROUNDS_A_FAULT * number + drawn.randint(1, ROUNDS_A_FAULT),
                drawn.random(),
                drawn.random(),
                below=target < below - edges,
            )
        )
    return tuple(faults)


def _target(drawn: random.Random, whom: Whom, learners: int, edges: int, below: int) -> int:
    match whom:
        case Whom.LEADER:
            return LEADER
        case Whom.LEARNER:
            return drawn.randint(1, learners)
        case Whom.EDGE:
            return -drawn.randint(1, edges)
        case Whom.BELOW:
            return -drawn.randint(edges - below + 1, edges)
