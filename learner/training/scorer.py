"""Scores at the learner, on the examples that it holds out."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

from learner.training.local_run import LocalRun
from learner.training.update import Score
from model.scoring import Measure, score
from model.task import Indices
from utils.vector import Vector

_log = logging.getLogger(__name__)
_BATCH = 500  # examples


def scores(run: LocalRun, others: Mapping[str, Vector]) -> dict[str, Score]:
    """Of the model that the run holds, then of `others`, (total,), by what their scores' names begin with.

    Empty if the order asks for none, or nothing is held out. The run holds its model again afterwards.
    """
    if not run.order.evaluate or not len(run.held):
        return {}
    found = _means(run, run.task.metrics, run.held)
    if others:
        kept = run.model.snapshot()
        for prefix, vector in others.items():
            run.model.load(vector)
            found |= {
                f"{prefix}{name}": value for name, value in _means(run, run.task.metrics, run.held).items()
            }
        run.model.load(kept)
    undefined = sorted(name for name, value in found.items() if not math.isfinite(value))
    if undefined:
        _log.warning(
            "round %d: %s left out, the held-out examples give no finite value",
            run.order.round,
            ", ".join(undefined),
        )
    return {name: Score(value, len(run.held)) for name, value in found.items() if name not in undefined}


def start_loss(run: LocalRun) -> float | None:
    """Mean loss of the order's model on what is trained on, if the order asks for it."""
    if not run.order.start_loss:
        return None
    loss = run.task.loss
    return _means(run, lambda module, batch: {"loss": float(loss(module, batch))}, run.train_indices)["loss"]


def _means(run: LocalRun, measure: Measure, indices: Indices) -> dict[str, float]:
    module = run.model.module
    return score(
        module, run.task, measure, run.data, indices, batch_size=_BATCH, device=run.device, dtype=run.dtype
    )
