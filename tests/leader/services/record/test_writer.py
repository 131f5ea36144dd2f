"""The record: what events come to in its tables, what a resume makes of it, and disks that fail."""

from __future__ import annotations

import logging
import math
import resource
import sqlite3
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from leader import events
from leader.events import Event
from leader.services.record.followers import Followers
from leader.services.record.writer import Record

STARTED = events.RunStarted("run-1", Path(), "noise", "tiny", 9, "delta", 5, "127.0.0.1:1", 2)
A = events.LearnerJoined(1, "a", "cpu", "session", None)
B = events.LearnerJoined(2, "b", "cpu", "session", 40)


def update(
    learner: int, round_: int = 1, *, step: int = 0, part: str = "", **more: Any
) -> events.UpdateAccepted:
    return replace(
        events.UpdateAccepted(learner, round_, step, 10, 2.0, 5.0, 100, part or f"shard-{learner}", 0.5),
        **more,
    )


def applied(round_: int = 1, step: int = 0, steps: int = 1) -> events.StepApplied:
    return events.StepApplied(round_, step, steps, 2.0, 0, 0)


def committed(round_: int = 1) -> events.RoundCommitted:
    return events.RoundCommitted(round_, 2.0, 1.0, 200, 300, 2, 20, 0.1)


def recorded(path: Path, told: Sequence[Event], untold: Sequence[Event] | None = None) -> None:
    record = Record(path, Followers(path, []), untold=untold, clock=lambda: 1000.0)
    for event in told:
        record.on_event(event)
    record.close()


def rows(path: Path, asked: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute(asked).fetchall()


def test_a_round_is_a_row_and_what_each_learner_did_in_it_another(tmp_path: Path) -> None:
    path = tmp_path / "metadata.sqlite"
    recorded(path, [STARTED, A, B, update(1), update(2, seconds=0.9), applied(), committed()])
    assert rows(path, "SELECT round, committed_at, seconds, loss, learners, abandoned FROM rounds") == [
        (1, 1000.0, 1.0, 2.0, 2, 0)
    ]
    asked = "SELECT learner, updates, examples, bytes, wait_s, train_images_per_s, loss, outcome FROM participation"
    assert rows(path, asked) == [
        ("a", 1, 10, 100, 0.5, 5.0, 2.0, "counted"),
        ("b", 1, 10, 100, 0.9, 5.0, 2.0, "counted"),
    ]
    assert rows(path, "SELECT name, own_examples FROM learners") == [("a", None), ("b", 40)]
    assert dict(rows(path, "SELECT key, value FROM run"))["run_id"] == "run-1"


def test_an_update_that_was_accepted_and_is_in_no_sum_did_not_count(tmp_path: Path) -> None:
    """As of a masked round that was tried again, without a learner of the first attempt."""
    path = tmp_path / "metadata.sqlite"
    step = replace(applied(), parts=frozenset({"shard-1"}))
    recorded(path, [STARTED, A, B, update(1), update(2), update(1), step, committed()])
    assert rows(path, "SELECT learner, updates, outcome FROM participation") == [("a", 1, "counted")]


def test_an_update_that_is_lost_with_an_edge_counts_once_it_comes_again(tmp_path: Path) -> None:
    path = tmp_path / "metadata.sqlite"
    lost = events.UpdatesLost(("shard-1", "shard-2"))
    left = events.LearnerLeft(2, "b", "gone")
    recorded(path, [STARTED, A, B, update(1), update(2), left, lost, update(1), applied(), committed()])
    assert rows(path, "SELECT learner, updates, examples, outcome FROM participation") == [
        ("a", 1, 10, "counted"),
        ("b", 0, 0, "left"),
    ]


def test_a_learner_waits_in_each_step_for_the_slowest_of_its_parts(tmp_path: Path) -> None:
    path = tmp_path / "metadata.sqlite"
    first = [update(1, step=0, part=part, seconds=s) for part, s in (("x", 0.2), ("y", 0.5))]
    second = [update(1, step=1, part=part, seconds=s) for part, s in (("x", 0.3), ("y", 0.1))]
    told = [STARTED, A, *first, applied(1, 0, 2), *second, applied(1, 1, 2), committed()]
    recorded(path, told)
    assert rows(path, "SELECT updates, wait_s FROM participation") == [(4, pytest.approx(0.8))]


def test_work_that_comes_again_counts_once_for_whoever_brought_it_last(tmp_path: Path) -> None:
    path = tmp_path / "metadata.sqlite"
    told = [STARTED, A, B, update(1, part="x"), update(2, part="x"), applied(), committed()]
    recorded(path, told)
    assert rows(path, "SELECT learner, updates, bytes FROM participation") == [("b", 1, 100)]


def test_an_abandoned_attempt_is_counted_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "metadata.sqlite"
    again = [events.RoundAbandoned(1, "no quorum"), update(2), applied(), committed()]
    recorded(path, [STARTED, A, B, update(1), *again])
    assert rows(path, "SELECT learner FROM participation") == [("b",)]
    assert rows(path, "SELECT abandoned FROM rounds") == [(1,)]


def test_those_without_an_update_are_there_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "metadata.sqlite"
    told = [
        STARTED,
        A,
        B,
        events.LearnerJoined(3, "c", "cpu", "session", None),
        events.LearnerOverdue(1, "a", 9.0, 9.0, {}),
        events.CallRefused(2, "nan in it", "AccumulateGradients", "PayloadError", 4),
        events.CallRefused(None, "who?", "Register", "ForbiddenError"),
        events.LearnerLeft(3, "c", "lease ran out"),
        update(1),
        applied(),
        committed(),
    ]
    recorded(path, told)
    outcomes = dict(rows(path, "SELECT learner, outcome FROM participation"))
    assert outcomes == {"a": "counted", "b": "refused", "c": "left"}
    assert rows(path, "SELECT learner, method, kind, count, reason FROM refusals ORDER BY learner") == [
        ("", "Register", "ForbiddenError", 1, "who?"),
        ("b", "AccumulateGradients", "PayloadError", 5, "nan in it"),
    ]
    assert rows(path, "SELECT learner, reason FROM sessions WHERE until IS NOT NULL") == [
        ("c", "lease ran out")
    ]


class Busy(Followers):
    """Keeps the record's thread from its next job until `go` is set."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, [])
        self.there, self.go = threading.Event(), threading.Event()

    def tell(self) -> None:
        self.there.set()
        assert self.go.wait(60)


def test_what_happens_while_a_round_waits_to_be_written_is_no_part_of_it(tmp_path: Path) -> None:
    path = tmp_path / "metadata.sqlite"
    busy = Busy(path)
    record = Record(path, busy, clock=lambda: 1000.0)
    record.on_event(STARTED)
    assert busy.there.wait(60)
    for event in (A, B, update(1), applied(), events.LearnerLeft(2, "b", "lease ran out"), committed()):
        record.on_event(event)
    busy.go.set()
    record.close()
    assert rows(path, "SELECT learner, outcome FROM participation") == [("a", "counted")]


def test_an_end_that_the_disk_does_not_take_in_time_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "metadata.sqlite"
    busy = Busy(path)
    record = Record(path, busy)
    record.on_event(STARTED)
    assert busy.there.wait(60)
    record.on_event(committed())
    monkeypatch.setattr("leader.services.record.writer._CLOSE_S", 0.01)
    record.close()
    assert caplog.messages == [
        f"the record {path} misses the end of this run: its disk did not take it within 0.01 s"
    ]
    busy.go.set()
    record._thread.join(60)


def test_scores_of_the_test_split_and_of_learners_are_there_and_what_is_not_finite_is_null(
    tmp_path: Path,
) -> None:
    path = tmp_path / "metadata.sqlite"
    spread: events.Spread = {
        "mean": 0.5,
        "unweighted_mean": 0.4,
        "variance": 0.01,
        "std": 0.1,
        "worst_decile": 0.2,
        "min": 0.2,
        "max": math.inf,
        "learners": 2,
        "examples": 9,
    }
    told = [STARTED, events.Evaluated(1, {"accuracy": 0.75, "loss": math.nan}, 0.1)]
    recorded(path, [*told, events.FederatedEvaluated(1, {"accuracy": spread})])
    assert dict(rows(path, "SELECT metric, value FROM scores")) == {
        "test_accuracy": 0.75,
        "test_loss": None,
        "federated.accuracy": 0.5,
        "federated.accuracy.std": 0.1,
        "federated.accuracy.worst_decile": 0.2,
        "federated.accuracy.min": 0.2,
        "federated.accuracy.max": None,
    }


def test_a_resume_drops_later_rounds_and_completes_the_one_whose_commit_was_not_told(tmp_path: Path) -> None:
    path = tmp_path / "metadata.sqlite"
    one = [STARTED, A, update(1), applied(), committed()]
    recorded(path, [*one, update(1, 2), applied(2)])  # killed after the checkpoint of round 2
    recorded(path, [replace(STARTED, resumed_round=2)], untold=[committed(2)])
    assert rows(path, "SELECT round FROM rounds") == [(1,), (2,)]
    assert rows(path, "SELECT round, learner, seq IS NULL FROM participation") == [(1, "a", 0), (2, "a", 0)]
    recorded(path, [replace(STARTED, resumed_round=1)], untold=[committed(1)])  # its last checkpoint is lost
    assert rows(path, "SELECT round FROM rounds") == [(1,)]
    assert rows(path, "SELECT round FROM participation") == [(1,)]
    assert rows(path, "SELECT reason FROM sessions") == [("the leader ended",)]


def test_a_round_whose_checkpoint_was_not_written_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "metadata.sqlite"
    recorded(path, [STARTED, A, update(1), applied()])
    again = [replace(STARTED, resumed_round=0), B, update(2), applied(), committed()]
    recorded(path, again, untold=[])
    assert rows(path, "SELECT round, learner FROM participation") == [(1, "b")]


def test_a_record_that_can_not_be_written_costs_one_line_and_is_complete_when_it_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "gone" / "metadata.sqlite"
    record = Record(path, Followers(path, []))
    with caplog.at_level(logging.INFO, "leader.services.record.writer"):
        for event in (STARTED, A, update(1), applied(), committed(), update(1, 2)):
            record.on_event(event)
        record.settle()
        path.parent.mkdir()
        for event in (applied(2), committed(2)):
            record.on_event(event)
        record.close()
    assert [entry.getMessage().partition(" can't")[0] for entry in caplog.records] == [
        f"the record {path}",
        f"the record {path} is written again",
    ]
    assert rows(path, "SELECT round FROM rounds") == [(1,), (2,)]


def test_a_disk_that_is_full_costs_one_line_and_what_it_had_no_room_for_is_written_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "metadata.sqlite"
    recorded(path, [STARTED, A, committed(1)])
    record = Record(path, Followers(path, []), untold=[])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with caplog.at_level(logging.INFO, "leader.services.record.writer"):
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (250_000, before[1]))  # no file can grow beyond this
            for event in (replace(STARTED, resumed_round=1), *map(committed, range(2, 201))):
                record.on_event(event)
            record.settle()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert 1 < len(rows(path, "SELECT round FROM rounds")) < 200
        record.on_event(committed(201))
        record.close()
    assert [entry.levelname for entry in caplog.records] == ["WARNING", "INFO"]
    assert "can't be written (" in caplog.text
    assert rows(path, "SELECT round FROM rounds") == [(round_,) for round_ in range(1, 202)]


def test_a_file_that_is_no_record_never_holds_up_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "metadata.sqlite"
    path.write_bytes(b"nothing that SQLite knows" * 100)
    began = time.monotonic()
    recorded(path, [STARTED, A, update(1), applied(), committed()])
    assert time.monotonic() - began < 30.0  # of the 60 for which its end is waited for
    assert len(caplog.records) == 1
    assert "file is not a database" in caplog.text


def test_of_what_callers_can_make_any_number_of_the_newest_rows_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leader.services.record.file._MOST_ROWS", {"refusals": 500, "learners": 100})
    path = tmp_path / "metadata.sqlite"
    refused = [events.CallRefused(None, "no", f"Method{n}", "PayloadError") for n in range(1500)]
    came = [events.LearnerJoined(n, f"n{n}", "cpu", "session", None) for n in range(1500)]
    recorded(path, [STARTED, *came, *refused])
    assert rows(path, "SELECT count(*) FROM refusals") == [(500,)]
    assert rows(path, "SELECT count(*), max(name) FROM learners WHERE name >= 'n1400'") == [(100, "n1499")]


def test_what_the_database_can_not_hold_costs_its_own_row_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "metadata.sqlite"
    recorded(path, [STARTED, replace(committed(1), bytes_up=2**70), committed(2)])
    assert rows(path, "SELECT round FROM rounds") == [(2,)]
    assert len(caplog.records) == 1
