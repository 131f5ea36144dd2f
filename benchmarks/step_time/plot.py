"""The plot of the step time benchmark: a panel a scene, a bar a design, the compute alone as a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.spread import Spread
from benchmarks.step_time.contenders import Ddp, Flockstep

_UNIT = " | s"


def draw_step_time(series: Mapping[str, Sequence[float]], path: Path) -> None:
    """Write the plot of the columns that `benchmarks.step_time.step_time.measure` gives to `path` (PNG)."""
    scenes: dict[str, dict[str, Spread]] = {}
    for key, steps in series.items():
        if key.endswith(_UNIT):
            scene, _, name = key.removesuffix(_UNIT).partition(": ")
            scenes.setdefault(scene, {})[name] = Spread.of(steps)
    heights = [len(rows) + 1 for rows in scenes.values()]
    figure = Figure(figsize=(8, 0.3 * sum(heights) + 0.8 * len(heights)), layout="constrained")
    grid = figure.subplots(len(scenes), 1, squeeze=False, height_ratios=heights)
    for axes, (scene, rows) in zip(grid[:, 0], scenes.items(), strict=True):
        _panel(axes, scene, rows)
    figure.savefig(path, dpi=110)


def _panel(axes: Axes, scene: str, rows: dict[str, Spread]) -> None:
    compute = rows.pop(Ddp.LOCAL).median
    for row, spread in rows.items():
        below, above = spread.median - spread.lower, spread.upper - spread.median
        colour = "tab:blue" if row.startswith(Flockstep.NAME) else "tab:gray"
        axes.barh(row, spread.median, xerr=[[below], [above]], color=colour, height=0.7)
        axes.annotate(f" {spread.median:.2f}", (spread.upper, row), va="center", fontsize=8)
    axes.axvline(compute, color="black", linestyle=":", label="compute alone")
    axes.invert_yaxis()
    axes.set_title(scene, fontsize=10)
    axes.set_xlabel("seconds a step", fontsize=8)
    axes.margins(x=0.12)
    axes.tick_params(labelsize=8)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
