"""Plots of a quick run have fewer points and curves than those of a whole one."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.endurance.robust_memory import COUNTS, MODELS, QUICK_COUNTS, RULES, column
from benchmarks.endurance.robust_memory_plot import draw_robust_memory
from benchmarks.endurance.sessions_plot import draw_sessions

PNG = b"\x89PNG"


@pytest.mark.parametrize(
    ("counts", "rules", "models"), [(COUNTS, RULES, [*MODELS]), (QUICK_COUNTS, RULES[:2], [*MODELS][:1])]
)
def test_robust_memory_is_drawn_for_what_was_measured(
    counts: tuple[int, ...], rules: tuple[str, ...], models: list[str], tmp_path: Path
) -> None:
    peaks = {column(rule, model): [6.0] * len(counts) for rule in rules for model in models}
    draw_robust_memory({"updates": counts, **peaks}, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize("sessions", [(250,), (500, 2000)])
def test_sessions_are_drawn_for_one_number_and_for_several(sessions: tuple[int, ...], tmp_path: Path) -> None:
    columns = ("KiB", "idle CPU, %", "heard p50, ms", "heard p99, ms")
    draw_sessions({"sessions": sessions, **dict.fromkeys(columns, sessions)}, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(PNG)
