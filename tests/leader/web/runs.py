"""Runs that were never made, as events: what pages are tested with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

from leader import events

Publish = Callable[[events.Event], None]


def started(rounds: int = 10, resumed_round: int = 0) -> events.RunStarted:
    """A run that waits for learners."""
    return events.RunStarted(
        run_id="run-1",
        run_dir=Path("runs/1"),
        dataset="CIFAR-10",
        model="resnet9-w8",
        parameters=103_954,
        exchange="delta",
        rounds=rounds,
        address="127.0.0.1:50051",
        learners=2,
        resumed_round=resumed_round,
    )


def joined(number: int, name: str) -> events.LearnerJoined:
    """A learner that comes."""
    return events.LearnerJoined(number, name, "cpu (1 thread)", "session", None)


def accepted(number: int, round_: int, loss: float = 1.0) -> events.UpdateAccepted:
    """Its update of a round."""
    return events.UpdateAccepted(number, round_, 0, 10, loss, 100.0, 1000)


def committed(round_: int, loss: float = 0.5, **more: float) -> Iterator[events.Event]:
    """The end of a round and its score."""
    yield events.StepApplied(round_, 0, 1, loss, 1000, 2000)
    yield events.RoundCommitted(round_, loss, 1.5, 1000, 2000, 2, 20, 0.1, **more)
    yield events.Evaluated(round_, {"accuracy": round_ / (round_ + 10), "loss": math.nan}, 0.1)
