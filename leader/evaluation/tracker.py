"""Following a run's evaluations: what is due, what is written down, which model is best, and when to stop."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping

from leader.config import EvaluationConfig, RunConfig
from leader.evaluation.best_model import Best, BestModel
from leader.evaluation.early_stop import EarlyStop
from leader.evaluation.evaluator import EvaluationQueue, Evaluator
from leader.events import Evaluated, Event, EventStream, FederatedEvaluated, RoundCommitted, Spread
from leader.global_model.initial import Origin, model_title
from leader.metric_names import FEDERATED_PREFIX, TEST_PREFIX, at_learners, on_test_split
from leader.state import RunState
from leader.storage.checkpoint import state_of_round
from leader.storage.metrics_log import FEDERATED, TEST, MetricsLog, Record
from leader.storage.run_folder import RunFolder
from model.task import Examples
from utils.vector import Vector

_log = logging.getLogger(__name__)


class Tracker:
    """Has committed models evaluated, keeps metrics.jsonl and the best model, and says when to stop.

    `test` is what the leader tests on, None or empty where it does not. `weights` gives the vector
    (total,) of the last committed round. With the `state` of a resumed run, the rounds before it count too.
    """

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        origin: Origin,
        test: Examples | None,
        state: RunState,
        events: EventStream,
        weights: Callable[[], Vector],
    ) -> None:
        self._config = config.evaluation
        self._rounds = config.rounds
        self._weights = weights
        self._best = BestModel(
            folder.best, origin.layout, model_title(config), self._config.metric, self._config.mode
        )
        evaluator: Evaluator | None = None
        if test is not None and len(test) and origin.model and origin.task:
            evaluator = Evaluator(origin.model, origin.task, test, config)
        self._can_test = evaluator is not None
        self.evaluations = EvaluationQueue(evaluator, events, self._keep)
        self._metrics = MetricsLog(folder, state.round, awaited=self._awaited)
        self.verdict = Verdict(self._config, self._best, self.evaluations, weights)
        for subscriber in (self._metrics.on_event, self.verdict.on_event, self._on_event):
            events.subscribe(subscriber)
        self._recall(folder, state)

    @property
    def best(self) -> Best | None:
        """What best.safetensors holds."""
        return self._best.best

    @property
    def records(self) -> list[Record]:
        """The metrics of all committed rounds, in round order."""
        return self._metrics.records

    @property
    def scored(self) -> bool:
        """Whether learners' scores of the newest round's model are known."""
        return bool(self.records) and FEDERATED in self.records[-1]

    def offer(self, round_: int) -> None:
        """The model of `round_` is the newest: have it evaluated if it is due."""
        if self._is_tested(round_):
            self.evaluations.offer(round_, self._weights())

    async def close(self) -> None:
        """Wait for the evaluations under way, and write all that is known of the rounds."""
        await self.evaluations.finish()
        self._metrics.close()

    def _is_tested(self, round_: int) -> bool:
        """Whether the leader tests the model of this round; if it has a test split, it always does that of the last."""
        every = self._config.every
        return self._can_test and (round_ == self._rounds or (every > 0 and round_ % every == 0))

    def _awaited(self, round_: int) -> Iterator[str]:
        """The evaluations of the model of this round that are to come; learners score it after its commit."""
        every = self._config.federated_every
        if self._is_tested(round_):
            yield TEST
        if every > 0 and round_ % every == 0:
            yield FEDERATED

    def _keep(self, round_: int, metrics: Mapping[str, float], vector: Vector) -> None:
        self._best.offer(round_, on_test_split(metrics), vector)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, RoundCommitted):
            self.offer(event.round)

    def _recall(self, folder: RunFolder, state: RunState) -> None:
        """Take in what the run did before it was resumed.

        A crash right after the checkpoint may have lost what that round was to tell.
        """
        untold: list[Event] = []
        if state.federated:
            untold.append(FederatedEvaluated(state.round - 1, state.federated))
        if state.committed is not None:
            untold.append(state.committed)
        for event in untold:
            self._metrics.on_event(event)
        by_learners = self._config.metric.startswith(FEDERATED_PREFIX)
        before = state_of_round(folder.checkpoints, state.round - 1) if by_learners else None
        self.verdict.recall(self._metrics.records, None if before is None else before.vector)
        for event in untold:
            self.verdict.on_event(event)


class Verdict:
    """Event subscriber that looks at `evaluation.metric`; asked between rounds whether there is to be another.

    `weights` gives the vector (total,) of the last committed round.
    """

    def __init__(
        self,
        config: EvaluationConfig,
        best: BestModel,
        evaluations: EvaluationQueue,
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
            self._stop.see(record["round"], metrics_of(record))
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
        if self._stop.can_stop or self._evaluations.failed:
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


def metrics_of(record: Record) -> dict[str, float]:
    """A round's metrics by the names that `evaluation.metric` uses; null was not finite."""
    tested = {name: value for name, value in record.items() if name.startswith(TEST_PREFIX)}
    finite = {name: math.nan if value is None else value for name, value in tested.items()}
    return finite | _means(record.get("federated", {}))
