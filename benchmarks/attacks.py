"""`python -m benchmarks.attacks`: test accuracy on CIFAR-10 under attack, by rule, attack and share of attackers.

Runs that are done are kept: a call that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe_machine, in_words
from benchmarks.outcome.attacked_run import ATTACKS
from benchmarks.outcome.study import Trial, parse_study, read_curve, run_study
from benchmarks.result import markdown_table

LEARNERS = 20
SHARES = (0.0, 0.2, 0.4)

#: Settings of each rule; `byzantine` is set to the number of attackers where the rule asks for one.
RULES: dict[str, dict[str, object]] = {
    "mean": {},
    "mean, clipped": {"aggregate.clip_norm": 1.5},
    "median": {"aggregate.rule": "median"},
    "trimmed mean": {"aggregate.rule": "trimmed_mean"},
    "geometric median": {"aggregate.rule": "geometric_median"},
    "Krum": {"aggregate.rule": "krum"},
    "Multi-Krum": {"aggregate.rule": "multi_krum"},
    "Bulyan": {"aggregate.rule": "bulyan"},
}


@dataclass(frozen=True)
class Size:
    """How much is trained."""

    rounds: int
    local_steps: int
    attacks: tuple[str, ...] = ATTACKS[1:]
    shares: tuple[float, ...] = SHARES


FULL = Size(rounds=8, local_steps=4)
QUICK = Size(rounds=4, local_steps=3, attacks=("sign_flip", "scaled"), shares=(0.0, 0.2))


@dataclass(frozen=True)
class Cell:
    """One place in the table."""

    rule: str
    attack: str
    share: float

    @property
    def name(self) -> str:
        """Folder of its run."""
        rule = self.rule.replace(",", "").replace(" ", "_")
        return f"{rule}-{self.attack}-{100 * self.share:.0f}"

    @property
    def possible(self) -> bool:
        """Whether the rule can withstand so many; Bulyan needs n >= 4 f + 3."""
        return self.rule != "Bulyan" or 4 * round(self.share * LEARNERS) + 3 <= LEARNERS

    def trial(self, size: Size) -> Trial:
        """Its run."""
        attackers = round(self.share * LEARNERS)
        settings = {
            "learners": LEARNERS,
            "rounds": size.rounds,
            "data.holder": "learner",
            "model.name": "resnet9-w8",
            "train.local_steps": size.local_steps,
            "train.batch_size": 32,
            "train.lr": 0.6,
            "train.schedule": "cosine",
            "train.momentum": 0,
            "train.nesterov": False,
            "evaluation.every": 0,
            "keep_checkpoints": 1,
            **RULES[self.rule],
        }
        if "aggregate.rule" in settings:
            settings["aggregate.byzantine"] = attackers
        flags = ("--attack", self.attack, "--attackers", str(attackers))
        return Trial(self.name, settings, flags, "benchmarks.outcome.attacked_run")


def cells(size: Size) -> list[Cell]:
    """Every place in the table; without attackers there is one a rule."""
    made = []
    for rule in RULES:
        for share in size.shares:
            attacks = size.attacks if share else ("none",)
            made += [Cell(rule, attack, share) for attack in attacks]
    return made


Accuracies = Mapping[Cell, float]


def rows(size: Size, accuracies: Accuracies) -> list[list[str]]:
    """A row a rule: without attackers, then each attack by each share."""
    lines = []
    for rule in RULES:
        line = [rule, _shown(Cell(rule, "none", 0.0), accuracies)]
        for attack in size.attacks:
            shown = [_shown(Cell(rule, attack, share), accuracies) for share in size.shares if share]
            line.append(" / ".join(shown))
        lines.append(line)
    return lines


def _shown(cell: Cell, accuracies: Accuracies) -> str:
    if not cell.possible:
        return "–"
    return "ended" if math.isnan(accuracies[cell]) else f"{100 * accuracies[cell]:.1f}"


def heads(size: Size) -> list[str]:
    """Of the table's columns."""
    return ["rule", "no attackers", *(attack.replace("_", " ") for attack in size.attacks)]


def markdown(size: Size, accuracies: Accuracies, machine: Mapping[str, object]) -> str:
    """The page with the table, its conditions and its command."""
    shares = " / ".join(f"{100 * share:.0f} %" for share in size.shares if share)
    lines = [
        "# Attacks and robust rules on CIFAR-10",
        "",
        f"Test accuracy in percent with {shares} of {LEARNERS} learners attacking; 10 is guessing, – is not possible "
        "(Bulyan needs n >= 4 f + 3), ended: the model grew so fast that all updates were out of range and the run "
        "stopped. "
        f"IID data, {size.rounds} rounds of {size.local_steps} local steps, batch 32, resnet9-w8, one seed. "
        "Each rule is told how many attackers there are. Attackers send: their update turned round (sign flip), "
        "turned round and ten times as large (scaled), noise of deviation 1 (gaussian), the mean of the colluders' "
        "updates shifted by as much as hides in their spread (a little is enough), or an honest update from labels "
        "y -> 9 - y (label flip). They change the parameters; statistics of batch norm are sent as they are. "
        "The attacks are in `tests/poison.py`, with their papers.",
        "",
        *markdown_table(heads(size), rows(size, accuracies), words=len(heads(size))),
        "",
        f"Clipping is to a norm of {RULES['mean, clipped']['aggregate.clip_norm']}. Measured on {in_words(machine)}.",
        "",
        "Repeat it: `make attacks DATA=DIR` (`QUICK=1` for some minutes); a call that was stopped goes on where "
        "it was.",
        "",
    ]
    return "\n".join(lines)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    return parse_study(
        argv, "python -m benchmarks.attacks", __doc__, "two attacks and few rounds: some minutes"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing and write the table; returns the exit code."""
    options = parse(argv)
    console = Console()
    size = QUICK if options.quick else FULL
    folder = options.runs / ("attacks-quick" if options.quick else "attacks")
    out = options.out or folder
    places = [cell for cell in cells(size) if cell.possible]
    if code := run_study([cell.trial(size) for cell in places], folder, options, console):
        return code
    accuracies = {cell: read_curve(folder / cell.name).accuracy for cell in places}
    machine = describe_machine()
    out.mkdir(parents=True, exist_ok=True)
    (out / "attacks.md").write_text(markdown(size, accuracies, machine), encoding="utf-8")
    content = {
        "machine": machine,
        "accuracy": {cell.name: None if math.isnan(value) else value for cell, value in accuracies.items()},
    }
    (out / "attacks.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    table = Table(*heads(size))
    for row in rows(size, accuracies):
        table.add_row(*row)
    console.print(table)
    console.print(f"the table is in {out}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
