"""One step of the server: an exchange's aggregate becomes new weights."""

from __future__ import annotations

from dataclasses import replace

from leader.aggregation.base import Aggregator, Result
from leader.optimizers.base import ServerOptimizer, Step
from leader.state import RunState
from leader.versions import next_version
from model.flat import Layout
from utils import faults


class Stepper:
    """Applies aggregates with one server optimizer."""

    def __init__(self, layout: Layout, optimizer: ServerOptimizer) -> None:
        self._layout = layout
        self._optimizer = optimizer

    def apply(
        self, state: RunState, aggregate: Aggregator, step: Step, everybody: int
    ) -> tuple[RunState, Result]:
        """New weights and result; `everybody` is the number of examples of all parts that there are."""
        result = aggregate.finish()
        # Parts whose updates are in may have gone since.
        step = replace(step, participation=result.examples / max(result.examples, everybody))
        faults.reach("leader.stepping", state.round + 1)
        split = self._layout.parameter_count
        optimizer, parameters = self._optimizer.apply(
            state.optimizer, state.vector[:split], result.mean[:split], step
        )
        vector = result.mean
        vector[split:] += state.vector[split:]
        vector[:split] = parameters
        after = replace(
            state,
            vector=vector,
            optimizer=optimizer,
            version=next_version(state.version, result.digest),
            exchanges=state.exchanges + 1,
        )
        return after, result
