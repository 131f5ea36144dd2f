"""What the leader holds of the run's data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from leader.config import RunConfig
from model.task import Examples, load_task
from utils.datasets import Dataset, open_dataset


@dataclass(frozen=True)
class Data:
    """What the leader holds."""

    name: str
    train: Dataset | None  # None where learners bring their own
    test: Examples | None
    classes: int  # 0 where the run trains a task of the user's own


def open_data(config: RunConfig) -> Data:
    """The run's data set, cut to the configured number of examples; raises DataError."""
    wanted = config.data
    own = bool(config.model.task or not config.model.name)
    if wanted.source == "none":
        return Data("the learners' own data", None, None, 0 if own else config.model.classes)
    if config.model.task:
        task = load_task(config.model.task, "model.task")
        return Data(config.model.task, None, task.open_data(Path(wanted.source), train=False), 0)
    here = wanted.holder == "leader"
    split = open_dataset(
        wanted.source, wanted.dir, cut=(wanted.train_examples if here else 1, wanted.test_examples)
    )
    return Data(split.train.name, split.train if here else None, split.test, len(split.train.classes))
