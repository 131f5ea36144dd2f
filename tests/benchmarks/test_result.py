from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from benchmarks.result import Figure, Result, Target, document, table
from benchmarks.spread import Spread


def result(value: float) -> Result:
    figure = Figure("round", "ms", Spread(12.34567, 11.0, 14.0, 50))
    return Result("idle", "nothing to do", Target("median", "ms", value, 50.0), (figure,), {"to write": 2.0})


def shown(value: float) -> str:
    text = io.StringIO()
    Console(file=text, width=160).print(table([result(value)]))
    return text.getvalue()


@pytest.mark.parametrize(("value", "verdict"), [(50.0, "met"), (50.1, "missed")])
def test_the_table_says_whether_the_target_is_met(value: float, verdict: str) -> None:
    assert verdict in shown(value)


def test_the_table_shows_median_quartiles_and_ratios() -> None:
    text = shown(12.0)
    assert "12.3 ms" in text
    assert "11 .. 14" in text
    assert "x 2" in text


def test_the_file_holds_every_figure_rounded_with_the_machine() -> None:
    content = json.loads(document(result(12.0), {"cores": 2}, quick=True))
    assert content["figures"]["round"] == {
        "unit": "ms",
        "median": 12.35,
        "lower": 11.0,
        "upper": 14.0,
        "count": 50,
    }
    assert content["target"]["met"] is True
    assert content["machine"] == {"cores": 2}
    assert content["quick"] is True
