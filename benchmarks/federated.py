"""`python -m benchmarks.federated`: test accuracy of federated algorithms on CIFAR-10, as table and plots.

Ten learners, label skew by Dirichlet(alpha), the same number of rounds and local steps for every
algorithm, three seeds. Runs that are done are kept: a call that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe_machine, in_words
from benchmarks.outcome.federated_plot import draw_federated
from benchmarks.outcome.study import Curve, Trial, parse_study, read_curve, run_study
from benchmarks.result import markdown_table

CENTRALISED = "centralised"
LEARNERS = 10

#: What each algorithm changes; everything else is the same for all of them.
ALGORITHMS: dict[str, dict[str, object]] = {
    "FedAvg": {},
    "FedAvgM": {"server.optimizer": "fedavgm", "server.momentum": 0.7, "server.lr": 0.5},
    "FedProx": {"train.proximal_mu": 0.01},
    "FedAdam": {"server.optimizer": "fedadam", "server.lr": 0.01, "server.tau": 0.001},
    "SCAFFOLD": {"train.control_variates": True},
    "FedBuff": {"buffer.size": LEARNERS, "buffer.max_staleness": 10},
}
#: Learners of very different speeds (a factor of 7 between plus and minus one deviation).
_FLAGS = {"FedBuff": ("--speed-spread", "1.0")}


@dataclass(frozen=True)
class Size:
    """How much is trained."""

    rounds: int
    local_steps: int
    evaluate_every: int
    alphas: tuple[float, ...] = (100.0, 0.5, 0.1)
    seeds: tuple[int, ...] = (0, 1, 2)


FULL = Size(rounds=10, local_steps=10, evaluate_every=2)
QUICK = Size(rounds=8, local_steps=5, evaluate_every=2, seeds=(0,))


def settings(size: Size) -> dict[str, object]:
    """The config that all runs share."""
    return {
        "rounds": size.rounds,
        "train.local_steps": size.local_steps,
        "train.batch_size": 32,
        "train.lr": 0.6,
        "train.schedule": "cosine",
        "train.warmup": 0.1,
        "train.momentum": 0,
        "train.nesterov": False,
        "evaluation.every": size.evaluate_every,
        "keep_checkpoints": 1,
    }


def trials(size: Size) -> list[Trial]:
    """Every run of the table, seed by seed."""
    made = []
    for seed in size.seeds:
        # The same examples in all: each round is as many steps as ten learners make together.
        steps = {"train.local_steps": LEARNERS * size.local_steps, "learners": 1}
        made.append(Trial(f"{CENTRALISED}-{seed}", {**settings(size), **steps, "seed": seed}))
        for alpha in size.alphas:
            split = {"learners": LEARNERS, "data.partition": "dirichlet", "data.alpha": alpha, "seed": seed}
            for name, changes in ALGORITHMS.items():
                chosen = {**settings(size), **split, **changes}
                made.append(Trial(f"{name}-{alpha:g}-{seed}", chosen, _FLAGS.get(name, ())))
    return made


Curves = Mapping[tuple[str, float], Sequence[Curve]]  # by algorithm and alpha (0 for centralised): one a seed


def read(size: Size, folder: Path) -> Curves:
    """All runs, done before."""
    curves = {(CENTRALISED, 0.0): [read_curve(folder / f"{CENTRALISED}-{seed}") for seed in size.seeds]}
    for name in ALGORITHMS:
        for alpha in size.alphas:
            curves[name, alpha] = [read_curve(folder / f"{name}-{alpha:g}-{seed}") for seed in size.seeds]
    return curves


def rows(curves: Curves, size: Size) -> list[list[str]]:
    """A row an algorithm: mean and spread of the accuracy for each alpha, megabytes of a run."""
    lines = []
    for name in (CENTRALISED, *ALGORITHMS):
        cells = [
            _cell([curve.accuracy for curve in curves[(name, alpha) if name != CENTRALISED else (name, 0.0)]])
            for alpha in size.alphas
        ]
        first = curves[(name, size.alphas[0]) if name != CENTRALISED else (name, 0.0)]
        moved = statistics.fmean(curve.megabytes[-1] for curve in first)
        lines.append([name, *cells, "none" if name == CENTRALISED else f"{moved:,.0f}"])
    return lines


def _hours(curves: Curves) -> float:
    return sum(curve.seconds for these in curves.values() for curve in these) / 3600


def _cell(accuracies: Sequence[float]) -> str:
    mean = 100 * statistics.fmean(accuracies)
    spread = 100 * statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
    return f"{mean:.1f} ± {spread:.1f}"


def markdown(curves: Curves, size: Size, machine: Mapping[str, object]) -> str:
    """The page with the table, its conditions and its command."""
    heads = ["algorithm", *(f"alpha {alpha:g}" for alpha in size.alphas), "MB moved"]
    lines = [
        "# Federated algorithms on CIFAR-10",
        "",
        f"Test accuracy in percent, mean ± standard deviation over {len(size.seeds)} "
        f"seed{'s' if len(size.seeds) > 1 else ''}. "
        f"{LEARNERS} learners hold the 50,000 training images, label skew by Dirichlet(alpha); "
        f"{size.rounds} rounds of {size.local_steps} local steps, batch 32, plain SGD, resnet9-w16 with batch norm. "
        f"Centralised training sees as many images: one learner, {LEARNERS * size.local_steps} steps a round. "
        "FedBuff: learners of log-normal speed (deviation 1), a buffer of 10; the others wait for all. "
        "MB moved is both ways, at alpha "
        f"{size.alphas[0]:g}, the streaming of shards included.",
        "",
        *markdown_table(heads, rows(curves, size), words=len(heads)),
        "",
        "What an algorithm changes from FedAvg, in the names of the config:",
        "",
        *(
            f"- {name}: {', '.join(f'`{key}={str(value).lower()}`' for key, value in changes.items()) or 'nothing'}"
            for name, changes in ALGORITHMS.items()
        ),
        "",
        "Nothing was tuned beyond one learning rate for all, and so few rounds tell how runs begin, not where they "
        'end: `make federated DATA=DIR ARGS="--rounds 100"` goes further. Averaging ten learners makes as many steps '
        f"as one of them does ({size.rounds * size.local_steps}), centralised training ten times as many.",
        "",
        f"All runs together took {_hours(curves):.1f} hours of one core. Measured on {in_words(machine)}.",
        "",
        "![accuracy over rounds and bytes](federated.png)",
        "",
        "Repeat it: `make federated DATA=DIR` (`QUICK=1` for 10 minutes); a call that was stopped goes on "
        "where it was.",
        "",
    ]
    return "\n".join(lines)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    few = "one seed and few rounds: 10 minutes"
    return parse_study(argv, "python -m benchmarks.federated", __doc__, few, _add_rounds)


def _add_rounds(parser: argparse.ArgumentParser) -> None:
    rounds = f"rounds of a run; {FULL.rounds}, or {QUICK.rounds} if quick"
    parser.add_argument("--rounds", type=int, help=rounds)


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing, write table and plot; returns the exit code."""
    options = parse(argv)
    console = Console()
    size = QUICK if options.quick else FULL
    size = replace(size, rounds=options.rounds or size.rounds)
    folder = options.runs / f"federated-{size.rounds}-rounds{'-quick' if options.quick else ''}"
    out = options.out or folder
    if code := run_study(trials(size), folder, options, console):
        return code
    curves = read(size, folder)
    out.mkdir(parents=True, exist_ok=True)
    machine = describe_machine()
    (out / "federated.md").write_text(markdown(curves, size, machine), encoding="utf-8")
    (out / "federated.json").write_text(_document(curves, size, machine), encoding="utf-8")
    draw_federated(curves, size.alphas, out / "federated.png")
    table = Table("algorithm", *(f"alpha {alpha:g}" for alpha in size.alphas), "MB moved")
    for row in rows(curves, size):
        table.add_row(*row)
    console.print(table)
    console.print(f"table and plot are in {out}", highlight=False)
    return 0


def _document(curves: Curves, size: Size, machine: Mapping[str, object]) -> str:
    runs = {
        f"{name}-{alpha:g}": [
            {
                "accuracy": curve.accuracy,
                "rounds": list(curve.rounds),
                "accuracies": list(curve.accuracies),
                "megabytes": [round(value, 3) for value in curve.megabytes],
                "seconds": curve.seconds,
            }
            for curve in these
        ]
        for (name, alpha), these in curves.items()
    }
    content = {
        "learners": LEARNERS,
        "settings": settings(size),
        "algorithms": ALGORITHMS,
        "seeds": size.seeds,
        "machine": dict(machine),
        "runs": runs,
    }
    return json.dumps(content, indent=1) + "\n"


if __name__ == "__main__":
    sys.exit(main())
