"""A run as the page shows it: its states, whom rounds wait for, and only what changed since the last look."""

from __future__ import annotations

import pytest

from leader import events
from leader.storage.metrics_log import Record
from leader.web.run_view import Changes, RunView
from tests.leader.web.runs import accepted, committed, joined, started


def tell(view: RunView, *told: events.Event, at: float = 0.0, tick: int = 1) -> None:
    for event in told:
        view.on_event(event, at, tick)


def test_a_run_waits_trains_stalls_and_finishes() -> None:
    view = RunView(10)
    tell(view, started(), events.WaitingForLearners(1, 2))
    now = view.since(0, 1.0)
    assert (now["state"], now["waiting"]) == ("waiting", {"have": 1, "need": 2})
    assert now["run"]["join"] == "python -m learner --leader 127.0.0.1:50051"
    tell(view, joined(1, "a"), events.RoundStarted(1, 1, 1), at=100.0)
    assert view.since(0, 129.0)["state"] == "training"
    tell(view, events.CallRefused(None, "no", suppressed=4), joined(2, "b"), at=129.0)
    stalled = view.since(0, 131.0)
    assert (stalled["state"], stalled["quiet_s"], stalled["refused"]) == ("stalled", 31.0, 5)
    tell(view, events.LearnerProgress(1, 1, 1, 4, 50.0), at=132.0)
    assert view.since(0, 133.0)["state"] == "training"
    tell(view, events.RunFinished(1, 33.0, "stopped by SIGTERM"), at=133.0)
    assert view.since(0, 999.0)["state"] == "stopped"
    assert view.since(0, 999.0)["words"] == "run stopped after round 1/10: stopped by SIGTERM"


def test_a_round_names_the_learner_that_it_waited_for_alone() -> None:
    view = RunView(10)
    tell(view, started(), *(joined(number, name) for number, name in enumerate("abc")))
    tell(view, events.RoundStarted(1, 2, 3), at=10.0)
    for step, (began, slow) in enumerate([(10.0, 2.0), (13.0, 5.0)]):
        for number, took in enumerate([slow, 1.0, 1.5]):
            tell(view, accepted(number, 1), at=began + took)
        tell(view, events.StepApplied(1, step, 2, 1.0, 1, 1), at=13.0)
    tell(view, list(committed(1))[1], at=18.0)
    (waits,) = view.since(0, 18.0)["waits"]
    assert waits["took"] == {"a": 7.0, "c": 3.0, "b": 2.0}
    assert (waits["last"], waits["alone"]) == ("a", pytest.approx(0.5 + 3.5))


def test_only_what_changed_is_told_again() -> None:
    view = RunView(10)
    tell(view, started(), tick=1)
    tell(view, *committed(1), tick=2)
    tell(view, *committed(2), tick=3)
    assert [point["round"] for point in view.since(0, 0.0)["points"]] == [1, 2]
    assert [point["round"] for point in view.since(2, 0.0)["points"]] == [2]
    tell(view, events.Evaluated(1, {"accuracy": 0.9}, 0.1), tick=4)  # of a model that waited
    (late,) = view.since(3, 0.0)["points"]
    assert (late["round"], late["loss"], late["test_accuracy"]) == (1, 0.5, 0.9)


def test_a_score_that_comes_before_its_commit_stays() -> None:
    view = RunView(10)
    tell(view, started(), events.Evaluated(1, {"accuracy": 0.25}, 0.1), *list(committed(1))[:2])
    (point,) = view.since(0, 0.0)["points"]
    assert (point["loss"], point["test_accuracy"]) == (0.5, 0.25)


def test_a_resumed_run_has_its_curves_from_the_record() -> None:
    before: list[Record] = [
        {"round": 3, "loss": 1.0, "test_accuracy": 0.4, "federated": {"accuracy": {"mean": 0.3}}},
        {"round": 4, "loss": 0.9, "test_accuracy": 0.2},
    ]
    view = RunView(10, lambda resumed_round: before if resumed_round == 4 else [])
    tell(view, started(resumed_round=4))
    now = view.since(0, 0.0)
    assert now["points"][0] == {"round": 3, "loss": 1.0, "test_accuracy": 0.4, "federated.accuracy": 0.3}
    assert (now["committed"], now["best"]["value"], now["newest"]["value"]) == (4, 0.4, 0.2)


def test_of_many_rounds_the_older_ones_get_sparse_and_the_newest_are_whole() -> None:
    changes = Changes(100, thin=True)
    for number in range(10_000):
        changes.put(number, number, number)
    kept = changes.since(-1)
    assert len(kept) <= 100
    assert kept[-25:] == list(range(9_975, 10_000))
    assert kept[:30] == list(range(0, 30 * 256, 256))


def test_of_many_learners_the_slowest_have_rows_and_all_are_counted() -> None:
    view = RunView(10)
    tell(view, started(), *(joined(number, f"learner-{number}") for number in range(1000)))
    tell(view, events.RoundStarted(1, 1, 1000))
    for number in range(1000):
        tell(view, accepted(number, 1), at=float(number))
    tell(view, *committed(1), at=1000.0)
    now = view.since(0, 1000.0)
    assert now["learners"] == 1000
    assert [row["learner_id"] for row in now["rows"]] == list(range(900, 1000))
    assert len(now["waits"][0]["took"]) == 100
    assert len(now["messages"]) <= 50
