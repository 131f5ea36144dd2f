"""What the round machines take in and give out: events and actions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol

from utils.errors import WireError


class Phase(Enum):
    """Where a round stands."""

    SELECTING = auto()  # not begun
    TRAINING = auto()  # waiting for updates
    APPLYING = auto()  # the exchange is closed, its optimizer step is being made
    COMMITTED = auto()
    ABANDONED = auto()


@dataclass(frozen=True)
class RoundPlan:
    """What a round is, decided before it begins."""

    round: int  # 1-based
    steps: int  # exchanges, at least 1
    parts: tuple[str, ...]  # pieces of work in every exchange
    quorum: int  # parts an exchange needs at its deadline, 1..len(parts)
    deadline_s: float  # seconds an exchange may take
    target: int = 0  # parts that close an exchange at once (over-selection); 0 = all of them


#: A masked group of an asynchronous run: the round whose model it starts from, and its number in that, from 1 on.
Group = tuple[int, int]


@dataclass(frozen=True)
class OpenOrder:
    """Open work on a part: the round whose model it starts from, and its number among the part's orders."""

    round: int
    turn: int
    group: int = field(default=0, compare=False)  # number of the masked group that it is in; 0 = in none

    @property
    def key(self) -> Group:
        """Its group."""
        return self.round, self.group


@dataclass(frozen=True)
class Begin:
    """Start the first exchange; `holders` says which learner has which part."""

    holders: Mapping[str, int]


@dataclass(frozen=True)
class Accepted:
    """The update of `part` for exchange `step` is in the sum."""

    part: str
    step: int


@dataclass(frozen=True)
class Assigned:
    """`part` now belongs to `learner`; None when nobody can do it at present."""

    part: str
    learner: int | None


@dataclass(frozen=True)
class Applied:
    """The optimizer step of the closed exchange is done and its weights are published."""


@dataclass(frozen=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True)
class Deserted:
    """No learner is left that could do any of the work."""


@dataclass(frozen=True)
class Outdated:
    """The model that work `step` on `part` starts from is no longer served (asynchronous runs)."""

    part: str
    step: int


@dataclass(frozen=True)
class Reopen:
    """The open exchange, or the one that is being closed, begins anew, with `parts` alone.

    What came of the others is void. Of `kept` the sum still has the update; all else must come again.
    """

    parts: tuple[str, ...]
    kept: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unmasked:
    """The masks are off the sum of a group: the updates of its `parts` count, and what is owed for others is void."""

    group: Group
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Remasked:
    """The work of a group is to be masked anew: none of its updates is in a sum any more, all must come again."""

    group: Group


RoundEvent = Begin | Accepted | Assigned | Applied | Tick | Deserted | Outdated | Reopen | Unmasked | Remasked


@dataclass(frozen=True)
class Dispatch:
    """Give `learner` the work order of `part` in exchange `step`."""

    learner: int
    part: str
    step: int


@dataclass(frozen=True)
class CloseStep:
    """Take the mean of exchange `step` and apply it."""

    step: int
    parts: tuple[str, ...]  # the parts that are in the sum


@dataclass(frozen=True)
class CloseGroup:
    """Take the masks off the sum of a group, whose updates of `parts` are in."""

    group: Group
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Commit:
    """The round's last step is applied: write it to disk."""


@dataclass(frozen=True)
class Abandon:
    """The round failed and leaves no trace."""

    reason: str


@dataclass(frozen=True)
class Overdue:
    """These learners owe work at the deadline: the exchange closes without them, or is abandoned for them."""

    learners: frozenset[int]
    abandoned: bool


Action = Dispatch | CloseStep | CloseGroup | Commit | Abandon | Overdue


class RoundMachine(Protocol):
    """A round: events in, actions out."""

    plan: RoundPlan
    phase: Phase
    deadline: float | None  # clock value at which to send a Tick

    def handle(self, event: RoundEvent, now: float) -> list[Action]:
        """Take one event at clock value `now` (seconds) and say what to do."""
        ...

    def pending_of(self, learner: int) -> tuple[str, ...]:
        """Parts that `learner` still owes."""
        ...

    def refusal(self, round_: int, step: int, part: str) -> WireError | None:
        """Why an update can't be counted now, or None if it can."""
        ...
