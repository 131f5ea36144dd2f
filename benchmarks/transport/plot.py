"""The plot of the transport benchmark: GB/s over the number of learners, down and up, with TLS and without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.transport.transport import LOWER, RATE, UPPER, Case
from benchmarks.transport.wire import BARE, CHECKED, DOWN, FLOCKSTEP, SOCKETS, UP

Series = Mapping[str, Sequence[float]]
#: Marker with line, and colour.
_STYLES = {
    SOCKETS: ("s:", "tab:gray"),
    BARE: ("^--", "tab:orange"),
    CHECKED: ("v--", "tab:green"),
    FLOCKSTEP: ("o-", "tab:blue"),
}


def draw_transport(series: Series, path: Path) -> None:
    """Write the plot of the columns that `benchmarks.transport.transport.measure` gives to `path` (PNG)."""
    figure = Figure(figsize=(10, 7), layout="constrained")
    for row, tls in zip(figure.subplots(2, 2, sharex=True), (False, True), strict=True):
        for axes, direction in zip(row, (DOWN, UP), strict=True):
            _draw(axes, series, direction, tls)
    figure.savefig(path, dpi=110)


def _draw(axes: Axes, series: Series, direction: str, tls: bool) -> None:
    count = series["learners"]
    for way, (style, colour) in _STYLES.items():
        name = Case(way, direction, 1, tls).name
        if rates := series.get(f"{name}, {RATE}"):
            axes.plot(count, rates, style, color=colour, label=way)
            lower, upper = (series[f"{name}, {end}"] for end in (LOWER, UPPER))
            axes.fill_between(count, lower, upper, color=colour, alpha=0.15, linewidth=0)
    axes.set_title(f"ResNet-18 {direction}{', TLS' * tls}")
    axes.set_xscale("log", base=2)
    axes.set_xticks(count, [f"{number:g}" for number in count])
    axes.set_xlabel("learners at once")
    axes.set_ylabel("GB/s, all learners together")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
