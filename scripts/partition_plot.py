"""The picture of a split: parts down, examples across, one colour a class."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

_APART = 40  # up to so many parts, bars have room between them and each its own label
_NAMED = 30  # up to so many classes are in the legend; more are a colour bar
_NAME_WIDTH = 24  # characters of a name that are shown


@dataclass(frozen=True)
class Panel:
    """One split, as it is drawn."""

    title: str
    counts: NDArray[np.int64]  # (parts, classes) examples
    names: Sequence[str] = ()  # of the parts; their numbers if there are none


def draw_split(panels: Sequence[Panel], classes: Sequence[str], heading: str) -> bytes:
    """A PNG with `panels` side by side, a bar a part, stacked by class."""
    tall = max(len(panel.counts) for panel in panels)
    size = (2.6 + 5.2 * len(panels), min(9.0, 2.0 + 0.28 * max(tall, 8)))
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    figure.suptitle(textwrap.fill(heading, int(11 * size[0])), fontweight="bold", parse_math=False)
    colours = _colours(len(classes))
    axes: list[Axes] = list(figure.subplots(1, len(panels), squeeze=False)[0])
    for panel, place in zip(panels, axes, strict=True):
        _bars(place, panel, colours)
    _explain(figure, axes, colours, classes)
    image = io.BytesIO()
    figure.savefig(image, format="png")
    return image.getvalue()


def _colours(classes: int) -> ListedColormap:
    for name, most in (("tab10", 10), ("tab20", 20)):
        if classes <= most:
            return ListedColormap(matplotlib.colormaps[name](range(classes)))
    return ListedColormap(matplotlib.colormaps["turbo"](np.linspace(0, 1, classes)))


def _bars(axes: Axes, panel: Panel, colours: ListedColormap) -> None:
    parts = len(panel.counts)
    half = 0.4 if parts <= _APART else 0.5
    right = panel.counts.cumsum(axis=1)
    left = right - panel.counts
    top, bottom = np.arange(parts) - half, np.arange(parts) + half
    for label in range(panel.counts.shape[1]):
        # One collection a class draws as many parts as there are; a patch for each bar would take minutes.
        shown = np.flatnonzero(panel.counts[:, label])
        x0, x1, y0, y1 = left[shown, label], right[shown, label], top[shown], bottom[shown]
        corners = np.stack([np.stack([x0, x1, x1, x0], 1), np.stack([y0, y0, y1, y1], 1)], 2)
        axes.add_collection(
            PolyCollection(list(corners), facecolor=colours(label), linewidth=0), autolim=False
        )
    axes.set_xlim(0, 1.02 * right[:, -1].max())
    axes.set_ylim(parts - 0.5, -0.5)
    axes.set_title(panel.title, parse_math=False)
    axes.set_xlabel("examples")
    axes.set_ylabel("group" if panel.names else "part")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    if parts <= _APART:
        names = [textwrap.shorten(name, _NAME_WIDTH, placeholder="…") for name in panel.names]
        axes.set_yticks(range(parts), names or [str(part) for part in range(parts)], parse_math=False)
    else:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))


def _explain(figure: Figure, axes: list[Axes], colours: ListedColormap, classes: Sequence[str]) -> None:
    """Which colour is which class, to the right of everything."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.patches import Patch

    if len(classes) > _NAMED:
        scale = ScalarMappable(Normalize(-0.5, len(classes) - 0.5), colours)
        figure.colorbar(scale, ax=axes, label=f"class number, of {len(classes)}")
        return
    # A leading space, as Matplotlib leaves out what begins with an underscore.
    names = [" " + textwrap.shorten(name, _NAME_WIDTH, placeholder="…") for name in classes]
    patches = [Patch(color=colours(label)) for label in range(len(classes))]
    legend = figure.legend(patches, names, loc="outside right center", frameon=False, title="class")
    for text in legend.get_texts():
        text.set_parse_math(False)
