from __future__ import annotations

from pathlib import Path

import pytest

from leader import events
from leader.evaluation.federated import FederatedScores
from leader.reporting.progress import RunProgress, Score
from protos import leader_pb2


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def begin(clock: Clock, resumed_round: int = 0) -> RunProgress:
    progress = RunProgress(10, clock)
    progress.apply(events.RunStarted("r", Path("r"), "d", "m", 1, "delta", 10, "h:1", 2, resumed_round))
    for number in (0, 1):
        progress.apply(events.LearnerJoined(number, f"n{number}", "cpu", "session", None))
    return progress


def committed(number: int, seconds: float = 10.0) -> events.RoundCommitted:
    return events.RoundCommitted(number, 1.5, seconds, 1000, 3000, 2, 640, 0.1)


def test_a_delta_round_goes_by_the_steps_of_its_learners(clock: Clock) -> None:
    progress = begin(clock)
    progress.apply(events.RoundStarted(1, 1, 2))
    progress.apply(events.LearnerProgress(0, 1, 30, 40, 900.0))
    progress.apply(events.LearnerProgress(1, 1, 10, 40, 300.0))
    assert progress.round_fraction == 0.5
    assert progress.fraction == 0.05
    clock.now += 20
    assert progress.seconds_left == pytest.approx(40 * 10 - 20)


def test_a_learner_that_claims_more_steps_than_it_has_counts_as_done(clock: Clock) -> None:
    progress = begin(clock)
    progress.apply(events.RoundStarted(1, 1, 2))
    progress.apply(events.LearnerProgress(0, 1, 2**32 - 1, 1, 900.0))
    assert progress.round_fraction == 1.0


def test_a_gradient_round_goes_by_its_exchanges(clock: Clock) -> None:
    progress = begin(clock)
    progress.apply(events.RoundStarted(1, 4, 2))
    progress.apply(events.UpdateAccepted(0, 1, 2, 128, 0.7, 500.0, 100))
    progress.apply(events.StepApplied(1, 2, 4, 0.8, 10, 20))
    assert progress.round_fraction == 0.75
    view = progress.learners[0]
    assert (view.state, view.done, view.total, view.loss, view.images_per_s) == ("training", 3, 4, 0.7, 500.0)
    progress.apply(events.UpdateAccepted(0, 1, 3, 128, 0.7, 500.0, 100))
    assert progress.learners[0].state == "sent"


def test_time_left_follows_the_newest_rounds_and_counts_down_within_one(clock: Clock) -> None:
    progress = begin(clock, resumed_round=2)
    assert progress.fraction == 0.2
    assert progress.seconds_left is None
    progress.apply(events.RoundStarted(3, 1, 2))
    progress.apply(committed(3, 10.0))
    progress.apply(events.RoundStarted(4, 1, 2))
    progress.apply(committed(4, 20.0))
    assert progress.seconds_left == pytest.approx(6 * 15)
    progress.apply(events.RoundStarted(5, 1, 2))
    clock.now += 6
    assert progress.seconds_left == pytest.approx(6 * 15 - 6)
    clock.now += 1000
    assert progress.seconds_left == pytest.approx(5 * 15)


def test_traffic_of_exchanges_is_taken_over_the_last_seconds(clock: Clock) -> None:
    progress = begin(clock)
    progress.apply(events.RoundStarted(1, 100, 2))
    up = 0
    for step in range(20):
        clock.now += 1
        up += 10 if step < 10 else 1000
        progress.apply(events.StepApplied(1, step, 100, 1.0, up, 2 * up))
    assert progress.rate == (1000.0, 2000.0)


def test_traffic_of_a_delta_round_is_that_of_the_whole_round(clock: Clock) -> None:
    progress = begin(clock)
    progress.apply(events.RoundStarted(1, 1, 2))
    progress.apply(events.StepApplied(1, 0, 1, 1.5, 1000, 3000))
    progress.apply(committed(1, 10.0))
    assert progress.rate == (100.0, 300.0)


def test_learners_change_state_with_their_events(clock: Clock) -> None:
    progress = begin(clock)
    progress.apply(events.RoundStarted(1, 1, 2))
    progress.apply(events.LearnerProgress(0, 1, 1, 2, 9.0))
    assert progress.learners[0].state == "training"
    progress.apply(events.UpdateAccepted(0, 1, 0, 640, 1.0, 9.0, 100))
    progress.apply(events.LearnerProgress(0, 1, 2, 2, 9.0))  # overtaken by the update
    assert (progress.learners[0].state, progress.learners[0].done) == ("sent", 2)
    progress.apply(events.CallRefused(1, "NaN"))
    progress.apply(events.CallRefused(None, "no token"))
    assert progress.learners[1].state == "refused"
    progress.apply(events.LearnerLeft(1, "n1", "lease ran out"))
    progress.apply(committed(1))
    assert [view.state for view in progress.learners.values()] == ["ready", "left"]
    progress.apply(events.LearnerJoined(7, "n1", "cuda:0", "session", None))
    assert [(key, view.state) for key, view in progress.learners.items()] == [(0, "ready"), (7, "ready")]
    progress.apply(events.LearnerProgress(0, 1, 1, 2, 5.0))
    progress.apply(events.RoundStarted(2, 1, 2))
    progress.apply(events.LearnerProgress(0, 1, 1, 2, 5.0))  # of a round that is over
    assert (progress.learners[0].state, progress.learners[0].total) == ("ready", 0)


def test_a_learner_that_left_is_shown_until_the_next_round(clock: Clock) -> None:
    progress = begin(clock)
    progress.apply(events.LearnerLeft(0, "n0", "closed"))
    assert list(progress.learners) == [0, 1]
    progress.apply(events.RoundStarted(1, 1, 1))
    assert list(progress.learners) == [1]


def test_an_abandoned_round_is_no_progress(clock: Clock) -> None:
    progress = begin(clock)
    progress.apply(events.RoundStarted(1, 4, 2))
    progress.apply(events.StepApplied(1, 2, 4, 0.8, 10, 20))
    progress.apply(events.RoundAbandoned(1, "no quorum"))
    assert progress.fraction == 0.0


def test_a_late_evaluation_reaches_its_round_and_best_is_kept(clock: Clock) -> None:
    progress = begin(clock)
    for number in range(1, 15):
        progress.apply(committed(number))
    progress.apply(events.Evaluated(13, {"accuracy": 0.9, "loss": 1.0}, 0.1))
    progress.apply(events.Evaluated(14, {"accuracy": 0.8, "loss": 1.0}, 0.1))
    assert [row.commit.round for row in progress.history] == list(range(3, 15))
    assert [row.test.value if row.test else None for row in progress.history][-3:] == [None, 0.9, 0.8]
    assert progress.best is not None
    assert progress.best == Score(13, "accuracy", 0.9)
    assert progress.newest == Score(14, "accuracy", 0.8)


def test_a_task_without_accuracy_is_judged_by_what_it_measures(clock: Clock) -> None:
    progress = begin(clock)
    progress.apply(events.Evaluated(1, {"loss": 1.0, "mae": 3.0}, 0.1))
    assert progress.newest == Score(1, "mae", 3.0)
    progress = begin(clock)
    for number, loss in ((1, 1.5), (2, 0.5), (3, float("nan"))):
        progress.apply(events.Evaluated(number, {"loss": loss}, 0.1))
    assert progress.best == Score(2, "loss", 0.5)


def test_what_learners_score_reaches_the_round_whose_model_it_is(clock: Clock) -> None:
    progress = begin(clock)
    progress.apply(committed(1))
    scores = FederatedScores()
    scores.add("own-n0", (leader_pb2.Metric(name="accuracy", value=0.5, examples=10),))
    progress.apply(events.FederatedEvaluated(1, scores.spreads()))
    progress.apply(committed(2))
    assert [row.federated["mean"] if row.federated else None for row in progress.history] == [0.5, None]
    assert progress.federated is not None
    assert progress.federated[0] == "accuracy"
