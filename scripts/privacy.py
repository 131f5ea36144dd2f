"""`python -m scripts.privacy`: what a private run will cost, before it begins, and what private runs came to."""

from __future__ import annotations

import io
import json
import math
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from leader.config import RunConfig
from leader.config.rules.dp import releases_a_part, releases_needed, shares_counted
from leader.config.rules.secagg import asked, sum_of_least
from leader.config.yaml_file import SCHEMA
from leader.dp.accountant import Accountant
from leader.dp.distributed import charged, noise_plan
from leader.metric_names import headline, is_share
from protos import leader_pb2
from utils.console import say
from utils.dp import sampled_gaussian
from utils.dp.gaussian import epsilon_of, least_noise
from utils.errors import ConfigError, program
from utils.files import replace_file
from utils.settings.flags import number, whole
from utils.settings.verbs import Flag, Verb, Verbs

_DESCRIPTION = """\
Plan a run with differential privacy before it begins, and draw what such runs came to. Each verb has flags of its own.

  python -m scripts.privacy plan --learners 1000 --cohort 100 --rounds 200
  python -m scripts.privacy plan --learners 1000 --rounds 50 --noise 4 --parameters 103954
  python -m scripts.privacy plan --mode distributed --learners 100 --rounds 20 --quorum 0.8 --colluding 0.1
  python -m scripts.privacy plan --mode distributed --learners 100 --rounds 20 --buffer 20 --group 10
  python -m scripts.privacy plan --mode examples --examples 5000 --batch-size 32 --local-steps 20 --rounds 20
  python -m scripts.privacy plot runs/PRIVATE runs/PLAIN --out privacy.png

"""
_LEAST = 3  # secagg.least, by default
_FINEST = 2**40  # values, for which noise has the finest lattice that there is room for
_MODES = ("central", "distributed", "examples")
_USUAL = (  # what runs with noise in shares have
    ("data.source", "none"),
    ("data.holder", "learner"),
    ("model.norm", "group"),
    ("aggregate.weighting", "uniform"),
)
_SHARE = number(lambda value: 0 < value <= 1, "above 0 and at most 1")
_FRACTION = number(lambda value: 0 <= value < 1, "from 0 to below 1")
_POSITIVE = number(lambda value: 0 < value < 1e6, "above 0")
_FLAGS: Mapping[str, Flag] = {
    "--mode": ("", _MODES, "central", "dp.mode of the run [central]"),
    "--rounds": ("N", whole(1, 10_000_000), 10, "rounds of the run [10]"),
    "--learners": ("N", whole(1, 10_000_000), 2, "learners that it begins with [2]"),
    "--cohort": ("N", whole(0, 10_000_000), 0, "learners drawn a round; 0 = all [0]"),
    "--quorum": ("Q", _SHARE, 1.0, "distributed: share of the learners that a round may close on [1]"),
    "--colluding": ("C", _FRACTION, 0.0, "distributed: share of them whose noise is not counted [0]"),
    "--buffer": ("N", whole(0, 100_000), 0, "distributed: updates a round of groups (buffer.size) [0]"),
    "--group": ("N", whole(0, 100_000), 0, "distributed: learners of a group; 0 = as --buffer [0]"),
    "--examples": ("N", whole(1, 2**40), 0, "examples: how many a learner has"),
    "--batch-size": ("N", whole(1, 2**30), 128, "examples: in a step, on average [128]"),
    "--local-steps": ("N", whole(0, 10_000_000), 0, "examples: steps of a round; 0 = one pass [0]"),
    "--noise": ("Z", _POSITIVE, 0.0, "noise multiplier [the least that pays]"),
    "--epsilon": ("E", _POSITIVE, 8.0, "budget of each learner [8]"),
    "--delta": ("D", number(lambda value: 0 < value < 1, "between 0 and 1"), 1e-5, "chance of more [1e-5]"),
    "--parameters": ("N", whole(1, 2**40), 0, "parameters of the model, to compare the noise with updates"),
    "--out": ("FILE", Path, Path("privacy.png"), "picture to write [privacy.png]"),
}


def plan(options: Namespace) -> str:
    """What a run of these sizes costs each learner, or each example, and how much noise that takes."""
    if options.mode == "examples":
        return "\n".join(_plan_examples(options))
    return "\n".join(_plan_groups(options) if options.buffer or options.group else _plan_learners(options))


def _plan_learners(options: Namespace) -> Iterator[str]:
    cohort = min(options.cohort or options.learners, options.learners)
    releases = releases_needed(options.rounds, options.learners, cohort)
    least = least_noise(options.epsilon, options.delta, releases)
    noise, full = options.noise or least, 1.0
    yield f"rounds that a learner may have to pay: {releases} of {options.rounds}"
    if options.mode == "distributed":
        fewest, shares = _fewest(options, cohort)
        full = math.sqrt(cohort / shares)
        yield f"smallest sum that a round may have: {fewest} of {cohort} updates, of which the noise of {shares} counts"
    yield f"least noise multiplier that pays them: {least:g} (dp.noise_multiplier=0 takes it)"
    yield _verdict(options, noise, epsilon_of(math.sqrt(releases) / noise, options.delta))
    if options.mode == "distributed":
        counts = noise * math.sqrt(shares_counted(cohort, cohort, options.colluding) / shares)
        spent = epsilon_of(math.sqrt(releases) / counts, options.delta)
        yield f"if all are in each sum: noise of {noise * full:.4g}, of which {counts:.4g} counts: epsilon {spent:.3g}"
    yield from _compared(options, noise * full, cohort)


def _compared(options: Namespace, noise: float, updates: int) -> Iterator[str]:
    if options.delta >= 1 / options.learners:
        yield f"delta is no less than 1/learners: lower it, below {1 / options.learners:g} by far"
    if options.parameters:
        ratio = noise * math.sqrt(options.parameters) / updates
        yield f"noise over clipped updates, z sqrt(d) / n: {ratio:.2g} (far above 1 little is learnt)"


def _plan_groups(options: Namespace) -> Iterator[str]:
    """Asynchronous runs: how many sums a learner is in depends on how quick it is."""
    config = _run_of_groups(options)
    fewest, size, releases = sum_of_least(config), asked(config), releases_a_part(config)
    noise = config.dp.noise(releases)
    masks = leader_pb2.MaskPlan(bits=config.secagg.bits, parties=size)
    planned = noise_plan(config, masks, fewest, options.parameters or _FINEST)
    least, full = (charged(config, planned, in_sum, size) for in_sum in (fewest, size))
    shares = shares_counted(fewest, size, options.colluding)
    most, usual = (options.rounds * math.ceil(options.buffer / in_sum) for in_sum in (fewest, size))
    each = math.ceil(usual * size / options.learners)
    yield f"sums that a learner may have to pay, whoever is quick: {releases} of {most} at most"
    yield f"smallest sum that a group may have: {fewest} of {size} updates, of which the noise of {shares} counts"
    pays = least_noise(options.epsilon, options.delta, releases)
    yield f"least noise multiplier that pays them: {pays:g} (dp.noise_multiplier=0 takes it)"
    yield _verdict(options, noise, _spent(config, least, releases))
    yield (
        f"if all are in each sum and nobody is quicker: {each} sums of each, with noise of {full:.4g} that counts: "
        f"epsilon {_spent(config, full, each):.3g}"
    )
    yield from _compared(options, noise * math.sqrt(size / shares), size)


def _run_of_groups(options: Namespace) -> RunConfig:
    """The leader's settings; raises ConfigError where it would refuse them."""
    chosen = {
        "learners": ("--learners", options.learners),
        "rounds": ("--rounds", options.rounds),
        "cohort.size": ("--cohort", options.cohort),
        "cohort.quorum": ("--quorum", options.quorum),
        "buffer.size": ("--buffer", options.buffer),
        "buffer.group": ("--group", options.group),
        "secagg.mode": ("--mode", "masked" if options.mode == "distributed" else ""),
        "dp.mode": ("--mode", options.mode),
        "dp.colluding": ("--colluding", options.colluding),
        "dp.noise_multiplier": ("--noise", options.noise),
        "dp.epsilon": ("--epsilon", options.epsilon),
        "dp.delta": ("--delta", options.delta),
    }
    given = [(flag, key, str(value)) for key, (flag, value) in chosen.items() if value]
    return SCHEMA.build(SCHEMA.from_text([("plan", *setting) for setting in _USUAL] + given))


def _spent(config: RunConfig, multiplier: float, releases: int) -> float:
    """Epsilon of a learner whose updates were in so many sums, each charged as by the ledger."""
    accountant = Accountant(config.dp.epsilon, config.dp.delta)
    for _ in range(releases):
        accountant.charge(("learner",), multiplier)
    return accountant.spent_max


def _fewest(options: Namespace, cohort: int) -> tuple[int, int]:
    """Fewest updates in a sum, and how many bring noise that counts; raises ConfigError where none does."""
    unmask = max(min(_LEAST, cohort), math.floor(cohort * 2 / 3) + 1)
    fewest = min(cohort, max(unmask, math.ceil(options.quorum * cohort)))
    shares = shares_counted(fewest, cohort, options.colluding)
    if shares < 1:
        raise ConfigError(
            f"--colluding: of {fewest} learners in the smallest sum the noise of none counts; lower it"
        )
    return fewest, shares


def _plan_examples(options: Namespace) -> Iterator[str]:
    if not options.examples:
        raise ConfigError("--mode examples: say how many a learner has by --examples")
    if options.buffer or options.group:
        raise ConfigError(
            "--mode examples: a learner charges its own work, by itself; leave out --buffer and --group"
        )
    rate = min(1.0, options.batch_size / options.examples)
    each = options.local_steps or math.ceil(options.examples / options.batch_size)
    steps = options.rounds * each
    least = sampled_gaussian.least_noise(rate, steps, options.epsilon, options.delta)
    noise = options.noise or least
    spent = sampled_gaussian.epsilon_of(steps * sampled_gaussian.divergences_of(rate, noise), options.delta)
    yield f"steps of a learner: {steps}, each with one example in {1 / rate:.4g} on average, if it is in every round"
    yield f"least noise multiplier that pays them: {least:g} (dp.noise_multiplier=0 takes it)"
    yield _verdict(options, noise, spent)
    if options.delta >= 1 / options.examples:
        yield f"delta is no less than 1/examples: lower it, below {1 / options.examples:g} by far"
    if options.parameters:
        ratio = noise * math.sqrt(options.parameters) / min(options.batch_size, options.examples)
        yield f"noise over a step's clipped gradients, z sqrt(d) / batch: {ratio:.2g} (of one step)"


def _verdict(options: Namespace, noise: float, spent: float) -> str:
    ends = "a learner stops before the last round" if options.mode == "examples" else "refused at the start"
    verdict = "within the budget" if spent <= options.epsilon * (1 + 1e-9) else ends
    said = f"epsilon with noise multiplier {noise:g}: {spent:.3g} of {options.epsilon:g} at delta {options.delta:g}"
    return f"{said}, {verdict}"


def plot(options: Namespace) -> str:
    """Draw the metric over epsilon for each run; a run without dp.mode is the line that it came to."""
    if not options.what:
        raise ConfigError("plot: name at least one run folder")
    curves = {run.name: _curve(run) for run in options.what}
    metric = next(metric for metric, _ in curves.values())
    if others := [name for name, (other, _) in curves.items() if other != metric]:
        raise ConfigError(f"plot: {others[0]} was measured by another metric than {metric}")
    image = io.BytesIO()
    _figure({name: points for name, (_, points) in curves.items()}, metric).savefig(image, format="png")
    try:
        replace_file(options.out, image.getvalue())
    except OSError as error:
        raise ConfigError(f"--out: can't write {options.out}: {error.strerror}") from error
    return f"{options.out}: test {metric} against epsilon of {len(curves)} runs"


Points = list[tuple[float | None, float]]  # epsilon, None in a run without; metric


def _curve(run: Path) -> tuple[str, Points]:
    """The metric that a run was tested by, and its values over what was spent."""
    path = run / "metrics.jsonl"
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise ConfigError(f"plot: {path} can't be read ({error}); give the folder of a run") from error
    names = {key[5:]: None for record in records for key in record if key.startswith("test_")}
    if (metric := headline(names)) is None:
        raise ConfigError(f"plot: {run} was never tested (evaluation.every); nothing to draw")
    tested = [record for record in records if record.get(f"test_{metric}") is not None]
    return metric, [(record.get("epsilon"), record[f"test_{metric}"]) for record in tested]


def _figure(curves: Mapping[str, Points], metric: str) -> Any:
    from matplotlib.figure import Figure  # here, as it takes most of a second

    scale = 100 if is_share(metric) else 1
    figure = Figure(figsize=(7, 4.6), dpi=120, layout="constrained")
    axes = figure.subplots()
    for number_, (name, points) in enumerate(curves.items()):
        spent = [(epsilon, scale * value) for epsilon, value in points if epsilon is not None]
        if spent:
            axes.plot(*zip(*spent, strict=True), marker=".", color=f"C{number_}", label=name)
        else:
            last = scale * points[-1][1]
            axes.axhline(last, linestyle="--", color=f"C{number_}", label=f"{name} (no noise)")
    axes.set_xlabel("epsilon spent")
    axes.set_ylabel(f"test {metric} (%)" if scale == 100 else f"test {metric}")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


PROGRAM = Verbs[
    Callable[[Namespace], str]
](  # gives what to print
    "python -m scripts.privacy",
    _DESCRIPTION,
    _FLAGS,
    {
        "plan": Verb("what a run will cost, and the least noise that pays it", plan, tuple(_FLAGS)[:-1]),
        "plot": Verb("accuracy against epsilon of runs", plot, ("--out",), "RUN...", Path),
    },
)
make_parser = PROGRAM.parser


@program
def main(argv: Sequence[str] | None = None) -> int:
    """Do what the first word says; returns the exit code."""
    run, options = PROGRAM.parse(sys.argv[1:] if argv is None else argv)
    say(*run(options).splitlines())
    return 0


if __name__ == "__main__":
    sys.exit(main())
