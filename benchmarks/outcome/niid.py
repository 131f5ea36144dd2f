"""Flower's NIID baseline on CIFAR-10: its set-up, what it published, and what is run here beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from benchmarks.outcome.niid_parts import PARTS
from benchmarks.outcome.study import Trial
from leader.config.recipes import RECIPES
from leader.data.partition import Kind

#: Where the set-up and the figures are from; and an older revision of the page, with figures of one seed.
SOURCE = "https://github.com/adap/flower/tree/b6179b648549ad8fd0bb270dc6602c3e054cc2be/baselines/niid_bench"
OLDER = "https://github.com/adap/flower/blob/1599d01c2f76a4139abe231b7e294f828ba62048/baselines/niid_bench/README.md"

PEERS = ("FedAvg", "SCAFFOLD", "FedProx", "FedNova")


@dataclass(frozen=True)
class Column:
    """A split of the images, and what was published of it: best test accuracy over the rounds, in percent."""

    title: str
    kind: Kind
    classes: int | None
    means: tuple[float, ...]  # of each of PEERS
    deviations: tuple[float, ...]
    older: tuple[float, ...]

    @property
    def best(self) -> float:
        """The highest of all, in either revision."""
        return max(*self.means, *self.older)


_IID = ((71.32, 71.66, 71.26, 70.69), (0.33, 1.13, 1.18, 1.14), (71.7, 70.7, 70.6, 71.1))
_DIRICHLET = ((62.47, 68.08, 65.63, 63.89), (0.43, 0.96, 0.08, 1.40), (63.4, 68.0, 65.6, 65.0))
_TWO = ((51.17, 49.42, 50.44, 46.90), (1.09, 2.18, 0.79, 0.66), (49.9, 48.9, 50.0, 46.4))
_THREE = ((59.11, 61.00, 59.20, 57.83), (0.87, 0.91, 1.18, 0.42), (58.1, 60.0, 60.0, 57.7))

COLUMNS: Mapping[str, Column] = {
    "iid": Column("IID", "iid", None, *_IID),
    "dirichlet": Column("Dirichlet 0.5", "dirichlet", None, *_DIRICHLET),
    "two_classes": Column("two classes each", "classes", 2, *_TWO),
    "three_classes": Column("three classes each", "classes", 3, *_THREE),
}

#: What each changes: the peers' own first, then the recipe that should do better at the same budget.
ALGORITHMS: Mapping[str, Mapping[str, object]] = {
    "FedAvg": {},
    "FedProx": {"train.proximal_mu": 0.01},
    "FedNova": {"aggregate.weighting": "fednova"},
    "skewed": RECIPES["skewed"],
}


@dataclass(frozen=True)
class Size:
    """How much is trained."""

    rounds: int
    epochs: int
    examples: int  # of the training images; 0 = all


FULL = Size(rounds=50, epochs=10, examples=0)
QUICK = Size(rounds=2, epochs=1, examples=1000)


def settings(size: Size) -> dict[str, object]:
    """The config that all runs share."""
    return {
        "learners": PARTS,
        "rounds": size.rounds,
        "data.holder": "learner",
        "model.task": "benchmarks.outcome.niid_task:Niid",
        "train.local_epochs": size.epochs,
        "train.batch_size": 64,
        "train.lr": 0.01,
        "train.schedule": "constant",
        "train.momentum": 0.9,
        "train.nesterov": False,
        "train.weight_decay": 1e-5,
        "train.dtype": "float32",
        "evaluation.every": 1,
        "keep_checkpoints": 1,
    }


@dataclass(frozen=True)
class Cell:
    """One run of the table."""

    column: str
    algorithm: str
    seed: int

    @property
    def name(self) -> str:
        """Folder of its run."""
        return f"{self.title}-{self.seed}"

    @property
    def title(self) -> str:
        """Its name whatever the seed."""
        return f"{self.column}-{self.algorithm}"

    def parts(self, folder: Path) -> Path:
        """Where its learners' data is, which all cells of the column share."""
        return folder / f"parts-{self.column}"

    def trial(self, size: Size, folder: Path, device: str) -> Trial:
        """Its run."""
        chosen = {**settings(size), **ALGORITHMS[self.algorithm], "seed": self.seed}
        return Trial(self.name, chosen, ("--parts", str(self.parts(folder)), "--device", device))


def cells(seeds: int) -> list[Cell]:
    """Every place in the table, seed by seed."""
    return [Cell(*place, seed) for seed in range(seeds) for place in product(COLUMNS, ALGORITHMS)]
