"""`python -m benchmarks.outcome.attacked_run`: a simulated run in which some learners attack."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from leader import cli
from leader.config import RunConfig
from leader.global_model.initial import open_origin
from learner.training.update import Assignment, Update
from scripts.simulate.parts import Brought, brought
from scripts.simulate.simulation import Hooks, Options, simulate
from tests.poison import ALittleIsEnough, Attack, Gaussian, Scaled, SignFlip, flip_labels
from utils.datasets import Dataset
from utils.errors import program
from utils.seeds import derive_seed

ATTACKS = ("none", "sign_flip", "scaled", "gaussian", "a_little_is_enough", "label_flip")


def attack_of(name: str, learners: int) -> Attack | None:
    """The attack on updates with this name; None for those that are none."""
    made: dict[str, Attack] = {
        "sign_flip": SignFlip(),
        "scaled": Scaled(-10.0),
        "gaussian": Gaussian(1.0),
        "a_little_is_enough": ALittleIsEnough(learners),
    }
    return made.get(name)


class Attackers:
    """The first learners of the run; they know each other's last honest updates, and nobody else's.

    They change parameters alone: the statistics of batch norm are sent as they are.
    """

    def __init__(self, attack: Attack, count: int, config: RunConfig) -> None:
        self._attack = attack
        self._count = count
        self._seed = config.seed
        self._split = open_origin(config, classes=10).layout.parameter_count
        self._honest: dict[str, NDArray[np.float32]] = {}

    def __call__(self, part: str, assignment: Assignment, update: Update) -> Update:
        """What goes out in place of `update`."""
        number = int(part.rpartition("-")[2])
        if number >= self._count:
            return update
        values = update.values
        self._honest[part] = values[: self._split]
        known = np.stack([self._honest[name] for name in sorted(self._honest)])
        rng = np.random.Generator(
            np.random.PCG64(derive_seed(self._seed, "attack", part, assignment.order.round))
        )
        sent = self._attack(values[: self._split], known, rng)
        return replace(update, values=np.concatenate([sent, values[self._split :]]))


def flipped(own: tuple[Brought, ...], count: int) -> tuple[Brought, ...]:
    """What the learners bring, with the labels of the first `count` turned round."""
    return tuple(
        replace(each, examples=_flip(each)) if number < count else each for number, each in enumerate(own)
    )


def _flip(each: Brought) -> Dataset:
    data = each.examples
    classes = tuple(str(number) for number in range(each.said.classes))
    every = np.arange(len(data))
    labels = flip_labels(np.array(data.labels[every]), len(classes))  # type: ignore[attr-defined]
    return Dataset("flipped labels", np.array(data.images[every]), labels, classes)  # type: ignore[attr-defined]


@program
def main(argv: list[str]) -> int:
    """Simulate one attacked run; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.outcome.attacked_run", description=__doc__)
    parser.add_argument("--attack", choices=ATTACKS, default="none")
    parser.add_argument("--attackers", type=int, default=0, help="how many learners attack; 0")
    options, rest = parser.parse_known_args(argv)
    command = cli.parse(rest, os.environ)
    config = command.config
    own = tuple(brought(config, None, None))
    attack = attack_of(options.attack, config.learners)
    hooks = Hooks(
        own=flipped(own, options.attackers) if options.attack == "label_flip" else own,
        tamper=Attackers(attack, options.attackers, config) if attack else None,
    )
    simulate(config, Options(), hooks, resume=command.resume is not None)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
