"""The curves of the sessions benchmark: memory, idle CPU and time until heard over the number of sessions."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

Series = Mapping[str, Sequence[float]]


def draw_sessions(series: Series, path: Path) -> None:
    """Write the plot of the columns that `benchmarks.endurance.sessions.measure` gives to `path` (PNG)."""
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    memory, cpu, heard = figure.subplots(1, 3)
    count = series["sessions"]
    _fitted(
        memory,
        count,
        [kib / 1024 for kib in series["KiB"]],
        "memory of the leader",
        "MiB",
        1024,
        "KiB a session",
    )
    _fitted(
        cpu,
        count,
        series["idle CPU, %"],
        "idle CPU of the leader",
        "% of a core",
        1000,
        "% per 1,000 sessions",
    )
    _fitted(
        heard, count, series["heard p50, ms"], "round start until heard", "ms", 1000, "ms per 1,000 (median)"
    )
    heard.plot(count, series["heard p99, ms"], "o--", color="tab:orange", label="99th percentile")
    heard.set_ylim(0, 1.1 * max(series["heard p99, ms"]))
    heard.legend(frameon=False)
    figure.savefig(path, dpi=110)


def _fitted(
    axes: Axes,
    count: Sequence[float],
    values: Sequence[float],
    title: str,
    unit: str,
    factor: float,
    law: str,
) -> None:
    """Points and the straight line through them, its slope named by `law` (times `factor`)."""
    axes.plot(count, values, "o", color="tab:blue")
    if len(count) > 1:
        slope, intercept = statistics.linear_regression(count, values)
        label = f"{factor * slope:.3g} {law}"
        axes.plot(
            count, [intercept + slope * n for n in count], "-", color="tab:blue", alpha=0.6, label=label
        )
        axes.legend(frameon=False)
    axes.set_title(title)
    axes.set_xlabel("sessions")
    axes.set_ylabel(unit)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
