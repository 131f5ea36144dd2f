"""What an algorithm may change in a learner's local training; each hook does nothing by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from learner.training.local_run import LocalRun
from learner.training.local_sgd import Correction
from learner.training.update import Head
from utils.vector import Vector


class Algorithm:
    """Plain local SGD on one order. The hooks are called in the order in which they stand here.

    Several algorithms may change the same run, one after the other.
    """

    def __init__(self, run: LocalRun) -> None:
        self.run = run

    def sizes(self) -> Mapping[str, int]:
        """What it keeps of a part from round to round, by name, and how many values that has."""
        return {}

    def ahead(self) -> Head | None:
        """The order's first steps, made before the order has come; None if they need its model."""
        return None

    def start(self, model: Vector) -> Vector:
        """What training begins from, (total,), in place of `model`."""
        return model

    def scored(self) -> Mapping[str, Vector]:
        """Further models, (total,), that are scored as the order's is, by what their scores' names begin with."""
        return {}

    def corrections(self) -> Sequence[Correction]:
        """What it adds to the gradient of each local step."""
        return ()

    def train(self) -> tuple[int, float] | None:
        """Train in place of plain local SGD: (examples trained, mean loss); None: leave it as it is."""
        return None

    def remember(self, change: Vector) -> Mapping[str, Vector]:
        """What the part keeps if the update counts; `change`, (total,), is what training has made of the model."""
        return {}

    def send(self, values: Vector) -> None:
        """Change in place what travels, (total,)."""
