from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from benchmarks.fleet import FleetRun
from benchmarks.rounds.masked_round import IDLE, LINES, result
from benchmarks.spread import Spread


def runs(*round_s: float) -> Sequence[FleetRun]:
    spreads = [Spread.of([seconds]) for seconds in round_s]
    return [FleetRun(spread, spread, spread, 0, 0, 0) for spread in spreads]


@pytest.mark.parametrize(
    ("idle_s", "line_s", "met"), [(0.034, 7.6, (True, True)), (0.036, 8.1, (False, False))]
)
def test_masks_may_cost_five_milliseconds_of_an_idle_round_and_a_tenth_over_slow_lines(
    idle_s: float, line_s: float, met: tuple[bool, bool]
) -> None:
    idle: Mapping[str, Sequence[FleetRun]] = {
        "plain": runs(0.02, 0.03, 0.04),
        "masked": runs(0.01, idle_s, 1.0),
    }
    made = result({IDLE: idle, LINES: {"plain": runs(7.0), "masked": runs(line_s)}})
    assert tuple(target.met for target in made.targets) == met
    assert made.target is not None
    assert made.target.value == pytest.approx(1e3 * (idle_s - 0.03))
    assert made.further[0].value == pytest.approx(line_s / 7)
    assert [figure.spread.count for figure in made.figures] == [3] * 6 + [1] * 6
