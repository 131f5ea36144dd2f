"""Test accuracy under masks of 32 and of 16 bits, to that of the same runs without masks: CIFAR-10, a small net."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmarks.machine import in_words
from benchmarks.outcome.codecs import find_data
from benchmarks.result import Figure, Result, Target, markdown_table
from benchmarks.spread import Spread
from leader.config import RunConfig
from leader.data.partition import partition
from protos import leader_pb2
from scripts.simulate.parts import Brought
from scripts.simulate.simulation import Hooks, simulate
from utils.datasets import Dataset, load_cifar10

LEARNERS = 8
_ALPHA = 0.5  # of the Dirichlet distribution that images are dealt by
PLAIN = "no masks"
_LR, _OTHER_LR = 0.05, 0.0500001
#: What training makes of a difference that means nothing: the run without masks, its rate changed in the sixth digit.
CONTROL = f"no masks, lr {_OTHER_LR:g}"
#: Bits of a value, and the points of accuracy that the mean of the runs may lie below that without masks.
MASKS: Mapping[str, tuple[int, float]] = {"32 bits": (32, 0.1), "16 bits": (16, 0.5)}


@dataclass(frozen=True)
class Size:
    """How much is trained."""

    rounds: int
    local_steps: int
    examples: int
    tested: int
    seeds: tuple[int, ...]


FULL = Size(rounds=20, local_steps=15, examples=50_000, tested=10_000, seeds=(0, 1, 2))
QUICK = Size(rounds=2, local_steps=2, examples=1000, tested=200, seeds=(0,))
Accuracies = Mapping[str, Sequence[float]]  # by masks: percent, one a seed


def measure(quick: bool, data: Path) -> Result:
    """Each run once, seed by seed in this process; raises SkippedError where there is no CIFAR-10."""
    size, source, console = QUICK if quick else FULL, find_data(data), Console()
    train = load_cifar10(source).train.take(size.examples)
    accuracies: dict[str, list[float]] = {name: [] for name in (PLAIN, CONTROL, *MASKS)}
    began = time.perf_counter()
    for seed in size.seeds:
        for name, these in accuracies.items():
            these.append(run_once(name, seed, size, source, train))
            console.print(f"  {name}, seed {seed}: {these[-1]:.2f} %", highlight=False)
    return summarise(accuracies, size, time.perf_counter() - began)


def run_once(name: str, seed: int, size: Size, source: Path, train: Dataset) -> float:
    """The test accuracy, in percent, that a simulated run ends with; its weights and partition are the seed's."""
    parts = partition(train.labels, LEARNERS, kind="dirichlet", alpha=_ALPHA, seed=seed)
    own = [_brought(number, train.select(part)) for number, part in enumerate(parts)]
    with tempfile.TemporaryDirectory(prefix="flockstep-benchmark-") as scratch:
        config = RunConfig.model_validate(settings(name, seed, size, source, Path(scratch) / "run"))
        summary = simulate(config, hooks=Hooks(own=own)).summary
    return float(100 * summary["test_accuracy"])


def _brought(number: int, examples: Dataset) -> Brought:
    own = leader_pb2.OwnData(
        examples=len(examples), classes=len(examples.classes), fingerprint=f"part-{number}"
    )
    return Brought(examples, own)


def settings(name: str, seed: int, size: Size, source: Path, folder: Path) -> dict[str, object]:
    """The leader's config; runs of one seed differ in their masks alone, or in what means nothing."""
    lr = _OTHER_LR if name == CONTROL else _LR
    masks = {"secagg": {"mode": "masked", "bits": MASKS[name][0]}} if name in MASKS else {}
    return {
        "learners": LEARNERS,
        "rounds": size.rounds,
        "run_dir": folder,
        "seed": seed,
        "model": {"name": "resnet9-w8", "norm": "group"},
        "data": {"source": str(source), "holder": "learner", "test_examples": size.tested},
        "train": {"local_steps": size.local_steps, "batch_size": 32, "lr": lr, "dtype": "float32"},
        "evaluation": {"every": 0},
        "keep_checkpoints": 1,
        **masks,
    }


def summarise(accuracies: Accuracies, size: Size, seconds: float) -> Result:
    """The accuracies, what is promised of their means, and the columns of the page."""
    plain = statistics.fmean(accuracies[PLAIN])
    promised = [
        Target(
            f"{name}: accuracy below that without masks",
            "points",
            plain - statistics.fmean(accuracies[name]),
            points,
        )
        for name, (_, points) in MASKS.items()
    ]
    return Result(
        entry="masked_accuracy",
        about=f"resnet9-w8 with group norm on CIFAR-10's {size.examples:,} images, {LEARNERS} learners, "
        f"Dirichlet {_ALPHA:g}, {size.rounds} rounds of {size.local_steps} steps of 32 images, "
        f"{len(size.seeds)} seeds of weights and partition",
        target=promised[0],
        further=tuple(promised[1:]),
        figures=tuple(
            Figure(f"{name}: test accuracy", "%", Spread.of(these)) for name, these in accuracies.items()
        ),
        ratios={},
        series={**accuracies, "seconds": [seconds]},
    )


def rows(series: Mapping[str, Sequence[float]]) -> Iterator[list[str]]:
    """A row of the table for each kind of run: each seed's accuracy, their mean, its distance to that without."""
    plain = series[PLAIN]
    for name in (PLAIN, CONTROL, *MASKS):
        apart = [one - other for one, other in zip(series[name], plain, strict=True)]
        mean = statistics.fmean(series[name])
        to_plain = "" if name == PLAIN else f"{statistics.fmean(apart):+.2f}"
        yield [name, *(f"{accuracy:.2f}" for accuracy in series[name]), f"{mean:.2f}", to_plain]


def page(result: Result, machine: Mapping[str, object]) -> str:
    """The table with its conditions and its command."""
    seeds = [f"seed {number}" for number in range(len(result.series[PLAIN]))]
    heads = ["secagg.bits", *seeds, "mean", "to no masks"]
    minutes = result.series["seconds"][0] / 60
    return "\n".join(
        [
            "# Accuracy under masks",
            "",
            f"Test accuracy in percent. {result.about}. Runs of one seed differ in their masks alone; those of 64 bits "
            f"have the bits of the run without, and are not made again here. `{CONTROL}` is what chance does: training "
            "takes any difference apart, and what is no further from the first row than this one is no loss.",
            "",
            *markdown_table(heads, rows(result.series), words=1),
            "",
            f"Promised of the means: at most {' and '.join(_promise(target) for target in result.targets)}.",
            "",
            f"The runs took {minutes:.0f} minutes, one after the other. Measured on {in_words(machine)}.",
            "",
            "Repeat it: `make bench DATA=DIR ARGS=masked_accuracy` (`QUICK=1`: a look at two rounds of it).",
            "",
        ]
    )


def _promise(target: Target) -> str:
    met = "met" if target.met else "missed"
    return f"{target.limit:g} points lower with {target.name.split(':')[0]} ({met})"
