"""What virtual learners train on: lazy views of the one data set, and the data that each brings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from leader.config import RunConfig
from leader.data.partition import partition
from learner.app import fingerprint_of
from model.image_classification import ImageClassification, LabelledImages
from model.task import Examples, Indices, Task
from protos import leader_pb2
from utils.datasets import Dataset, open_dataset
from utils.errors import ConfigError, DataError


class Rows:
    """Some rows of an array, in a given order; picked out when they are asked for."""

    def __init__(self, array: NDArray[Any], indices: Indices) -> None:
        self._array = array
        self._indices = indices

    def __getitem__(self, which: Indices) -> NDArray[Any]:
        rows: NDArray[Any] = self._array[self._indices[which]]
        return rows


@dataclass(frozen=True, eq=False)
class PartOf:
    """The examples of `data` at `indices`, such as a shard; a view, so that no image is copied."""

    data: LabelledImages
    indices: Indices

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def images(self) -> Rows:
        """As LabelledImages has them."""
        return Rows(self.data.images, self.indices)

    @property
    def labels(self) -> Rows:
        """As LabelledImages has them."""
        return Rows(self.data.labels, self.indices)


@dataclass(frozen=True)
class Brought:
    """The own data of one virtual learner."""

    examples: Examples
    said: leader_pb2.OwnData


def brought(config: RunConfig, task: Task | None, folder: Path | None) -> Sequence[Brought]:
    """What each learner of a run with data.holder = learner brings.

    The entries of `folder`, opened as learners do, or else equal numbers of parts of the run's own
    training set. Raises ConfigError or DataError.
    """
    if folder is not None:
        return _opened(config, task or ImageClassification(), folder)
    if task is not None:
        raise ConfigError(
            "model.task is set, so only the task can open data: give the virtual learners a folder with an entry "
            "for each, --parts DIR"
        )
    return _split(config)


def _split(config: RunConfig) -> Sequence[Brought]:
    data = config.data
    if data.source == "none":
        raise ConfigError(
            "data.source is none, but virtual learners need data: name a set to split, or --parts DIR"
        )
    if data.shards not in (0, config.learners):
        raise ConfigError(
            f"data.shards is {data.shards}, but {config.learners} virtual learners bring a part each: leave it 0"
        )
    train = open_dataset(data.source, data.dir, cut=(data.train_examples, 1)).train
    parts = partition(
        train.labels,
        config.learners,
        kind=data.partition,
        alpha=data.alpha,
        seed=config.seed,
        classes_per_shard=data.classes_per_shard,
        groups=train.groups,
    )
    return [Brought(PartOf(train, indices), _said(train.select(indices))) for indices in parts]


def _opened(config: RunConfig, task: Task, folder: Path) -> Sequence[Brought]:
    """What the task finds at each entry of the folder, in order of their names."""
    entries = sorted(path for path in folder.iterdir() if path.suffix != ".json") if folder.is_dir() else []
    if len(entries) != config.learners:
        raise DataError(
            f"--parts {folder} has {len(entries)} entries for {config.learners} virtual learners; "
            "it must have one for each: set --learners, or write other parts (python -m scripts.partition)"
        )
    return [_open(task, path) for path in entries]


def _open(task: Task, path: Path) -> Brought:
    examples = task.open_data(path, train=True)
    if examples is None or len(examples) == 0:
        raise DataError(f"--parts: the task finds no training examples in {path}")
    return Brought(examples, _said(examples))


def _said(examples: Examples) -> leader_pb2.OwnData:
    """What a learner with these examples says about them."""
    if isinstance(examples, Dataset):
        classes, fingerprint = len(examples.classes), examples.fingerprint()
        return leader_pb2.OwnData(examples=len(examples), classes=classes, fingerprint=fingerprint)
    return leader_pb2.OwnData(examples=len(examples), fingerprint=fingerprint_of(examples))
