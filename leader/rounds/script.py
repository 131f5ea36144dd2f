"""The script of a buffer: what was told of its round before a restart, and is to come to the same again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from leader.rounds.protocol import OpenOrder

What = Literal["begun", "given", "counted", "closed"]


@dataclass(frozen=True)
class Happened:
    """One thing that happened in a round; a part's order was given out or its update counted, by its turn.

    "begun" voids all that was told of the round before, and of later ones.
    """

    what: What
    part: str = ""
    turn: int = 0
    group: int = 0  # number of the masked group that an order was given out to; 0 = to none


_BEGUN = Happened("begun")


class Script:
    """What `told` says happens first, in its order; what happens beyond that is told to `note`, as it happens.

    None is a round that nothing was told of. Updates may come in any order: the sum does not depend on it, and
    what followed one follows again when its turn has come.
    """

    def __init__(
        self, told: Sequence[Happened] | None = None, note: Callable[[Happened], None] = lambda one: None
    ) -> None:
        self.replayed = bool(told)
        self._new = told is None
        self._note = note
        self._left = deque(told or ())
        self._missing = {one for one in self._left if one.what == "counted"}  # updates that are not in yet
        self._past: list[Happened] = []

    @property
    def goes_on(self) -> bool:
        """Whether something is left to follow."""
        return bool(self._left)

    def begin(self, parts: Collection[str]) -> None:
        """The round begins with these parts; without those of the script it can't be followed."""
        if self._new:
            self._note(_BEGUN)
        elif any(one.part not in parts for one in self._left if one.part):
            self.give_up()

    def refuses(self, part: str, turn: int, room: int) -> bool:
        """Whether this update was counted in a later round, or in none, so that others need the `room` left."""
        if not self._left or Happened("counted", part, turn) in self._missing:
            return False
        return len(self._missing) >= room or self._left[-1].what == "closed"

    def happened(self, what: What, part: str = "", turn: int = 0, group: int = 0) -> None:
        """Take in what happens."""
        one = Happened(what, part, turn, group)
        if one in self._missing:
            self._missing.remove(one)
        else:
            self._past.append(one)
            self._note(one)

    def known(self, round_: int, orders: Mapping[str, OpenOrder]) -> None:
        """These orders are open, as files tell: those of this round, the script's, are given out in it."""
        for part, order in orders.items():
            if order.round == round_:  # older ones are in its checkpoint
                self.happened("given", part, order.turn, order.group)

    def follow(self) -> Iterator[Happened]:
        """What comes next, up to an update that is not in yet."""
        while self._left and self._left[0] not in self._missing:
            self._past.append(self._left.popleft())
            yield self._past[-1]

    def give_up(self) -> bool:
        """Follow the script no longer, and tell what the round has come to without it; whether there was any left."""
        if not self._left:
            return False
        came = (one for one in self._left if one.what == "counted" and one not in self._missing)
        told = [_BEGUN, *self._past, *came]
        self._left.clear()
        self._missing.clear()
        for one in told:
            self._note(one)
        return True
