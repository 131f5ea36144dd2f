"""The run as metrics for Prometheus: counted from its events, written when somebody asks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from leader import events
from utils.console import printable

#: A service's name, whether it took what it was sent last, and how many rows wait for it.
Services = Callable[[], Iterable[tuple[str, bool | None, int]]]

_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
_LONGEST_LABEL = 64  # characters
_MOST_SERIES = 100  # of one metric
#: What the reasons begin with for which learners leave, by what they count as; all others said goodbye.
_CAUSES = {
    "lost": "no sign of life",
    "unreachable": "can't be dialled",
    "failed": "failed: ",
    "revoked": "revoked",
}
_GOODBYE = "goodbye"


class Metrics:
    """The view that is docs/metrics.md: at most `most_learners` learners have series of their own."""

    def __init__(self, most_learners: int, services: Services = tuple) -> None:
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._rounds = _Rounds(self._registry)
        self._learners = _Learners(self._registry, most_learners)
        self._registry.register(_Services(services))
        ProcessCollector(registry=self._registry)

    def on_event(self, event: events.Event, at: float) -> None:
        """Take in what happened at time.monotonic() = `at`."""
        self._rounds.on_event(event, at)
        self._learners.on_event(event)

    def tick(self, *, last: bool) -> None:
        """Nothing waits."""

    def routes(self) -> Sequence[Route]:
        """/metrics, in the text format or as OpenMetrics."""
        return [Route("/metrics", self._answer)]

    async def _answer(self, request: Request) -> Response:
        body, content_type = self.write(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    def write(self, accept: str = "") -> tuple[bytes, str]:
        """All metrics in the format that the header `accept` prefers, and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


class _Rounds:
    """What is known of the run and its rounds."""

    def __init__(self, registry: CollectorRegistry) -> None:
        counter, gauge, histogram = _makers(registry)
        self._registry = registry
        self._known: set[Gauge] = set()
        self._run = Info("flockstep_run", "What is trained.", registry=registry)
        self._planned = gauge("rounds_planned", "Rounds that the run is to commit.")
        self._round = gauge("round_committed", "The last committed round.")
        self._commits = counter("rounds_committed", "Rounds committed by this process.")
        self._abandoned = counter("rounds_abandoned", "Rounds that closed without a quorum.")
        self._examples = counter("examples", "Training examples in committed rounds.")
        self._bytes = counter("payload_bytes", "Payload bytes of committed rounds.", ["direction"])
        self._seconds = histogram("round_duration_seconds", "From a round's work orders to its last step.")
        self._scores = _Labelled(gauge("evaluation_score", "Newest score of the global model.", ["metric"]))
        unseen = partial(gauge, registry=None)  # until there is a value
        self._committed_at = unseen("last_commit_timestamp_seconds", "Unix time of the last commit.")
        self._loss = unseen("training_loss", "Mean training loss of the last committed round.")
        self._lr = unseen("learning_rate", "Learning rate at the end of the last committed round.")
        self._epsilon = unseen("privacy_epsilon", "Epsilon spent by the learner that was in most rounds.")

    def on_event(self, event: events.Event, at: float) -> None:
        """Take in what concerns the rounds."""
        match event:
            case events.RunStarted():
                told = ("run_id", "model", "dataset", "exchange")
                self._run.info({name: _label(getattr(event, name)) for name in told})
                self._planned.set(event.rounds)
                self._round.set(event.resumed_round)
            case events.RoundCommitted():
                self._committed(event, time.time() - (time.monotonic() - at))
            case events.RoundAbandoned():
                self._abandoned.inc()
            case events.Evaluated():
                for name, value in event.metrics.items():
                    self._scores.of(f"test_{name}").set(value)
            case events.FederatedEvaluated():
                for name, spread in event.scores.items():
                    self._scores.of(f"federated.{name}").set(spread["mean"])

    def _committed(self, event: events.RoundCommitted, at: float) -> None:
        self._round.set(event.round)
        self._commits.inc()
        self._examples.inc(event.examples)
        self._bytes.labels("up").inc(event.bytes_up)
        self._bytes.labels("down").inc(event.bytes_down)
        self._seconds.observe(event.seconds)
        self._set(self._committed_at, at)
        self._set(self._loss, event.loss)
        self._set(self._lr, event.lr)
        self._set(self._epsilon, event.epsilon)

    def _set(self, gauge: Gauge, value: float | None) -> None:
        if value is None:
            return
        if gauge not in self._known:
            self._known.add(gauge)
            self._registry.register(gauge)
        gauge.set(value)


class _Learners:
    """What is known of the learners and of calls."""

    def __init__(self, registry: CollectorRegistry, most: int) -> None:
        counter, gauge, histogram = _makers(registry)
        self._most = most
        self._here: dict[int, str] = {}  # names by id
        self._wanted = 0  # how many must be here; told once, when the wait for them begins
        self._followed: dict[int, Gauge] = {}  # series of their own, by id
        self._connected = gauge("learners_connected", "Registered learners.")
        self._missing = gauge("learners_missing", "Learners that the run waits for.")
        self._edges = gauge("edges_connected", "Edges that take updates.")
        self._lost = counter(
            "updates_lost", "Updates that were counted and gone with an edge; they come again."
        )
        self._left = counter("learners_left", "Learners that left.", ["cause"])
        self._accepted = counter("updates_accepted", "Updates that are in a sum.")
        self._refused = _Labelled(counter("calls_refused", "Refused calls.", ["method", "error"]))
        self._wait = histogram("update_wait_seconds", "From a work order to its update in the sum.")
        self._seconds = gauge("learner_update_seconds", "The last such wait for a learner.", ["learner"])
        for cause in (*_CAUSES, _GOODBYE):
            self._left.labels(cause)  # so that the first one is an increase

    def on_event(self, event: events.Event) -> None:
        """Take in what concerns the learners."""
        match event:
            case events.UpdateAccepted():
                self._updated(event)
            case events.WaitingForLearners():
                self._wanted = event.need - event.have + len(self._here)
                self._count()
            case events.RoundStarted():
                self._wanted = 0
                self._count()
            case events.LearnerJoined():
                self._here[event.learner_id] = event.name
                self._count()
            case events.LearnerLeft():
                self._gone(event)
            case events.EdgeServes() | events.EdgeLeft():
                self._edges.set(event.serving)
            case events.UpdatesLost():
                self._lost.inc(len(event.parts))
            case events.CallRefused():
                self._refused.of(event.method, event.kind).inc(1 + event.suppressed)

    def _count(self) -> None:
        self._connected.set(len(self._here))
        self._missing.set(max(0, self._wanted - len(self._here)))

    def _updated(self, event: events.UpdateAccepted) -> None:
        self._accepted.inc()
        self._wait.observe(event.seconds)
        series = self._followed.get(event.learner_id)
        if series is None and len(self._followed) < self._most and event.learner_id in self._here:
            series = self._seconds.labels(_label(self._here[event.learner_id]))
            self._followed[event.learner_id] = series
        if series is not None:
            series.set(event.seconds)

    def _gone(self, event: events.LearnerLeft) -> None:
        self._here.pop(event.learner_id, None)
        self._count()
        cause = next((c for c, start in _CAUSES.items() if event.reason.startswith(start)), _GOODBYE)
        self._left.labels(cause).inc()
        if self._followed.pop(event.learner_id, None) is not None:
            self._seconds.remove(_label(event.name))


class _Labelled:
    """The series of a metric by labels that may be anything; after the first 100, all others are "other"."""

    def __init__(self, metric: Counter | Gauge) -> None:
        self._metric = metric
        self._series: dict[tuple[str, ...], Any] = {}

    def of(self, *labels: str) -> Any:
        """The series of these labels."""
        if len(self._series) >= _MOST_SERIES and labels not in self._series:
            labels = ("other",) * len(labels)
        if labels not in self._series:
            self._series[labels] = self._metric.labels(*map(_label, labels))
        return self._series[labels]


class _Services(Collector):
    """The services as they are when asked for."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def collect(self) -> Iterator[Metric]:
        """Both families."""
        family = partial(GaugeMetricFamily, labels=["service"])
        up = family(
            "flockstep_service_up", "Whether the service took what it was sent last; no sample before that."
        )
        waiting = family("flockstep_service_rows_waiting", "Rows that the service does not have yet.")
        for name, is_up, rows in self._services():
            if is_up is not None:
                up.add_metric([name], is_up)
            waiting.add_metric([name], rows)
        yield from (up, waiting)


def _label(text: str) -> str:
    """What stands for `text`, of whomever it is, as the value of a label."""
    return printable(text[:_LONGEST_LABEL])[:_LONGEST_LABEL]


def _makers(registry: CollectorRegistry) -> tuple[partial[Counter], partial[Gauge], partial[Histogram]]:
    """What makes counters, gauges and histograms of seconds with our prefix."""
    return (
        partial(Counter, namespace="flockstep", registry=registry),
        partial(Gauge, namespace="flockstep", registry=registry),
        partial(Histogram, namespace="flockstep", registry=registry, buckets=_BUCKETS_S),
    )
