"""What a peer published of its set-up, and what is run here beside it: one value for each peer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from benchmarks.outcome.study import Trial
from scripts.partition import Split
from utils.datasets import Dataset


@dataclass(frozen=True)
class Published:
    """Best test accuracy over the rounds, in percent."""

    mean: float
    deviation: float | None = None
    other: float | None = None  # of another run that they tell of

    def __str__(self) -> str:
        spread = "" if self.deviation is None else f" ± {self.deviation:.1f}"
        return f"{self.mean:.1f}{spread}" + ("" if self.other is None else f" / {self.other:.1f}")


@dataclass(frozen=True)
class Column:
    """A split of the images, and what was published of it."""

    title: str
    split: Callable[[Dataset], Split]
    published: Mapping[str, Published]  # by algorithm

    @property
    def best(self) -> float:
        """The highest of all."""
        return max(max(figure.mean, figure.other or 0.0) for figure in self.published.values())


@dataclass(frozen=True)
class Size:
    """How much is trained."""

    rounds: int
    epochs: int
    examples: int  # of the training images; 0 = all


QUICK = Size(rounds=2, epochs=1, examples=1000)


@dataclass(frozen=True)
class Words:
    """What the page says of a table, in Markdown."""

    title: str
    source: str  # the link to the set-up
    network: str
    steps: str  # how a learner trains, and on what
    figures: str  # what stands in a published cell
    notes: tuple[str, ...]  # paragraphs: what is not as in the source, and why
    flags: str  # that the reader may want


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


@dataclass(frozen=True)
class Table:
    """A peer's set-up, its figures and the algorithms that are run here."""

    name: str  # on the command line and of the files
    words: Words
    peers: tuple[str, ...]  # algorithms with a figure
    columns: Mapping[str, Column]
    algorithms: Mapping[str, Mapping[str, object]]  # what each changes: the peers' own, then a recipe of ours
    learners: int
    images: int  # all that they share
    batch_size: int
    full: Size
    training: Mapping[str, object]  # what all runs share, beside the sizes

    def has(self, column: str, algorithm: str) -> bool:
        """Whether it is run: peers' algorithms where they have a figure, ours everywhere."""
        return algorithm not in self.peers or algorithm in self.columns[column].published

    def cells(self, seeds: int) -> list[Cell]:
        """Every place in the table, seed by seed."""
        places = [place for place in product(self.columns, self.algorithms) if self.has(*place)]
        return [Cell(*place, seed) for seed in range(seeds) for place in places]

    def trial(self, cell: Cell, size: Size, folder: Path, device: str) -> Trial:
        """The run of a cell."""
        shared = {
            "learners": self.learners,
            "rounds": size.rounds,
            "data.holder": "learner",
            "train.local_epochs": size.epochs,
            "train.dtype": "float32",
            "evaluation.every": 1,
            "keep_checkpoints": 1,
        }
        algorithm = dict(self.algorithms[cell.algorithm])
        if algorithm.get("train.control_variates"):
            # All make the steps of an even share: as many images in all.
            share = math.ceil((size.examples or self.images) / self.learners)
            algorithm["train.local_steps"] = size.epochs * math.ceil(share / self.batch_size)
        chosen = {
            **shared,
            **self.training,
            "train.batch_size": self.batch_size,
            **algorithm,
            "seed": cell.seed,
        }
        return Trial(cell.name, chosen, ("--parts", str(cell.parts(folder)), "--device", device))
