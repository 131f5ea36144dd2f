"""What follows from evaluations: the best model is kept, and a run that has trained enough ends."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping

from leader.config import EvaluationConfig, RunConfig
from leader.evaluation.best_model import BestModel
from leader.evaluation.early_stop import EarlyStop
from leader.evaluation.evaluator import EvaluationQueue
from leader.events import Evaluated, Event, FederatedEvaluated, RoundCommitted, Spread
from leader.metric_names import FEDERATED_PREFIX, TEST_PREFIX, at_learners, on_test_split
from leader.storage.metrics_log import FEDERATED, TEST, Record
from model.task import Examples
from utils.vector import Vector

_log = logging.getLogger(__name__)


class Verdict:
    """Event subscriber that looks at `evaluation.metric`; asked between rounds whether there is to be another.

    `weights` gives the vector (total,) of the last committed round. `evaluations` is None where the
    leader has no test split.
    """

    def __init__(
        self,
        config: EvaluationConfig,
        best: BestModel,
        evaluations: EvaluationQueue | None,
        weights: Callable[[], Vector],
    ) -> None:
        self._stop = EarlyStop(config.metric, config.mode, config.target, config.patience)
        self._best = best
        self._evaluations = evaluations
        self._weights = weights
        self._before: Vector | None = None  # weights that the learners' next scores are of
        self._to_keep: tuple[int, dict[str, float], Vector] | None = None
        self._warned = False

    @property
    def reason(self) -> str | None:
        """Why the run has trained enough; None while it has not."""
        return self._stop.reason

    def recall(self, records: Iterable[Record], before: Vector | None) -> None:
        """Take in the rounds of a resumed run; `before` are the weights of the last but one."""
        for record in records:
            self._stop.see(record["round"], _metrics_of(record))
        self._before = before

    def on_event(self, event: Event) -> None:
        """Take in an evaluation or a commit."""
        match event:
            case Evaluated():
                self._see(event.round, on_test_split(event.metrics), TEST_PREFIX)
            case FederatedEvaluated():
                metrics = _means(event.scores)
                self._see(event.round, metrics, FEDERATED_PREFIX)
                if self._before is not None:
                    self._to_keep = event.round, metrics, self._before
            case RoundCommitted() if self._best.metric.startswith(FEDERATED_PREFIX):
                self._before = self._weights()

    async def trained_enough(self) -> bool:
        """Whether the run is done; waits for the evaluations under way only where these could end it.

        So a run always stops after the same round. Raises CheckpointError if the best model can't
        be written.
        """
        if self._to_keep is not None:
            kept, self._to_keep = self._to_keep, None
            await asyncio.to_thread(self._best.offer, *kept)
        if self._stop.can_stop and self._evaluations is not None:
            await self._evaluations.idle()
        return self.reason is not None

    def _see(self, round_: int, metrics: Mapping[str, float], prefix: str) -> None:
        metric = self._best.metric
        if metric.startswith(prefix) and metric not in metrics and not self._warned:
            self._warned = True
            _log.warning(
                "evaluation.metric is %s, but what is measured is %s: no best model is kept, and target and "
                "patience have no effect",
                metric,
                ", ".join(metrics),
            )
        self._stop.see(round_, metrics)


def _means(scores: Mapping[str, Spread]) -> dict[str, float]:
    return {at_learners(name): spread["mean"] for name, spread in scores.items()}


def _metrics_of(record: Record) -> dict[str, float]:
    """A round's metrics by the names that `evaluation.metric` uses; null was not finite."""
    tested = {name: value for name, value in record.items() if name.startswith(TEST_PREFIX)}
    finite = {name: math.nan if value is None else value for name, value in tested.items()}
    return finite | _means(record.get("federated", {}))


def expects_evaluation(config: RunConfig, test: Examples | None, round_: int) -> bool:
    """Whether the model of this round is to be evaluated; that of the last round always is."""
    every = config.evaluation.every
    return test is not None and (round_ == config.rounds or (every > 0 and round_ % every == 0))


def awaited_evaluations(config: RunConfig, test: Examples | None, round_: int) -> Iterator[str]:
    """The evaluations of the model of this round that are to come; learners score it after its commit."""
    every = config.evaluation.federated_every
    if expects_evaluation(config, test, round_):
        yield TEST
    if every > 0 and round_ % every == 0:
        yield FEDERATED
