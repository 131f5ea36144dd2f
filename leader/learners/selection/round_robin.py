"""Every part takes part as often as any other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leader.learners.selection.base import Candidate, in_order, names
from leader.learners.selection.draws import raw_draws, smallest
from leader.state import History


@dataclass(frozen=True)
class RoundRobin:
    """Takes those whose updates are in the fewest committed rounds; among equals the draw decides.

    So the counts of parts that always answer differ by at most 1. A part that never answers stays first in
    line, and a part that joins late is taken until it has caught up.
    """

    def choose(
        self, candidates: Sequence[Candidate], size: int, history: History, *, seed: int, round_: int
    ) -> tuple[str, ...]:
        """See Policy.choose."""
        ordered = in_order(candidates)
        if not 0 < size < len(ordered):
            return names(ordered)
        draws = raw_draws(len(ordered), seed=seed, round_=round_)
        times = [history[c.part].times if c.part in history else 0 for c in ordered]
        turns = [
            (count << 64) + draw for count, draw in zip(times, draws, strict=True)
        ]  # draws are below 2**64
        return names([ordered[i] for i in smallest(turns, size)])
