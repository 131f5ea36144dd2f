"""Where a run stands, folded from its events; what the terminal draws, without drawing."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from leader import events
from leader.metric_names import headline, is_better, lower_is_better

_RATE_WINDOW_S = 5.0
_RECENT_ROUNDS = 20  # the time left goes by the mean of so many rounds


@dataclass
class LearnerView:
    """What is known of one learner."""

    learner_id: int
    name: str
    device: str
    state: str = "ready"  # ready, training, sent, refused, left
    images_per_s: float | None = None
    loss: float | None = None
    done: int = 0
    total: int = 0  # 0 while it has no work order


@dataclass(frozen=True)
class Score:
    """The metric that there is room for, of one round's model."""

    round: int
    metric: str  # such as "accuracy"
    value: float


@dataclass
class RoundView:
    """One committed round."""

    commit: events.RoundCommitted
    test: Score | None = None
    federated: events.Spread | None = None  # of the learners' metric that there is room for


class RunProgress:
    """The newest state of everything that a display shows."""

    def __init__(self, rounds: int, clock: Callable[[], float] = time.monotonic, history: int = 12) -> None:
        self.rounds = rounds
        self.started: events.RunStarted | None = None
        self.finished: events.RunFinished | None = None
        self.waiting: events.WaitingForLearners | None = None
        self.learners: dict[int, LearnerView] = {}
        self._left: dict[str, LearnerView] = {}  # by name
        self.history: deque[RoundView] = deque(maxlen=history)
        self.committed = 0  # last committed round
        self.round = 0  # the round that is open, or was last
        self.step = 0  # exchanges done in it
        self.steps = 1
        self.loss: float | None = None
        self.newest: Score | None = None
        self.best: Score | None = None
        self.federated: tuple[str, events.Spread] | None = None  # metric and spread, newest
        self.rate: tuple[float, float] | None = None  # bytes a second up and down
        self._clock = clock
        self._round_began: float | None = None  # None between rounds
        self._round_seconds: deque[float] = deque(maxlen=_RECENT_ROUNDS)
        self._samples: deque[tuple[float, int, int]] = deque()  # time, cumulative bytes up and down

    @property
    def round_fraction(self) -> float:
        """How much of the open round is done, 0..1: by exchanges, or by its learners' own steps."""
        if self._round_began is None:
            return 0.0
        if self.steps > 1:
            return min(1.0, self.step / self.steps)
        at_work = [view for view in self.learners.values() if view.total and view.state != "left"]
        return sum(view.done / view.total for view in at_work) / len(at_work) if at_work else 0.0

    @property
    def fraction(self) -> float:
        """How much of the run is done, 0..1."""
        return min(1.0, (self.committed + self.round_fraction) / self.rounds)

    @property
    def seconds_left(self) -> float | None:
        """An estimate from the newest rounds, or from the open one before the first commit."""
        elapsed = 0.0 if self._round_began is None else self._clock() - self._round_began
        if self._round_seconds:
            mean = sum(self._round_seconds) / len(self._round_seconds)
        elif self.round_fraction >= 0.02:
            mean = elapsed / self.round_fraction
        else:
            return None
        return max(0.0, mean * (self.rounds - self.committed) - min(elapsed, mean))

    def apply(self, event: events.Event) -> None:
        """Take in one event."""
        match event:
            case events.RunStarted():
                self.started, self.committed = event, event.resumed_round
            case events.RunFinished():
                self.finished = event
            case events.WaitingForLearners():
                self.waiting = event
            case events.Evaluated():
                self._evaluated(event)
            case events.FederatedEvaluated():
                self._scored(event)
            case (
                events.RoundStarted()
                | events.StepApplied()
                | events.RoundCommitted()
                | events.RoundAbandoned()
            ):
                self._apply_round(event)
            case _:
                self._apply_learner(event)

    def _apply_round(
        self, event: events.RoundStarted | events.StepApplied | events.RoundCommitted | events.RoundAbandoned
    ) -> None:
        match event:
            case events.RoundStarted():
                self.waiting, self._round_began = None, self._clock()
                self.round, self.step, self.steps = event.round, 0, event.steps
                self.learners = {key: view for key, view in self.learners.items() if view.state != "left"}
                self._left.clear()
                for view in self.learners.values():
                    view.state, view.done, view.total = "ready", 0, 0
            case events.StepApplied():
                self.step, self.steps, self.loss = event.step + 1, event.steps, event.loss
                self._sample(event)
            case events.RoundCommitted():
                self._committed(event)
            case events.RoundAbandoned():
                self._round_began = None

    def _apply_learner(self, event: events.Event) -> None:
        if isinstance(event, events.LearnerJoined):
            self._joined(event)
            return
        view = self.learners.get(getattr(event, "learner_id", None))  # type: ignore[arg-type]
        if view is None:
            return
        match event:
            case events.LearnerLeft():
                view.state = "left"
                self._left[view.name] = view
            case events.LearnerProgress(round=self.round) if view.state != "sent":
                view.state = "training"
                view.done, view.total = min(event.done, event.total), event.total
                view.images_per_s = event.images_per_s
            case events.UpdateAccepted():
                view.loss, view.images_per_s = event.loss, event.images_per_s
                if self.steps > 1:
                    view.done, view.total = event.step + 1, self.steps
                else:
                    view.done = view.total = view.total or 1
                view.state = "sent" if view.done >= view.total else "training"
            case events.CallRefused():
                view.state = "refused"

    def _joined(self, event: events.LearnerJoined) -> None:
        if (gone := self._left.pop(event.name, None)) is not None and gone.state == "left":
            del self.learners[gone.learner_id]
        self.learners[event.learner_id] = LearnerView(event.learner_id, event.name, event.device)

    def _committed(self, event: events.RoundCommitted) -> None:
        self.committed, self.loss, self._round_began = event.round, event.loss, None
        self._round_seconds.append(event.seconds)
        self.history.append(RoundView(event))
        if self.steps == 1 and event.seconds > 0:
            self.rate = event.bytes_up / event.seconds, event.bytes_down / event.seconds
        for view in self.learners.values():
            if view.state != "left":
                view.state = "ready"

    def _evaluated(self, event: events.Evaluated) -> None:
        if (metric := headline(event.metrics)) is None:
            return
        self.newest = Score(event.round, metric, event.metrics[metric])
        best = self.best.value if self.best else None
        if is_better(self.newest.value, best, lower=lower_is_better(metric)):
            self.best = self.newest
        if row := self._row(event.round):
            row.test = self.newest

    def _scored(self, event: events.FederatedEvaluated) -> None:
        if (metric := headline(event.scores)) is None:
            return
        self.federated = (metric, event.scores[metric])
        if row := self._row(event.round):
            row.federated = event.scores[metric]

    def _row(self, round_: int) -> RoundView | None:
        return next((row for row in self.history if row.commit.round == round_), None)

    def _sample(self, event: events.StepApplied) -> None:
        now = self._clock()
        self._samples.append((now, event.bytes_up, event.bytes_down))
        while len(self._samples) > 2 and self._samples[1][0] <= now - _RATE_WINDOW_S:
            self._samples.popleft()
        began, up, down = self._samples[0]
        if self.steps > 1 and now > began:
            self.rate = (event.bytes_up - up) / (now - began), (event.bytes_down - down) / (now - began)
