"""What the codec study found, as a page and a plot: accuracy against bytes."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.machine import in_words
from benchmarks.outcome.codecs import NONE, SETTINGS
from benchmarks.result import Result, markdown_table

Series = Mapping[str, Sequence[float]]
_HEADS = ("setting", "what travels", "accuracy, %", "MB up", "MB down", "bytes to none", "up to none", "s")


def names(series: Series) -> list[str]:
    """The settings that the columns of `benchmarks.outcome.codecs.measure` are of."""
    return [key.removeprefix("accuracy of ") for key in series if key.startswith("accuracy of ")]


def rows(series: Series) -> list[list[str]]:
    """A row a setting: accuracy as mean ± standard deviation over the seeds, the rest as means."""
    about = {setting.name: setting.about for setting in SETTINGS}
    base_up, base_down = _mean(series, "bytes up", NONE), _mean(series, "bytes down", NONE)
    lines = []
    for name in names(series):
        up, down = _mean(series, "bytes up", name), _mean(series, "bytes down", name)
        accuracies = [100 * value for value in series[f"accuracy of {name}"]]
        spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
        lines.append(
            [
                name,
                about[name],
                f"{statistics.fmean(accuracies):.2f} ± {spread:.2f}",
                f"{up / 1e6:.4g}",
                f"{down / 1e6:.4g}",
                f"{100 * (up + down) / (base_up + base_down):.3g} %",
                f"{100 * up / base_up:.3g} %",
                f"{_mean(series, 'seconds', name):.0f}",
            ]
        )
    return lines


def _mean(series: Series, column: str, name: str) -> float:
    return statistics.fmean(series[f"{column} of {name}"])


def page(result: Result, machine: Mapping[str, object]) -> str:
    """The table with its conditions and its command."""
    changes = (
        f"- {setting.name}: {', '.join(f'`{key}={value}`' for key, value in setting.changes.items())}"
        for setting in SETTINGS
        if setting.name in names(result.series)
    )
    verdicts = (
        f"- {target.name}: {target.value:.3g} {target.unit}, promised at most {target.limit:g}: "
        f"{'met' if target.met else 'missed'}"
        for target in result.targets
    )
    return "\n".join(
        [
            "# Accuracy against bytes",
            "",
            f"{result.about}. Test accuracy of the last model, mean ± standard deviation over the seeds; the other "
            "columns are means. Every run trains as many examples in as many steps. The processes are real, a leader "
            "and its learners with one thread each, and the learners hold their data, so that all bytes are those of "
            "models and updates, first download, headers and framing included.",
            "",
            *markdown_table(_HEADS, rows(result.series), words=2),
            "",
            *verdicts,
            "",
            "![test accuracy over megabytes moved](codecs.png)",
            "",
            "What a setting changes, in the names of the config:",
            "",
            *changes,
            "",
            f"Measured on {in_words(machine)}.",
            "",
            "Repeat it: `make bench DATA=DIR ARGS=codecs`; a call that was stopped goes on where it was, and runs "
            "that are done are in `runs/codecs`: remove it to measure anew.",
            "",
        ]
    )


def draw_codecs(series: Series, path: Path) -> None:
    """Write accuracy over bytes both ways (log scale) to `path` (PNG): mean, and bar from worst to best seed."""
    figure = Figure(figsize=(9.5, 5.2), layout="constrained")
    axes = figure.subplots()
    for number, name in enumerate(names(series)):
        accuracies = [100 * value for value in series[f"accuracy of {name}"]]
        mean = statistics.fmean(accuracies)
        megabytes = (_mean(series, "bytes up", name) + _mean(series, "bytes down", name)) / 1e6
        bar = [[mean - min(accuracies)], [max(accuracies) - mean]]
        marker = "o" if name.startswith("per step") else "D" if "DiLoCo" in name else "s"
        axes.errorbar(
            [megabytes], [mean], yerr=bar, fmt=marker, color=f"C{number % 10}", capsize=3, label=name
        )
        if name == NONE:
            axes.axhline(mean, color="0.6", linestyle=":", linewidth=1)
    axes.set(xscale="log", xlabel="MB moved in a run, both ways", ylabel="test accuracy, %")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", frameon=False)
    figure.savefig(path, dpi=110)
