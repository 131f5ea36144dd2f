"""What a server optimizer is: two functions over flat float32 vectors and an immutable state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from utils.vector import Vector

State = Mapping[str, Vector]  # named vectors of the parameters' size: what a checkpoint keeps


@dataclass(frozen=True)
class Step:
    """What a server step may know of the exchange that it closes."""

    lr: float  # the schedule's, for optimizers that have none of their own
    local_lr: float = 0.0  # how far an update's local steps carry a constant gradient of one
    participation: float = 1.0  # share (0..1) of all parts' examples that the mean is taken over


class ServerOptimizer(Protocol):
    """Turns the mean of one exchange's updates into new parameters."""

    def init(self, size: int) -> State:
        """State before the first step, for `size` parameters."""
        ...

    def apply(self, state: State, parameters: Vector, mean: Vector, step: Step) -> tuple[State, Vector]:
        """New state and new parameters; the arguments are left as they were."""
        ...
