"""The curves of the robust_memory benchmark: peak memory over the number of updates, a panel for each model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.endurance.robust_memory import MODELS, RULES, column

Series = Mapping[str, Sequence[float]]


def draw_robust_memory(series: Series, path: Path) -> None:
    """Write the plot of the columns that `benchmarks.endurance.robust_memory.measure` gives to `path` (PNG)."""
    counts = series["updates"]
    curves = {
        model: {rule: series[column(rule, model)] for rule in RULES if column(rule, model) in series}
        for model in MODELS
    }
    measured = {model: peaks for model, peaks in curves.items() if peaks}
    figure = Figure(figsize=(5 * len(measured), 4), layout="constrained")
    grid = figure.subplots(1, len(measured), squeeze=False)
    for axes, (model, peaks) in zip(grid[0], measured.items(), strict=True):
        elements = MODELS[model]
        for rule, values in peaks.items():
            axes.plot(counts, values, "o-", label=rule)
        kept = [count * elements * 4 / 1e6 for count in counts]
        axes.plot(counts, kept, "k:", label="all updates in memory")
        axes.set_title(f"{model}, {elements * 4 / 1e6:.1f} MB an update")
        axes.set_xlabel("updates")
        axes.set_ylabel("peak memory of the aggregate, MB")
        axes.set_xticks(counts)
        axes.set_ylim(0, 2 * max(map(max, peaks.values())))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(path, dpi=110)
