"""What is trained: a small Protocol that a user implements, and the way to name an implementation."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from utils.errors import ConfigError

Indices = NDArray[np.int64]  # (B,) positions in the examples
Batch = Any  # tensors, or a tuple, list or dict of them


class Examples(Protocol):
    """Data in the form that the task wants; Flockstep only asks how many examples there are."""

    def __len__(self) -> int:
        """Number of examples."""
        ...


class Task(Protocol):
    """A model, its data, its loss and its scores: everything that Flockstep must know to train it.

    Flockstep draws the batches (the same ones for the same seed), moves them to the device, runs
    backward and optimizer, and moves weights; a task holds no state of the run.
    """

    def build_model(self, seed: int) -> nn.Module:
        """The model in float32 on the CPU; the same weights for the same seed."""
        ...

    def open_data(self, path: Path | None, *, train: bool) -> Examples | None:
        """Training or test examples at `path` (as given by --data, if it was); None if there are none.

        Raises DataError.
        """
        ...

    def make_batch(self, examples: Any, indices: Indices, rng: np.random.Generator | None) -> Batch:
        """The examples at `indices` as CPU tensors; `rng` draws augmentations, None means none."""
        ...

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean loss of the batch, a scalar that `backward` works on; called under autocast."""
        ...

    def metrics(self, model: nn.Module, batch: Batch) -> Mapping[str, float]:
        """Means over the batch by name, such as accuracy and loss; called in evaluation mode."""
        ...


@dataclass(frozen=True)
class FitPlan:
    """One work order, for a task that trains by itself."""

    batches: Callable[[], Iterator[Indices]]  # the order's batches, the same ones at every call
    lr: float  # at the first step
    seed: int  # of the part; add your own path to it with utils.seeds.derive_seed


@runtime_checkable
class FitsItself(Protocol):
    """A task that has its own way to train, such as scikit-learn's, in place of local SGD."""

    def fit(self, model: nn.Module, examples: Any, plan: FitPlan) -> float:
        """Train `model`, which holds the leader's weights, in place; returns the mean training loss."""
        ...


@runtime_checkable
class PlacesExamples(Protocol):
    """A task that makes batches on the device, of examples that lie there: none is copied at each step."""

    def place(self, examples: Any, device: torch.device, most_bytes: int) -> Any | None:
        """`examples` in the memory of `device`, for `make_batch`; None if they take more than `most_bytes` there."""
        ...


def load_task(name: str, option: str) -> Task:
    """The task called `name`, as package.module:Name, made without arguments.

    It is imported from this machine alone: names never come over the wire. Raises ConfigError,
    which names `option`.
    """
    module_name, _, attribute = name.partition(":")
    if not attribute.isidentifier() or not all(map(str.isidentifier, module_name.split("."))):
        raise ConfigError(
            f"{option} is {name!r}; it must be package.module:Name, such as my_tasks.digits:Digits"
        )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{option} {name}: no module {error.name!r}; start in the folder that it lies in, or install it"
        ) from None
    except Exception as error:
        raise ConfigError(f"{option} {name}: importing {module_name} failed: {_told(error)}") from error
    made = getattr(module, attribute, None)
    if made is None:
        raise ConfigError(f"{option} {name}: {module_name} has no {attribute}")
    try:
        task = made()
    except Exception as error:
        raise ConfigError(
            f"{option} {name}: {attribute}() failed, it must work without arguments: {_told(error)}"
        ) from error
    missing = [method for method in _METHODS if not callable(getattr(task, method, None))]
    if missing:
        raise ConfigError(
            f"{option} {name}: it lacks {', '.join(missing)}; see model/task.py for what a task is"
        )
    return task  # type: ignore[no-any-return]


_METHODS = ("build_model", "open_data", "make_batch", "loss", "metrics")


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def to_device(batch: Batch, device: torch.device) -> Batch:
    """`batch` with every tensor in it on `device`."""
    return each_tensor(lambda tensor: tensor.to(device), batch)


def each_tensor(change: Callable[..., Any], batch: Batch, *others: Batch) -> Batch:
    """`batch` with `change` of every tensor in it, and of those at its place in others of the same form."""
    if isinstance(batch, Tensor):
        return change(batch, *others)
    if isinstance(batch, dict):
        return {
            key: each_tensor(change, value, *(one[key] for one in others)) for key, value in batch.items()
        }
    if isinstance(batch, tuple | list):
        made = [each_tensor(change, *values) for values in zip(batch, *others, strict=True)]
        return type(batch)(*made) if hasattr(batch, "_fields") else type(batch)(made)  # a named tuple, or not
    return batch
