"""Federated averaging, for runs that exchange weight deltas."""

from __future__ import annotations

from dataclasses import dataclass

from leader.optimizers.base import State, Vector


@dataclass(frozen=True)
class FedAvg:
    """FedAvg (McMahan et al. 2017, algorithm 1): w = w + mean of the example-weighted deltas.

    The learning rate is the learners' own; the server adds the mean as it is.
    """

    def init(self, size: int) -> State:
        """FedAvg keeps no state."""
        return {}

    def apply(self, state: State, parameters: Vector, mean: Vector, lr: float) -> tuple[State, Vector]:
        """New parameters (P,); `lr` is not used."""
        return state, parameters + mean
