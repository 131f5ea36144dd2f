"""How the history of parts grows by a committed round, and how it stays bounded."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass

from leader.state import History, PartHistory

#: Losses are float32 where they are made; larger ones, infinite and NaN count as not told.
_MAX_LOSS = 2.0**128


@dataclass(frozen=True)
class PartReport:
    """What the last counted update of a part told in a round."""

    loss: float  # mean training loss, NaN if not told
    seconds: float  # wall time from work order to counted update


def fold(
    history: History, round_: int, reports: Mapping[str, PartReport], *, present: Container[str], absent: int
) -> dict[str, PartHistory]:
    """The history after committing `round_`; `history` is left as it was.

    Of parts that are neither `present` nor reported (own data of learners that are away) the `absent` newest
    are kept.
    """
    grown = {**history, **{part: _grown(history.get(part), round_, told) for part, told in reports.items()}}
    away = [part for part in grown if part not in present and part not in reports]
    for part in sorted(away, key=lambda part: (-grown[part].last_round, part))[absent:]:
        del grown[part]
    return grown


def _grown(past: PartHistory | None, round_: int, told: PartReport) -> PartHistory:
    loss = told.loss if abs(told.loss) < _MAX_LOSS else past.loss if past else math.nan
    return PartHistory(past.times + 1 if past else 1, round_, loss, told.seconds)
