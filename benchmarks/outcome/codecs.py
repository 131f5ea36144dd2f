"""Accuracy against bytes: each codec and each number of local steps on CIFAR-10, with the same examples trained."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmarks.outcome.codecs_run import Outcome, run_folder, run_once
from benchmarks.result import Figure, Result, SkippedError, Target
from benchmarks.spread import Spread
from leader.data.partition import partition
from utils.datasets import Dataset, download_cifar10, find_cifar10, load_cifar10, save_dataset
from utils.errors import DataError

RUNS = Path(__file__).parents[2] / "runs"
LEARNERS = 2
NONE = "per step, none"
Changes = Mapping[str, object]
Outcomes = Mapping[str, Sequence[Outcome]]  # by setting: one a seed


@dataclass(frozen=True)
class Setting:
    """A row of the table: what is exchanged and how it is encoded."""

    name: str
    about: str
    period: int  # steps from one exchange to the next
    changes: Changes


@dataclass(frozen=True)
class Size:
    """How much is trained."""

    steps: int  # of each learner
    batch: int
    examples: int  # of the training set
    tested: int  # of the test set
    seeds: tuple[int, ...]
    names: tuple[str, ...]  # of settings; empty = all


FULL = Size(steps=1280, batch=32, examples=50_000, tested=10_000, seeds=(0, 1, 2), names=())
QUICK = Size(
    steps=20, batch=32, examples=1000, tested=200, seeds=(0,), names=(NONE, "per step, int8 both ways")
)
_ROUNDS = 10  # of runs that exchange each step


def per_step(name: str, about: str, changes: Changes | None = None) -> Setting:
    """Gradients up and weights down at each step."""
    return Setting(f"per step, {name}", about, 1, {"exchange": "gradient", **(changes or {})})


def local(name: str, about: str, period: int, changes: Changes | None = None) -> Setting:
    """`period` local steps a round, then the change they made goes up."""
    return Setting(name, about, period, {"exchange": "delta", **(changes or {})})


def _both(codec: str) -> Changes:
    return {"codec.up": codec, "codec.down": codec}


_TOPK: Changes = {"codec.up": "topk", "codec.fraction": 0.022, "codec.warmup": 0.05, "codec.zstd": True}
_DILOCO: Changes = {"server.optimizer": "diloco", "server.lr": 0.9, "server.momentum": 0.3}
_STREAMING: Changes = {
    "server.optimizer": "diloco",
    "server.lr": 1.0,
    "server.momentum": 0.1,
    "streaming.fragments": 4,
    "streaming.overlap_steps": 1,
    "streaming.mix": 0.25,
}

SETTINGS: tuple[Setting, ...] = (
    per_step("none", "float32 both ways"),
    per_step("int8 both ways", "8 bits, block scales, stochastic rounding", _both("int8")),
    per_step("int4 both ways", "4 bits likewise, error feedback", _both("int4")),
    per_step("top-k up", "the largest 2.2 % of the values, momentum correction, zstd", _TOPK),
    per_step("PowerSGD up", "rank 1, error feedback", {"codec.up": "powersgd", "codec.rank": 1}),
    local("local steps 10", "mean of the changes of 10 local steps", 10),
    local("local steps 40", "of 40", 40),
    local(
        "DiLoCo 16, int4",
        "every 16 steps, 4 bits both ways; local velocity is kept from round to round",
        16,
        {**_DILOCO, **_both("int4"), "streaming.fragments": 1, "streaming.mix": 0.0},
    ),
    local(
        "Streaming DiLoCo 20, int4",
        "a quarter of the model every 5 steps, 4 bits both ways",
        5,
        {**_STREAMING, **_both("int4")},
    ),
)


def settings(setting: Setting, size: Size, data: Path, seed: int) -> dict[str, object]:
    """The leader's config for one run."""
    period = setting.period if setting.period > 1 else max(1, size.steps // _ROUNDS)
    return {
        "model.name": "resnet9-w8",
        "model.norm": "batch",
        "data.source": data,
        "data.holder": "learner",
        "data.test_examples": size.tested,
        "train.batch_size": size.batch,
        "train.local_steps": period,
        "train.lr": 0.2,
        "rounds": size.steps // period,
        "evaluation.every": 0,
        "keep_checkpoints": 1,
        "log.format": "plain",
        "seed": seed,
        **setting.changes,
    }


def measure(quick: bool, data: Path, runs: Path = RUNS) -> Result:
    """Train every setting with every seed; a call that was stopped goes on where it was.

    Raises SkippedError where there is no CIFAR-10, and what `run_once` raises.
    """
    size = QUICK if quick else FULL
    source = find_data(data)
    folder = runs / f"codecs{'-quick' if quick else ''}"
    parts = _parts(folder / f"parts-{size.examples}", source, size.examples)
    chosen = [setting for setting in SETTINGS if not size.names or setting.name in size.names]
    outcomes = _run_all(chosen, size, source, folder, parts)
    return summarise(outcomes, size)


def find_data(folder: Path) -> Path:
    """CIFAR-10 in `folder`, downloaded to it if need be; raises SkippedError."""
    if found := find_cifar10(folder):
        return found
    try:
        return download_cifar10(folder)
    except DataError as error:
        raise SkippedError(
            f"no CIFAR-10 in {folder}, and it can't be downloaded; name a folder with it: make bench DATA=DIR"
        ) from error


def _parts(folder: Path, source: Path, examples: int) -> list[Path]:
    """The training set in a file a learner, at random; written once."""
    paths = [folder / f"part-{number}.safetensors" for number in range(LEARNERS)]
    done = folder / "whole"
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for path, part in zip(paths, _split(load_cifar10(source).train.take(examples)), strict=True):
            path.unlink(missing_ok=True)
            save_dataset(part, path)
        done.touch()
    return paths


def _split(data: Dataset) -> list[Dataset]:
    indices = partition(data.labels, LEARNERS, kind="iid", alpha=1, seed=0)
    return [data.select(part) for part in indices]


def _run_all(
    chosen: Sequence[Setting], size: Size, source: Path, folder: Path, parts: Sequence[Path]
) -> dict[str, list[Outcome]]:
    console = Console()
    total = len(chosen) * len(size.seeds)
    outcomes: dict[str, list[Outcome]] = {setting.name: [] for setting in chosen}
    # Seed by seed, so that a study that was stopped has something of every setting.
    for seed in size.seeds:
        for setting in chosen:
            config = settings(setting, size, source, seed)
            outcome = run_once(run_folder(folder, f"{_slug(setting.name)}-{seed}", config), config, parts)
            outcomes[setting.name].append(outcome)
            number = sum(map(len, outcomes.values()))
            console.print(
                f"  {number}/{total} {setting.name}, seed {seed}: {outcome.accuracy:.2%}, "
                f"{outcome.up / 1e6:.4g} MB up, {outcome.down / 1e6:.4g} MB down, {outcome.seconds:.0f} s",
                highlight=False,
            )
    return outcomes


def _slug(name: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in name).lower().split())


def summarise(outcomes: Outcomes, size: Size) -> Result:
    """Figures, shares of the bytes, targets and the columns of table and plot."""
    base = outcomes[NONE]
    promised = targets(outcomes) if set(outcomes) == {setting.name for setting in SETTINGS} else ()
    epochs = size.steps * size.batch * LEARNERS / size.examples
    return Result(
        entry="codecs",
        about=f"resnet9-w8 on CIFAR-10, {LEARNERS} learners, {epochs:.3g} epochs, {len(size.seeds)} seeds; "
        "bytes of models and updates as the leader counted them on its streams",
        target=promised[0] if promised else None,
        further=promised[1:],
        figures=tuple(
            Figure(f"{name}: test accuracy", "%", Spread.of([100 * outcome.accuracy for outcome in these]))
            for name, these in outcomes.items()
        ),
        ratios={f"{name}: bytes to {NONE}": share(these, base, moved) for name, these in outcomes.items()},
        series={
            f"{column} of {name}": [float(of(outcome)) for outcome in these]
            for name, these in outcomes.items()
            for column, of in COLUMNS.items()
        },
    )


COLUMNS: dict[str, Callable[[Outcome], float]] = {
    "accuracy": lambda outcome: outcome.accuracy,
    "bytes up": lambda outcome: outcome.up,
    "bytes down": lambda outcome: outcome.down,
    "seconds": lambda outcome: outcome.seconds,
}


def moved(outcome: Outcome) -> float:
    """Bytes both ways."""
    return outcome.up + outcome.down


def share(these: Sequence[Outcome], base: Sequence[Outcome], of: Callable[[Outcome], float]) -> float:
    """Mean bytes of these runs as a share of the base's."""
    return statistics.fmean(map(of, these)) / statistics.fmean(map(of, base))


def deficit(these: Sequence[Outcome], base: Sequence[Outcome]) -> float:
    """Points of accuracy that the mean of these runs lies below the base's."""
    return 100 * (
        statistics.fmean(outcome.accuracy for outcome in base)
        - statistics.fmean(outcome.accuracy for outcome in these)
    )


def targets(outcomes: Outcomes) -> tuple[Target, ...]:
    """What the project promises of codecs: bytes and accuracy."""
    promises: tuple[tuple[str, Callable[[Outcome], float], str, float, float], ...] = (
        ("per step, int8 both ways", moved, "bytes both ways", 27, 0.5),
        ("per step, top-k up", lambda outcome: outcome.up, "bytes up", 2, 1),
        ("DiLoCo 16, int4", moved, "bytes both ways", 1, 1),
    )
    made = []
    for name, of, what, most, points in promises:
        these, base = outcomes[name], outcomes[NONE]
        made.append(Target(f"{name}: {what} of those without codec", "%", 100 * share(these, base, of), most))
        made.append(
            Target(f"{name}: accuracy below that without codec", "points", deficit(these, base), points)
        )
    return tuple(made)
