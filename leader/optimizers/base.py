"""What a server optimizer is: two functions over flat float32 vectors and an immutable state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
State = Mapping[str, Vector]  # named vectors of the parameters' size: what a checkpoint keeps


class ServerOptimizer(Protocol):
    """Turns the mean of one exchange's updates into new parameters."""

    def init(self, size: int) -> State:
        """State before the first step, for `size` parameters."""
        ...

    def apply(self, state: State, parameters: Vector, mean: Vector, lr: float) -> tuple[State, Vector]:
        """New state and new parameters; the arguments are left as they were."""
        ...
