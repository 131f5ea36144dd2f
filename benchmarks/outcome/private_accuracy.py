"""Test accuracy against epsilon: CIFAR-10 with 20, 200 and 2,000 learners, without noise and with noise in shares."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from rich.console import Console

from benchmarks.machine import in_words
from benchmarks.outcome.codecs import find_data
from benchmarks.outcome.features_task import PARAMETERS, Features, features_of
from benchmarks.result import Figure, Result
from benchmarks.spread import Spread
from leader.config import RunConfig
from leader.config.rules.dp import releases_a_part
from leader.data.partition import partition
from protos import leader_pb2
from scripts.simulate.parts import Brought
from scripts.simulate.simulation import Hooks, simulate

NONE = 0.0  # epsilon of a run without noise
NO_NOISE = "no noise"
_DELTA = 1e-5


@dataclass(frozen=True)
class Crowd:
    """Who takes part, and who adds the noise."""

    learners: int
    cohort: int  # of them are in each round
    mode: str  # dp.mode


@dataclass(frozen=True)
class Size:
    """How much is trained."""

    crowds: tuple[Crowd, ...]
    epsilons: tuple[float, ...]
    rounds: int
    local_steps: int
    examples: int


FULL = Size(
    crowds=(
        Crowd(20, 20, "distributed"),
        Crowd(200, 200, "distributed"),
        Crowd(2000, 200, "distributed"),
        Crowd(2000, 2000, "central"),
    ),
    epsilons=(NONE, 8.0, 2.0),
    rounds=10,
    local_steps=10,
    examples=50_000,
)
QUICK = Size((Crowd(20, 20, "distributed"), Crowd(40, 20, "central")), (NONE, 8.0), 2, 2, 2000)


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    learners: int
    cohort: int
    epsilon: float  # of the config; 0 without noise
    accuracy: float  # of the last model on the test images, in percent
    spent: float  # epsilon of the learner that has spent most
    noise: float  # over the mean of clipped updates: z sqrt(d) / n
    seconds: float


def measure(quick: bool, data: Path) -> Result:
    """Each run once, one after the other in this process; raises SkippedError where there is no CIFAR-10."""
    size, source, console = QUICK if quick else FULL, find_data(data), Console()
    outcomes = []
    for crowd in size.crowds:
        for epsilon in size.epsilons:
            made = run_once(crowd, epsilon, size, source)
            outcomes.append(made)
            console.print(f"  {_name(made)}: {made.accuracy:.2f} % in {made.seconds:.0f} s", highlight=False)
    return summarise(outcomes, size)


def run_once(crowd: Crowd, epsilon: float, size: Size, source: Path) -> Outcome:
    """A simulated run of these learners, among whom the images are dealt at random."""
    train = features_of(source, train=True)
    labels = train.labels[: size.examples]
    parts = partition(labels, crowd.learners, kind="iid", alpha=1, seed=0)
    own = [_brought(number, train.select(part)) for number, part in enumerate(parts)]
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="flockstep-benchmark-") as scratch:
        config = RunConfig.model_validate(settings(crowd, epsilon, size, source, Path(scratch) / "run"))
        summary = simulate(config, hooks=Hooks(own=own)).summary
    seconds = time.perf_counter() - began
    spent = summary["privacy"]["spent_max"] if epsilon else NONE
    noise = (
        config.dp.noise(releases_a_part(config)) * math.sqrt(PARAMETERS) / crowd.cohort if epsilon else 0.0
    )
    accuracy = 100 * summary["test_accuracy"]
    return Outcome(crowd.learners, crowd.cohort, epsilon, accuracy, spent, noise, seconds)


def _brought(number: int, examples: Features) -> Brought:
    return Brought(examples, leader_pb2.OwnData(examples=len(examples), fingerprint=f"part-{number}"))


def settings(crowd: Crowd, epsilon: float, size: Size, source: Path, folder: Path) -> dict[str, object]:
    """The leader's config: the least noise that pays all rounds, and nobody ever missing."""
    private: dict[str, object] = {"dp": {"mode": crowd.mode, "epsilon": epsilon, "delta": _DELTA}}
    if crowd.mode == "distributed":
        private["secagg"] = {"mode": "masked"}
    return {
        "learners": crowd.learners,
        "rounds": size.rounds,
        "run_dir": folder,
        "model": {"task": "benchmarks.outcome.features_task:Linear"},
        "data": {"source": str(source), "holder": "learner"},
        "cohort": {"size": crowd.cohort, "policy": "round_robin"},
        "train": {
            "local_steps": size.local_steps,
            "batch_size": 25,
            "lr": 0.05,
            "schedule": "constant",
            "momentum": 0,
            "nesterov": False,
            "dtype": "float32",
        },
        "aggregate": {"weighting": "uniform"},
        "evaluation": {"every": 0},
        "keep_checkpoints": 1,
        **(private if epsilon else {}),
    }


def _name(made: Outcome) -> str:
    noise = f"epsilon {made.epsilon:g}" if made.epsilon else NO_NOISE
    return f"{made.learners:,} learners, {made.cohort:,} a round, {noise}"


def summarise(outcomes: Sequence[Outcome], size: Size) -> Result:
    """The accuracy of each run, and the columns of the page; nothing is promised of it."""
    columns = [field.name for field in fields(Outcome)]
    return Result(
        entry="private_accuracy",
        about=f"{PARAMETERS:,} parameters on fixed features of CIFAR-10's {size.examples:,} images, {size.rounds} "
        f"rounds of {size.local_steps} local steps, delta {_DELTA:g}, one seed",
        target=None,
        figures=tuple(
            Figure(f"{_name(made)}: test accuracy", "%", Spread.of([made.accuracy])) for made in outcomes
        ),
        ratios={},
        series=dict(zip(columns, zip(*map(astuple, outcomes), strict=True), strict=True)),
    )


def rows(series: Mapping[str, Sequence[float]]) -> Iterator[str]:
    """A row of the table for each crowd: accuracy, and in brackets the noise over the updates, for each epsilon."""
    runs = [Outcome(*made) for made in zip(*series.values(), strict=True)]
    crowds = dict.fromkeys((made.learners, made.cohort) for made in runs)
    for learners, cohort in crowds:
        cells = [
            f"{made.accuracy:.1f} ({made.noise:.2g})" if made.epsilon else f"{made.accuracy:.1f}"
            for made in runs
            if (made.learners, made.cohort) == (learners, cohort)
        ]
        yield f"| {learners:,.0f} | {cohort:,.0f} | " + " | ".join(cells) + " |"


def page(result: Result, machine: Mapping[str, object]) -> str:
    """The table with its conditions and its command."""
    epsilons = dict.fromkeys(result.series["epsilon"])
    heads = ["learners", "a round", *(f"epsilon {each:g}" if each else NO_NOISE for each in epsilons)]
    return "\n".join(
        [
            "# Accuracy against epsilon",
            "",
            f"Test accuracy in percent; 10 is guessing. {result.about}. The features are of random filters, so that "
            "they cost nothing. Images are dealt at random, each learner is in as many rounds as any other, updates "
            "are clipped to 1 (`dp.clip`), and noise is the least that pays all rounds. In brackets: length of the "
            "noise over that of clipped updates in a round's mean, z sqrt(d) / n.",
            "",
            "| " + " | ".join(heads) + " |",
            "|" + " ---: |" * len(heads),
            *rows(result.series),
            "",
            "Noise is in shares, under masks (`dp.mode=distributed`), but where all 2,000 are in each round: there "
            "the leader adds it (`central`), as a round of 2,000 masked learners takes a simulation "
            "minutes. While nobody is missing that is as much noise.",
            "",
            f"The runs took {sum(result.series['seconds']) / 60:.0f} minutes, one after the other. "
            f"Measured on {in_words(machine)}.",
            "",
            "Repeat it: `make bench DATA=DIR ARGS=private_accuracy` (`QUICK=1`: a look at two rounds of it).",
            "",
        ]
    )
