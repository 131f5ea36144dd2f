"""Whom masks come to nothing by, as far as the learners' word for it can be true of nobody else."""

from __future__ import annotations

import math
from collections.abc import Iterable


class Complaints:
    """Whose sealed shares don't open, by the word of whom.

    Without a proof who complains and who is complained of are both suspect, but of a third of all one is honest.
    """

    def __init__(self, parties: int) -> None:
        self._enough = max(2, math.ceil(parties / 3))
        self._by: dict[str, set[str]] = {}

    def add(self, name: str, unopened: Iterable[str]) -> None:
        """At `name` the shares of these don't open."""
        for of in unopened:
            self._by.setdefault(of, set()).add(name)

    @property
    def blamed(self) -> frozenset[str]:
        """Whom so many complain of that it is true."""
        return frozenset(of for of, by in self._by.items() if len(by - {of}) >= self._enough)
