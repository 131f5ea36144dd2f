"""One step of the server: an exchange's aggregate becomes new weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from leader.aggregation.base import Aggregator, Result
from leader.global_model.versions import next_version
from leader.optimizers.base import ServerOptimizer, Step
from leader.state import RunState
from model.flat import Layout
from model.fragments import Fragments
from utils import faults


class Stepper:
    """Applies aggregates with one server optimizer."""

    def __init__(self, layout: Layout, optimizer: ServerOptimizer, fragments: int = 0) -> None:
        self._fragments = Fragments(layout, fragments)
        self._optimizer = optimizer

    def apply(
        self, state: RunState, aggregate: Aggregator, step: Step, everybody: int
    ) -> tuple[RunState, Result]:
        """New weights and result; `everybody` is the number of examples of all parts that there are."""
        result = aggregate.finish()
        # Parts whose updates are in may have gone since.
        step = replace(step, participation=result.examples / max(result.examples, everybody))
        faults.reach("leader.stepping", state.round + 1)
        # Optimizers are element-wise: what the round does not exchange stays as it is, with its state.
        shared = self._fragments.of(state.round + 1)
        had, mean, split = (
            shared.gathered(state.vector),
            shared.gathered(result.mean),
            shared.shared_parameter_count,
        )
        kept = {name: shared.gathered(vector) for name, vector in state.optimizer.items()}
        optimizer, parameters = self._optimizer.apply(kept, had[:split], mean[:split], step)
        vector = shared.merged(state.vector, np.concatenate([parameters, had[split:] + mean[split:]]))
        optimizer = {name: shared.merged(state.optimizer[name], new) for name, new in optimizer.items()}
        after = replace(
            state,
            vector=vector,
            optimizer=optimizer,
            version=next_version(state.version, result.digest),
            exchanges=state.exchanges + 1,
        )
        return after, result
