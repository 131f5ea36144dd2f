"""The metrics of a run as a picture, curves.png."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from leader.events import RunStarted
from leader.metric_names import headline, is_share
from leader.storage.metrics_log import Record
from utils.files import replace_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TITLE_WIDTH = 90  # characters a line
_MARKED = 40  # up to so many points each has its marker
_DRAWN = 2000  # a line has at most about so many points
_TREND = 200  # a line with more points gets a trend over it
_BLOCKS = 60  # points of the trend
_LOG_SPREAD = 20  # traffic whose largest value is so many times its smallest is drawn on a log scale
_INK, _FAINT = "#22303c", "#8a97a3"
_BLUE, _GREEN, _ORANGE, _PURPLE = "#2166ac", "#1b7f4d", "#d9730d", "#7b4fa3"

Points = list[tuple[int, float]]  # (round, value)


def curves_title(started: RunStarted) -> str:
    """Model, dataset and kind of run in one line."""
    return f"{started.model} on {started.dataset}, {started.exchange} exchange"


def draw_curves(records: Sequence[Record], path: Path, title: str) -> None:
    """Write the curves of `records` to `path` as PNG, whole or not at all."""
    image = io.BytesIO()
    curves_figure(records, title).savefig(image, format="png")
    replace_file(path, image.getvalue())


def curves_figure(records: Sequence[Record], title: str) -> Figure:
    """Four panels over the rounds: loss, test accuracy (or the task's own metric), seconds and megabytes a round.

    A private run tells no loss; the epsilon that it has spent is drawn there.
    """
    from matplotlib.figure import Figure  # imported here because it takes most of a second
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    figure = Figure(figsize=(11, 7.4), dpi=120, layout=layout, facecolor="white")
    heading = textwrap.fill(title, _TITLE_WIDTH)
    figure.suptitle(heading, fontsize=14, fontweight="bold", color=_INK, parse_math=False)
    (loss, accuracy), (seconds, traffic) = figure.subplots(2, 2)
    spent = _points(records, "epsilon")
    _panel(loss, "Epsilon spent" if spent else "Training loss", records)
    losses = spent or _points(records, "loss")
    _line(loss, losses, _BLUE)
    if spent or len(losses) == 1:
        _from_zero(loss)
    metric = _metric(records)
    _panel(accuracy, f"{metric.capitalize()} (%)" if is_share(metric) else metric.capitalize(), records)
    _quality(accuracy, records, metric)
    _panel(seconds, "Seconds a round", records)
    _line(seconds, _points(records, "seconds"), _PURPLE)
    _from_zero(seconds)
    _panel(traffic, "Megabytes a round", records)
    _traffic(traffic, _points(records, "bytes_up", 1e-6), _points(records, "bytes_down", 1e-6))
    return figure


def _points(records: Sequence[Record], key: str, scale: float = 1.0) -> Points:
    return [(record["round"], record[key] * scale) for record in records if record.get(key) is not None]


def _panel(axes: Axes, title: str, records: Sequence[Record]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, loc="left", fontsize=11, color=_INK)
    axes.set_xlabel("round", fontsize=9, color=_FAINT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_FAINT)
    axes.tick_params(colors=_FAINT, labelcolor=_INK, labelsize=9)
    axes.grid(axis="y", color="#e4e8ec", linewidth=0.8)
    axes.set_axisbelow(True)
    first, last = (records[0]["round"], records[-1]["round"]) if records else (1, 1)
    ticks = MaxNLocator(nbins=8, integer=True, min_n_ticks=1).tick_values(first, last)
    axes.set_xticks([tick for tick in ticks if first <= tick <= last and tick == int(tick)] or [first])
    margin = 0.02 * (last - first) or 0.5
    axes.set_xlim(first - margin, last + margin)


def _line(axes: Axes, points: Points, color: str) -> None:
    """Draw `points`; where they are many, faintly, with their mean by blocks on top."""
    if len(points) > _TREND:
        axes.plot(*_columns(_thinned(points)), color=color, linewidth=0.7, alpha=0.3)
        axes.plot(*_columns(_means(points)), color=color, linewidth=1.8)
    else:
        axes.plot(*_columns(points), color=color, linewidth=1.8, marker=_marker(points), markersize=4)


def _marker(points: Points) -> str:
    return "o" if len(points) <= _MARKED else ""


def _metric(records: Sequence[Record]) -> str:
    """The metric to draw, such as "test accuracy"; that of the learners where there is no test split."""
    on_test = [key.removeprefix("test_") for record in records for key in record if key.startswith("test_")]
    at_learners = [name for record in records for name in record.get("federated", ())]
    name = headline(dict.fromkeys(on_test or at_learners)) or "accuracy"
    return f"test {name}" if on_test or not at_learners else name


def _quality(axes: Axes, records: Sequence[Record], metric: str) -> None:
    name = metric.removeprefix("test ")
    scale = 100 if is_share(name) else 1
    points = _points(records, f"test_{name}", scale)
    scored = [record | record["federated"][name] for record in records if name in record.get("federated", ())]
    means, worst = _points(scored, "mean", scale), _points(scored, "worst_decile", scale)
    if not points and not means:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "not evaluated", transform=axes.transAxes, ha="center", color=_FAINT, fontsize=12)
        return
    if means:
        _learners(axes, means, worst)
    if points:
        _line(axes, points, _GREEN)
    if scale == 100 and len(points) + len(means) == 1:
        axes.set_ylim(0, 100)
    _mark_last(axes, points or means, "%" if scale == 100 else "", _GREEN if points else _BLUE)


def _learners(axes: Axes, means: Points, worst: Points) -> None:
    """The learners' mean as a line, and a band from it to the worst tenth of them, where that is known."""
    rounds, upper = _columns(_thinned_alike(means))
    style = {"color": _BLUE, "linewidth": 1.5, "marker": _marker(means), "markersize": 3.5}
    axes.plot(rounds, upper, label="at the learners", **style)  # type: ignore[arg-type]
    if len(worst) == len(means):
        _, lower = _columns(_thinned_alike(worst))
        axes.fill_between(
            rounds, lower, upper, color=_BLUE, alpha=0.15, linewidth=0, label="to their worst 10%"
        )
    _legend(axes)


def _mark_last(axes: Axes, points: Points, unit: str, color: str) -> None:
    last = points[-1]
    axes.plot(*last, "o", color=color, markersize=7, markeredgecolor="white", clip_on=False)
    text = {"ha": "right", "va": "top", "fontsize": 11, "fontweight": "bold", "color": color}
    box = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
    place = {"xytext": (-8, -10), "textcoords": "offset points"}
    axes.annotate(f"{last[1]:.2f}{unit}", last, bbox=box, **place, **text)  # type: ignore[arg-type]


def _traffic(axes: Axes, up: Points, down: Points) -> None:
    """Up (to the leader) broad and light, down (to learners) thin on top: often they are equal."""
    from matplotlib.ticker import LogLocator

    broad = {"color": _ORANGE, "linewidth": 4.5, "alpha": 0.55, "markersize": 8, "label": "up"}
    thin = {"color": _BLUE, "linewidth": 1.5, "markersize": 3.5, "label": "down"}
    for points, style in ((up, broad), (down, thin)):
        axes.plot(*_columns(_thinned(points)), marker=_marker(points), **style)  # type: ignore[arg-type]
    values = [value for _, value in up + down]
    if values and max(values) > _LOG_SPREAD * min(values) > 0:
        axes.set_yscale("log")  # the round that brings the data would flatten all the others
        axes.set_ylim(min(values) / 2, max(values) * 2)
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter("{x:g}")
    else:
        _from_zero(axes)
    _legend(axes)


def _legend(axes: Axes) -> None:
    axes.legend(
        frameon=False, fontsize=9, labelcolor=_INK, ncols=2, loc="lower right", bbox_to_anchor=(1.02, 0.985)
    )


def _from_zero(axes: Axes) -> None:
    axes.set_ylim(bottom=0, top=axes.get_ylim()[1] * 1.08)


def _columns(points: Points) -> tuple[list[int], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _thinned(points: Points) -> Points:
    """At most about `_DRAWN` of the points, among them the first, the last and every extreme value."""

    def ends(block: Points) -> Points:
        low, high = min(block, key=lambda point: point[1]), max(block, key=lambda point: point[1])
        return sorted({block[0], low, high, block[-1]})

    return _by_block(points, _DRAWN // 4, ends) if len(points) > _DRAWN else points


def _thinned_alike(points: Points) -> Points:
    """At most `_DRAWN` of the points, the same rounds of every line; the last among them."""
    step = math.ceil(len(points) / _DRAWN)
    return points[::-step][::-1]


def _means(points: Points) -> Points:
    """The mean of each of at most `_BLOCKS` blocks, at the block's middle round."""

    def mean(block: Points) -> Points:
        return [(block[len(block) // 2][0], math.fsum(y for _, y in block) / len(block))]

    return _by_block(points, _BLOCKS, mean)


def _by_block(points: Points, blocks: int, reduce: Callable[[Points], Points]) -> Points:
    size = math.ceil(len(points) / blocks)
    return [kept for start in range(0, len(points), size) for kept in reduce(points[start : start + size])]
