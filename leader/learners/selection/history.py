"""How the history of parts grows by a committed round, and how it stays bounded."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass

from leader.state import History, LayeredHistory, PartHistory

#: Losses are float32 where they are made; larger ones, infinite and NaN count as not told.
_MAX_LOSS = 2.0**128


@dataclass(frozen=True)
class PartReport:
    """What the last counted update of a part told in a round."""

    loss: float  # mean training loss, NaN if not told
    seconds: float  # wall time from work order to counted update


def fold(
    history: History, round_: int, reports: Mapping[str, PartReport], *, present: Container[str], absent: int
) -> LayeredHistory:
    """The history after committing `round_`; `history` is left as it was.

    Of parts that are neither `present` nor reported (own data of learners that are away) the `absent` newest
    are kept.
    """
    told = {part: _grown(history.get(part), round_, report) for part, report in reports.items()}
    grown = LayeredHistory.of(history).with_round(told)
    if len(grown) <= absent:
        return grown
    away = [part for part in grown if part not in present and part not in reports]
    gone = set(sorted(away, key=lambda part: (-grown[part].last_round, part))[absent:])
    return LayeredHistory.of({part: grown[part] for part in grown if part not in gone}) if gone else grown


def _grown(past: PartHistory | None, round_: int, told: PartReport) -> PartHistory:
    loss = told.loss if abs(told.loss) < _MAX_LOSS else past.loss if past else math.nan
    return PartHistory(past.times + 1 if past else 1, round_, loss, told.seconds)
