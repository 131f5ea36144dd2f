"""The curves of the learners benchmark: seconds, CPU and memory of a round over the number of learners."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

Series = Mapping[str, Sequence[float]]
_KINDS = {"idle": "tab:green", "ResNet-18": "tab:blue"}


def draw_learners(series: Series, path: Path) -> None:
    """Write the plot of the columns that `benchmarks.scaling.learners.measure` gives to `path` (PNG)."""
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    seconds, cpu, memory = figure.subplots(1, 3)
    _curves(seconds, series, "round, s", "a round, from commit to commit", "s")
    _curves(cpu, series, "leader CPU, s", "CPU of the leader a round", "s")
    _curves(memory, series, "peak, MB", "peak memory of the leader", "MB")
    for axes in (seconds, cpu):
        axes.set_yscale("log")
    memory.set_ylim(bottom=0)
    figure.savefig(path, dpi=110)


def _curves(axes: Axes, series: Series, column: str, title: str, unit: str) -> None:
    for kind, color in _KINDS.items():
        axes.plot(series[f"{kind}: learners"], series[f"{kind}: {column}"], "o-", color=color, label=kind)
    axes.set_title(title)
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts := series["idle: learners"], [f"{count:g}" for count in counts])
    axes.set_xlabel("learners")
    axes.set_ylabel(unit)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
