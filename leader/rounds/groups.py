"""The masked groups of an asynchronous run: whose updates are in which sum, and when a sum is to be unmasked.

A group is orders that were given out together, from one model. Its updates count once the masks are off their sum:
when all are in, or when those that are not can't come or have not for the deadline of a round, and enough are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from leader.rounds.protocol import CloseGroup, Group, OpenOrder


class Groups:
    """What is known of the groups that are open, from round to round."""

    def __init__(
        self,
        size: int = 1,
        least: int = 1,
        decided: Mapping[Group, Mapping[str, int]] | None = None,
        told: Callable[[Group], None] = lambda group: None,
    ) -> None:
        """`size` parts make a group, 1: each counts by itself; its sum needs `least` updates.

        Of `decided` groups it is known for good who is in the sum: turns by part. `told` hears of each that ends.
        """
        self.size = size
        self._least = least
        self._decided = dict(decided or {})
        self._in_sum = {one for turns in self._decided.values() for one in turns.items()}  # (part, turn)
        self._told = told
        self._ends: dict[Group, float] = {}  # clock values, of open groups

    def size_for(self, held: int) -> int:
        """How many parts a new group has where learners hold so many: rather fewer than planned than none."""
        return min(self.size, max(held, self._least))

    def opened(self, group: Group, ends: float) -> None:
        """Orders are given out to a group, which is waited for until the clock value `ends`."""
        self._ends.setdefault(group, ends)

    def add(self, part: str, turn: int) -> None:
        """The update of an order is in the sum of its group."""
        self._in_sum.add((part, turn))

    def has(self, part: str, turn: int) -> bool:
        """Whether the update of an order is in the sum of its group."""
        return (part, turn) in self._in_sum

    def emptied(self, group: Group, orders: Mapping[str, OpenOrder]) -> list[str]:
        """The parts of a group, of which none has its update in a sum any more."""
        parts = [part for part, order in orders.items() if order.group and order.key == group]
        self._in_sum.difference_update((part, orders[part].turn) for part in parts)
        return parts

    def outdone(self, part: str, turn: int) -> bool:
        """Whether a later update of the part is in a sum that is known from a file."""
        return any(turns.get(part, turn) > turn for turns in self._decided.values())

    @property
    def deadline(self) -> float | None:
        """Clock value at which a group is waited for no more."""
        return min(self._ends.values(), default=None)

    @property
    def recalls(self) -> bool:
        """Whether a sum that is known from a file is still to count."""
        return bool(self._decided)

    def missing(self, orders: Mapping[str, OpenOrder]) -> dict[str, OpenOrder]:
        """Orders of the first decided group that are not among those that are open; a part may be in the next, too."""
        group = min(self._decided, default=(0, 0))
        return {
            part: OpenOrder(group[0], turn, group[1])
            for part, turn in self._decided.get(group, {}).items()
            if part not in orders or orders[part].key != group
        }

    def kept(self, orders: Mapping[str, OpenOrder], parts: Collection[str]) -> dict[str, OpenOrder]:
        """Of open orders, those of parts that are here, or whose updates are in a sum."""
        here = frozenset(parts)
        return {part: one for part, one in orders.items() if part in here or self.has(part, one.turn)}

    def last_number(self, round_: int, orders: Mapping[str, OpenOrder]) -> int:
        """The highest number of a group of a round, or 0."""
        groups = [*self._decided, *(order.key for order in orders.values())]
        return max((number for began, number in groups if began == round_), default=0)

    def ripe(
        self,
        orders: Mapping[str, OpenOrder],
        holders: Mapping[str, int | None],
        now: float,
        deadline_s: float,
    ) -> CloseGroup | None:
        """A group whose sum no update will join any more, and the parts in that, none if they are too few."""
        if self.size == 1:
            return None
        members: dict[Group, list[str]] = {}
        for part, order in orders.items():
            if order.group:
                members.setdefault(order.key, []).append(part)
        known = [turns.items() for turns in self._decided.values()]
        self._in_sum.intersection_update({(part, order.turn) for part, order in orders.items()}.union(*known))
        self._ends = {group: self._ends.get(group, now + deadline_s) for group in members}
        for group in sorted(members):
            if group in self._decided:
                return CloseGroup(group, tuple(sorted(self._decided[group])))
            here = [part for part in members[group] if self.has(part, orders[part].turn)]
            awaited = [part for part in members[group] if part not in here and holders.get(part) is not None]
            if len(here) + len(awaited) < self._least:
                return CloseGroup(group, ())
            if not awaited or now >= self._ends[group]:
                return CloseGroup(group, tuple(sorted(here)) if len(here) >= self._least else ())
        return None

    def ended(self, group: Group) -> None:
        """A group is open no more."""
        self._decided.pop(group, None)
        self._ends.pop(group, None)
        self._told(group)
