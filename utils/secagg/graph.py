"""Whom each learner shares its secrets with: all, or in a large cohort the nearest on a ring in a random order.

Bell et al. 2020, "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead", section 3,
https://eprint.iacr.org/2020/704; the probabilities are exact tails, not bounds of them.
"""

from __future__ import annotations

from functools import lru_cache
from math import comb, inf, log2

from utils.secagg.keys import digest

ALL_TO_ALL = 128  # learners up to which everybody shares with everybody: fewer neighbours would not be safe
#: What a sparse graph is to be safe from: a share of the learners that work for the leader, and one that is lost.
COLLUDING, LOST = 0.2, 0.1
SECURITY = 40  # it fails once in 2^this
SIGNED_SECURITY = 80  # of signed sessions, whose leader may try one roster after the other
_FAILS = 20  # a session that can't be unmasked is tried again: once in 2^20 is enough


@lru_cache
def least(parties: int, colluding: float, lost: float, security: int, *, active: bool) -> tuple[int, int]:
    """The fewest neighbours, and how many of their shares unmask, for so many learners.

    Of them the shares `colluding` and `lost` work for the leader and are lost; secrecy fails with 2^-`security`.
    `active` is for a leader that may tell each half of the neighbours another set of survivors.
    Raises ValueError where no number of neighbours is safe.
    """
    corrupt, gone = int(colluding * parties), int(lost * parties)
    for neighbours in range(2, parties, 2):
        if _cut_off(parties, corrupt + gone, neighbours) > -security:
            continue
        for threshold in range(neighbours // 2 + 1 if active else 1, neighbours + 1):
            needed = 2 * threshold - neighbours if active else threshold  # corrupt ones among them
            if _among(parties, corrupt, neighbours, needed) <= -security:
                if _among(parties, gone, neighbours, neighbours - threshold + 1) <= -_FAILS:
                    return neighbours, threshold
                break
    raise ValueError(
        f"no sparse graph of {parties} learners is safe from {colluding:.0%} of them; use all to all"
    )


def _among(parties: int, marked: int, neighbours: int, least_: int) -> float:
    """log2 of a bound on: somebody's `neighbours` of all others hold at least so many of the `marked`."""
    others = parties - 1
    ways = sum(
        comb(marked, i) * comb(others - marked, neighbours - i)
        for i in range(least_, min(marked, neighbours) + 1)
    )
    return log2(ways) - log2(comb(others, neighbours)) + log2(parties) if ways else -inf


def _cut_off(parties: int, bad: int, neighbours: int) -> float:
    """log2 of a bound on: half of somebody's neighbours, those to one side, are all bad, which cuts the ring."""
    return neighbours / 2 * log2(bad / parties) + log2(parties) if bad else -inf


class Graph:
    """For each seat the seats that it shares with, sorted; `count` = 0 or at least all others: everybody.

    The order on the ring follows from the roster's digest: the leader can't choose anybody's neighbours.
    """

    def __init__(self, roster: bytes, parties: int, count: int) -> None:
        self._parties = parties
        self._each_side = count // 2 if 0 < count < parties - 1 else 0
        if self._each_side:
            self._order = sorted(
                range(parties), key=lambda seat: digest("graph", roster, seat.to_bytes(4, "big"))
            )
            self._places = {seat: place for place, seat in enumerate(self._order)}

    def neighbours(self, seat: int) -> tuple[int, ...]:
        """Whom this seat shares with."""
        if not self._each_side:
            return tuple(other for other in range(self._parties) if other != seat)
        steps = (*range(-self._each_side, 0), *range(1, self._each_side + 1))
        return tuple(sorted(self._order[(self._places[seat] + step) % self._parties] for step in steps))
