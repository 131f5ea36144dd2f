"""The standing of learners: whoever holds the run up is given work after the others for a while, longer each time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from leader.learners.membership import Member

_STRANGERS = ""  # all whose work has not counted yet, together: a new name costs nothing
_FORGIVEN = 0.9  # what an update that counts leaves of a score
_WORST = 6.0  # highest score: at most 1/65 of the time goes to waiting for one learner


@dataclass
class _Standing:
    score: float = 0.0  # times that it held the run up, less what was forgiven
    since: float = -math.inf  # clock value at which it did last
    until: float = -math.inf  # clock value until which it stands behind


class Standings:
    """Who has done counted work, and who held the run up, by name; the clock is passed in.

    Seconds that a learner costs keep it behind the others for 2, 4, 8, ... times as many.
    """

    def __init__(self, most: int) -> None:
        self._most = most  # names that are remembered
        self._proven: dict[str, None] = {}  # oldest first
        self._standings: dict[str, _Standing] = {}
        self._until = -math.inf  # after this clock value nobody stands behind

    def proven(self, name: str) -> bool:
        """Whether work of this learner has counted."""
        return name in self._proven

    def worked(self, name: str) -> None:
        """An update of this learner counts."""
        for key in (name,) if name in self._proven else (name, _STRANGERS):
            if (standing := self._standings.get(key)) is not None:
                standing.score *= _FORGIVEN
        self._proven.setdefault(name)
        if len(self._proven) > self._most:
            del self._proven[next(iter(self._proven))]

    def held_up(self, cost: Mapping[str, float], now: float) -> None:
        """These learners cost the run so many seconds each."""
        costs: dict[str, float] = {}
        for name, seconds in cost.items():
            for key in (name, name if name in self._proven else _STRANGERS):
                costs[key] = max(seconds, costs.get(key, 0.0))
        for key, seconds in sorted(costs.items()):
            standing = self._standings.pop(key, _Standing())
            score = min(standing.score + 1, _WORST)
            self._standings[key] = _Standing(score, now, now + seconds * 2**score)
            self._until = max(self._until, self._standings[key].until)
        while len(self._standings) > self._most:
            del self._standings[next(iter(self._standings))]

    def calm(self, now: float) -> bool:
        """Whether nobody stands behind, nor would anybody that has called have another rank than 0."""
        return now >= self._until

    def behind_s(self, name: str, now: float) -> float:
        """Seconds for which this learner still stands behind."""
        return max(0.0, self._standings.get(name, _Standing()).until - now)

    def rank(self, member: Member, now: float) -> int:
        """Whose turn it is: those of the lowest rank are given work.

        0 is everybody as long as nobody has held the run up, but for a newcomer that has registered and not called yet:
        it is 2 as soon as others' work has counted. After somebody has, strangers are 1, those among them that came
        since or never called are 2, and who did it is 3, or 4 if its work has never counted.
        """
        proven = member.name in self._proven
        if self.behind_s(member.name, now):
            return 3 if proven else 4
        if proven:
            return 0
        strangers = self._standings.get(_STRANGERS, _Standing())
        held_up = now < strangers.until
        mute = not (member.called or member.connected)
        if (mute and (held_up or self._proven)) or (held_up and member.joined > strangers.since):
            return 2
        return int(held_up)
