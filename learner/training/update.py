"""What a trainer is given and gives back: assignments, updates, scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from learner.training.local_sgd import LocalSgd
from model.task import Examples, Task
from protos import leader_pb2
from utils.codecs.pieces import Piece
from utils.errors import FlockstepError
from utils.vector import Vector


class DivergedError(FlockstepError):
    """Training produced a loss that is not finite."""


class CancelledError(FlockstepError):
    """The work order is no longer wanted."""


@dataclass(frozen=True)
class Score:
    """One metric on held-out examples."""

    value: float
    examples: int


@dataclass(frozen=True)
class Update:
    """What one work order came to."""

    values: (
        Vector  # (total,): gradient or delta of the parameters, change of the buffers; (0,) if it was watched
    )
    examples: int  # the update's weight
    trained: int  # images that went through the model
    loss: float  # example-weighted mean over the batches
    seconds: float
    memory: Mapping[str, Vector] = field(default_factory=dict)  # what the part keeps if the update counts
    scores: Mapping[str, Score] = field(default_factory=dict)
    start_loss: float | None = None


@dataclass(frozen=True)
class Replica:
    """A part's own weights, and the momentum that they have."""

    vector: Vector  # (total,)
    velocity: Vector | None  # (P,)


@dataclass(frozen=True)
class Head:
    """The first local steps of an order, made before it came."""

    order: leader_pb2.WorkOrder
    replica: Replica  # what they started from
    vector: Tensor  # (total,): what they made of it
    sgd: LocalSgd  # as they left it
    losses: list[tuple[int, Tensor]]  # of each step: examples and mean
    seconds: float


#: Has an order's steps, on so many examples and from this model, on disk as paid; multiplier and key of their noise.
Charge = Callable[[leader_pb2.WorkOrder, int, Vector], tuple[float, bytes]]


@dataclass(frozen=True)
class Assignment:
    """A work order with everything that it needs."""

    order: leader_pb2.WorkOrder
    base: Vector  # (total,): the order's version of the model
    task: Task
    examples: Examples
    control: Vector | None = None  # (P,): the leader's control variate
    memory: Mapping[str, Vector] = field(default_factory=dict)  # of the part
    holdout: float = 0.0  # share of the examples that is not trained on
    head: Head | None = None  # the order's first steps, if they were made before it came
    watcher: Watcher | None = None  # takes the gradient while backward makes it
    charge: Charge | None = None  # where each example is private: see ExamplePrivacy


Progress = Callable[[int, int, float], None]  # steps done, steps in all, images a second


class Watcher(Protocol):
    """Is told of an update while it is made; in the training thread."""

    @property
    def pieces(self) -> Sequence[Piece]:
        """The pieces of the flat vector, parameters and then buffers."""
        ...

    def begun(self, examples: int, loss: float, scores: Mapping[str, Score]) -> None:
        """Forward is done, over so many examples with this mean loss; the scores of the order's model."""
        ...

    def piece(self, number: int, values: Vector) -> None:
        """Piece `number` is made; `values` are only good until this returns."""
        ...
