"""The curves of the robust_memory benchmark: peak memory over the number of updates, a panel for each model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.robust_memory import MODELS, RULES

Series = Mapping[str, Sequence[float]]


def draw_robust_memory(series: Series, path: Path) -> None:
    """Write the plot of the columns that `benchmarks.robust_memory.measure` gives to `path` (PNG)."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    counts = series["updates"]
    for axes, (model, elements) in zip(figure.subplots(1, len(MODELS)), MODELS.items(), strict=True):
        peaks = [series[f"{rule}, {model}"] for rule in RULES]
        for rule, values in zip(RULES, peaks, strict=True):
            axes.plot(counts, values, "o-", label=rule)
        kept = [count * elements * 4 / 1e6 for count in counts]
        axes.plot(counts, kept, "k:", label="all updates in memory")
        axes.set_title(f"{model}, {elements * 4 / 1e6:.1f} MB an update")
        axes.set_xlabel("updates")
        axes.set_ylabel("peak memory of the aggregate, MB")
        axes.set_xticks(counts)
        axes.set_ylim(0, 2 * max(map(max, peaks)))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(path, dpi=110)
