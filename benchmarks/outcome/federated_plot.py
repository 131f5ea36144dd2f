"""The plots of the federated study: accuracy over rounds and over bytes, one column a label skew."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.outcome.study import Curve

Curves = Mapping[tuple[str, float], Sequence[Curve]]


def draw_federated(curves: Curves, alphas: Sequence[float], path: Path) -> None:
    """Write the plot to `path` (PNG)."""
    figure = Figure(figsize=(4.2 * len(alphas), 7.2), layout="constrained")
    grid = figure.subplots(2, len(alphas), squeeze=False, sharey=True)
    names = list(dict.fromkeys(name for name, _ in curves))
    for column, alpha in enumerate(alphas):
        for colour, name in enumerate(names):
            these = curves.get((name, alpha)) or curves.get((name, 0.0))
            assert these is not None
            style = {"color": f"C{colour}", "linestyle": ":" if (name, 0.0) in curves else "-"}
            _line(grid[0][column], [curve.rounds for curve in these], these, style, name)
            if (name, 0.0) not in curves:  # centralised training moves no updates
                _line(grid[1][column], [curve.megabytes for curve in these], these, style, name)
        grid[0][column].set(title=f"alpha = {alpha:g}", xlabel="round")
        grid[1][column].set(xlabel="MB moved, both ways")
    for row in (0, 1):
        grid[row][0].set_ylabel("test accuracy, %")
    figure.suptitle("CIFAR-10, 10 learners, Dirichlet label skew; mean of the seeds, band from worst to best")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(names), frameon=False)
    figure.savefig(path, dpi=110)


def _line(
    axes: Axes,
    places: Sequence[Sequence[float]],
    these: Sequence[Curve],
    style: Mapping[str, str],
    name: str,
) -> None:
    """Mean and band at the rounds that every seed's run was evaluated at; `places` are their x, a curve each."""
    rounds = sorted(set.intersection(*(set(curve.rounds) for curve in these)))
    x = [places[0][these[0].rounds.index(round_)] for round_ in rounds]
    by_point = [[curve.accuracies[curve.rounds.index(round_)] for curve in these] for round_ in rounds]
    axes.plot(x, [100 * statistics.fmean(point) for point in by_point], label=name, **style)  # type: ignore[arg-type]
    low, high = [100 * min(point) for point in by_point], [100 * max(point) for point in by_point]
    axes.fill_between(x, low, high, color=style["color"], alpha=0.12, linewidth=0)
    axes.grid(alpha=0.3)
