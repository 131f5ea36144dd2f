"""What happens in a run, as typed events; log, terminal and run folder subscribe to them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from utils.console import printable

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Event:
    """Base of all run events. Their texts, of whoever they come, are lines that no terminal acts on."""

    def __post_init__(self) -> None:
        """Make the texts safe."""
        for name, value in vars(self).items():
            if isinstance(value, str):
                object.__setattr__(self, name, printable(value))


@dataclass(frozen=True)
class RunStarted(Event):
    """The leader is listening; `resumed_round` is the last committed round of a resumed run."""

    run_id: str
    run_dir: Path
    dataset: str  # named for what it is, such as "CIFAR-10" or "synthetic shapes (drawn, not photos)"
    model: str
    parameters: int
    exchange: str
    rounds: int
    address: str  # HOST:PORT that learners dial
    learners: int  # how many the run waits for
    resumed_round: int = 0
    own_data: bool = False  # learners must bring their own
    proof: str = (
        ""  # flags with which a learner proves who it is, secrets left out; "" in a run without trust
    )


@dataclass(frozen=True)
class WaitingForLearners(Event):
    """Too few learners are registered to start a round."""

    have: int
    need: int


@dataclass(frozen=True)
class LearnerJoined(Event):
    """A learner registered (or came back)."""

    learner_id: int
    name: str
    device: str  # such as "cpu (1 thread)" or "cuda:0 NVIDIA H100"
    control: str  # "session", "dialled" or "plain"
    own_examples: int | None  # number of its own training examples, None if the leader holds data


@dataclass(frozen=True)
class LearnerLeft(Event):
    """A learner is gone: closed its session, or its lease ran out."""

    learner_id: int
    name: str
    reason: str


@dataclass(frozen=True)
class EdgeServes(Event):
    """An edge is here, which takes updates in the leader's place, or edges below it have changed."""

    name: str
    addresses: tuple[str, ...]  # HOST:PORT of it and of those below it, for learners
    serving: int  # edges that serve now: several may have one name


@dataclass(frozen=True)
class EdgeLeft(Event):
    """An edge is gone, with what it has added since its last sum."""

    name: str
    serving: int  # edges that serve now


@dataclass(frozen=True)
class UpdatesLost(Event):
    """Updates that were counted are gone with an edge; their learners, who have them yet, are asked again."""

    parts: tuple[str, ...]


@dataclass(frozen=True)
class LearnersCounted(Event):
    """More learners came and went than are told one by one; never published, as each was."""

    joined: int
    left: int
    seconds: float


@dataclass(frozen=True)
class LearnerOverdue(Event):
    """A learner's work is too old, or past the deadline; others are given work before it for a while."""

    learner_id: int
    name: str
    waited_s: float  # since it was given work
    behind_s: float  # seconds for which the others come first
    moved: Mapping[str, str]  # who holds its parts now, by part; "" = nobody does


@dataclass(frozen=True)
class RoundStarted(Event):
    """A round's work orders are going out."""

    round: int
    steps: int  # exchanges in this round: 1 for deltas, the synchronous steps for gradients
    learners: int


@dataclass(frozen=True)
class LearnerProgress(Event):
    """A learner reports where it is in its current work order."""

    learner_id: int
    round: int
    done: int  # local optimizer steps done in this order
    total: int
    images_per_s: float


@dataclass(frozen=True)
class UpdateAccepted(Event):
    """One update is in the sum."""

    learner_id: int
    round: int
    step: int
    examples: int
    loss: float
    images_per_s: float
    bytes: int
    part: str = ""  # whose share of the work it is
    seconds: float = 0.0  # since that was given out


@dataclass(frozen=True)
class CallRefused(Event):
    """A call from outside was refused; it left round, sum and memory as they were."""

    learner_id: int | None  # None where the caller is not registered
    reason: str
    method: str = ""  # RPC, such as "AccumulateGradients"
    kind: str = ""  # class of the error, such as "PayloadError"
    suppressed: int = 0  # refusals of this method and kind since the last one that was told


@dataclass(frozen=True)
class StepApplied(Event):
    """All updates of one exchange are aggregated and the optimizer step is done."""

    round: int
    step: int  # 0-based within the round
    steps: int
    loss: float
    bytes_up: int  # cumulative over the run
    bytes_down: int
    parts: frozenset[str] | None = None  # whose updates are in the sum: not all that were accepted may be


@dataclass(frozen=True)
class RoundAbandoned(Event):
    """The round closed without quorum; it is tried again."""

    round: int
    reason: str


@dataclass(frozen=True)
class RoundCommitted(Event):
    """The round's checkpoint is on disk."""

    round: int
    loss: float  # example-weighted mean training loss of the round
    seconds: float  # from work orders out to the last step, its checkpoint not counted
    bytes_up: int  # payload bytes on the wire in this round, learners to leader
    bytes_down: int  # model and data bytes on the wire in this round
    learners: int  # learners whose updates are in the aggregate
    examples: int
    lr: float  # learning rate at the end of the round
    epsilon: float | None = (
        None  # spent by the learner that was in most rounds; None in a run without dp.mode
    )
    budget: float | None = None  # that each may spend


@dataclass(frozen=True)
class Evaluated(Event):
    """The global model of `round` was evaluated on the test split."""

    round: int
    metrics: Mapping[str, float]  # means over the test examples by name, such as accuracy (0..1) and loss
    seconds: float


@dataclass(frozen=True)
class EvaluationSkipped(Event):
    """The model of `round` was not evaluated because a newer one was ready."""

    round: int


@dataclass(frozen=True)
class FederatedEvaluated(Event):
    """Learners scored the global model of `round` (0: the initial weights) on their held-out examples.

    Told before the commit of the round after it, in which they sent the scores.
    """

    round: int
    scores: Mapping[str, Spread]


@dataclass(frozen=True)
class RunFinished(Event):
    """The run is done: all its rounds are committed, or enough of them; or it was stopped for `reason`."""

    round: int  # last committed round
    seconds: float  # training time in this process, first work order to last commit
    reason: str = ""  # empty where the run is done
    stopped_early: str = ""  # why it was done before its last round


Subscriber = Callable[[Event], None]


class EventStream:
    """Hands each event to every subscriber, in order; a failing subscriber never stops training."""

    def __init__(self) -> None:
        self._subscribers: list[Subscriber] = []

    def subscribe(self, subscriber: Subscriber) -> None:
        """Add a subscriber; it is called on the event loop and must not block."""
        self._subscribers.append(subscriber)

    def publish(self, event: Event) -> None:
        """Tell all subscribers about `event`."""
        for subscriber in self._subscribers:
            try:
                subscriber(event)
            except Exception:
                _log.exception("subscriber failed on %s", type(event).__name__)


class Mean(TypedDict):
    """One metric over the learners. A part of the data counts as one learner, whoever holds it."""

    mean: float  # weighted by held-out examples
    learners: int
    examples: int  # held-out examples of all of them


class Spread(Mean, total=False):
    """And how it differs between them, where the leader knows each one's."""

    unweighted_mean: float
    variance: float  # over the learners, each counting once; divided by their number
    std: float
    worst_decile: float  # mean over the worst tenth of the learners, at least one; of a loss the highest
    min: float
    max: float


Spreads = Mapping[str, Spread]  # by name of the metric
