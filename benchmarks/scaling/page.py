"""What the scaling benchmark found, as a page of tables and a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.machine import in_words
from benchmarks.result import Result, markdown_table
from benchmarks.scaling.model import BYTES, MEMORY, SECONDS, Law, Term
from benchmarks.scaling.paper import LINKS, Estimate, estimates

Series = Mapping[str, Sequence[float]]
_TERMS: dict[str, tuple[Term, ...]] = {
    "round": SECONDS,
    "leader CPU": SECONDS,
    "leader peak": MEMORY,
    "bytes up": BYTES,
    "bytes down": BYTES,
}
#: Column of the series, its head on the page, and the factor from one to the other.
_COSTS = (
    ("round, s", "round, ms", 1e3),
    ("leader CPU, s", "leader CPU, ms", 1e3),
    ("leader peak, bytes", "leader peak, MB", 1e-6),
    ("bytes up, bytes", "up, MB", 1e-6),
    ("bytes down, bytes", "down, MB", 1e-6),
)


def laws_of(result: Result) -> dict[str, Law]:
    """The laws, from the figures that say their constants."""
    medians = {figure.name: figure.spread.median for figure in result.figures}
    return {
        name: Law(terms, tuple(medians[f"law of {name}: {term.name}"] / term.factor for term in terms))
        for name, terms in _TERMS.items()
    }


def page(result: Result, machine: Mapping[str, object]) -> str:
    """Measured points, constants, and what follows on paper."""
    laws = laws_of(result)
    verdicts = [
        f"- {target.name}: {target.value:.3g} %, promised at most {target.limit:g} %: "
        f"{'met' if target.met else 'missed'}"
        for target in result.targets
    ]
    parts: list[str] = [
        "# Scaling: points, laws and extrapolation",
        "",
        f"{result.about.capitalize()}. Measured on {in_words(machine)}, load {machine['load_1min']}; what it means: "
        "[../scaling.md](../scaling.md).",
        "",
        "## Measured",
        "",
        "Measured / said by the law. Points marked * were fitted, the others predicted.",
        "",
        *markdown_table(
            ("elements", "learners", *(head for _, head, _ in _COSTS)), point_rows(result.series)
        ),
        "",
        *verdicts,
        "",
        "![costs over learners](scaling.png)",
        "",
        "Real training, each learner one process with one thread, delta rounds:",
        "",
        *markdown_table(
            ("learners", "images/s", "round, s", "leader, % of a core"), _training_rows(result.series)
        ),
        "",
        "## The laws",
        "",
        "A cost of a round is the sum of its lines.",
        "",
        *markdown_table(("cost", "for", "constant"), _law_rows(laws)),
        "",
        "## On paper",
        "",
        "Nothing below is measured. Network seconds are all bytes down and then all bytes up over the leader's card.",
        "",
        *markdown_table(_PAPER_HEADS, (_paper_row(estimate) for estimate in estimates(laws))),
        "",
        "    make bench ARGS=scaling",
        "",
    ]
    return "\n".join(parts)


_PAPER_HEADS = (
    "elements",
    "learners",
    "codec",
    "GB up",
    "GB down",
    *(f"network at {link / 1e9:g} Gbit/s, s" for link in LINKS),
    "leader CPU, s",
    "leader memory, GB",
)


def point_rows(series: Series) -> list[list[str]]:
    """A row a point: each cost as measured and as the law says it."""
    rows = []
    for number, (learners, elements) in enumerate(zip(series["learners"], series["elements"], strict=True)):
        cells = []
        for column, _, factor in _COSTS:
            measured = series[column][number] * factor
            said = series[f"{column.rpartition(',')[0]}, predicted"][number] * factor
            cells.append(f"{_number(measured)} / {_number(said)}")
        mark = " *" if series["fitted"][number] else ""
        rows.append([f"{elements / 1e6:.3g} M{mark}", f"{learners:g}", *cells])
    return rows


def _training_rows(series: Series) -> list[list[str]]:
    columns = ("learners", "images/s", "round, s", "leader's share of a core, %")
    return [
        [_number(value) for value in row]
        for row in zip(*(series[f"training: {column}"] for column in columns), strict=True)
    ]


def _law_rows(laws: Mapping[str, Law]) -> list[list[str]]:
    return [
        [name, term.name, f"{constant * term.factor:.4g} {term.unit}"]
        for name, law in laws.items()
        for constant, term in zip(law.constants, law.terms, strict=True)
    ]


def _paper_row(estimate: Estimate) -> list[str]:
    return [
        f"{_number(estimate.elements / 1e6)} M",
        str(estimate.learners),
        estimate.codec,
        _number(estimate.up_bytes / 1e9),
        _number(estimate.down_bytes / 1e9),
        *(_number(seconds) for seconds in estimate.network_s),
        _number(estimate.cpu_s),
        _number(estimate.peak_bytes / 1e9),
    ]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def draw_scaling(series: Series, path: Path) -> None:
    """Write the plot of the columns that `benchmarks.scaling.scaling.measure` gives to `path` (PNG)."""
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    for axes, (column, head, factor) in zip(figure.subplots(1, 3), _COSTS[:3], strict=True):
        _panel(axes, series, column, head, factor)
    figure.savefig(path, dpi=110)


def _panel(axes: Axes, series: Series, column: str, head: str, factor: float) -> None:
    for number, elements in enumerate(sorted(set(series["elements"]))):
        rows = [row for row, value in enumerate(series["elements"]) if value == elements]
        counts = [series["learners"][row] for row in rows]
        said = [series[f"{column.rpartition(',')[0]}, predicted"][row] * factor for row in rows]
        axes.plot(counts, said, "-", color=f"C{number}", alpha=0.6)
        for row, count in zip(rows, counts, strict=True):
            filled = f"C{number}" if series["fitted"][row] else "white"
            axes.plot(count, series[column][row] * factor, "o", color=f"C{number}", markerfacecolor=filled)
        axes.plot([], [], "o-", color=f"C{number}", label=f"{elements / 1e6:.2g} M elements")
    axes.set_title(f"{head}: law (line), fitted (full), predicted (hollow)", fontsize=9)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(counts := sorted(set(series["learners"])), [f"{count:g}" for count in counts])
    axes.set_xlabel("learners")
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False)
