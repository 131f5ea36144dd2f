"""A run's events as lines of the audit."""

from __future__ import annotations

import hashlib
import json
import subprocess
from contextvars import copy_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leader import events
from leader.events import EventStream
from leader.rpc.refusal_counts import Refusals
from leader.trust.audit.chain import FILE, Audit
from leader.trust.audit.check import verify
from leader.trust.audit.run import RunAudit
from leader.trust.identities.callers import _CALLER, Caller
from utils.errors import PayloadError

CONFIG = "rounds: 2\nseed: 7\n"
VECTOR = np.arange(5, dtype=np.float32)
STARTED = events.RunStarted(
    "run-7", Path("runs/x"), "CIFAR-10", "resnet18", 5, "delta", 2, "0.0.0.0:50051", 2
)
ALWAYS = {"n", "t", "prev", "sig"}


def joined(number: int, name: str) -> events.LearnerJoined:
    return events.LearnerJoined(number, name, "cpu", "session", None)


def accepted(number: int, round_: int) -> events.UpdateAccepted:
    return events.UpdateAccepted(number, round_, 0, 64, 2.5, 10.0, 100, f"own-{number}")


def applied(round_: int, *parts: int) -> events.StepApplied:
    return events.StepApplied(round_, 0, 1, 2.5, 1, 1, frozenset(f"own-{part}" for part in parts))


def committed(round_: int) -> events.RoundCommitted:
    return events.RoundCommitted(round_, float("nan"), 1.0, 1, 1, 2, 128, 0.1)


class Run:
    """An audited run of which a test tells the events."""

    def __init__(self, folder: Path) -> None:
        self.audit = Audit(folder)
        self.recorder = RunAudit(self.audit, CONFIG)
        self.events = EventStream()
        self.events.subscribe(self.recorder.on_event)
        self.folder = folder

    def tell(self, *told: events.Event, caller: Caller | None = None) -> None:
        def publish() -> None:
            if caller is not None:
                _CALLER.set(caller)
            for event in told:
                self.events.publish(event)

        copy_context().run(publish)

    def lines(self, what: str = "") -> list[dict[str, Any]]:
        records = [json.loads(line) for line in (self.folder / FILE).read_bytes().splitlines()]
        return [
            {name: record[name] for name in record.keys() - ALWAYS}
            for record in records
            if what in ("", record["what"])
        ]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


CLINIC = Caller("clinic-a", "learner", "10.0.0.7", "clinic-a")
NOBODY = {"who": "", "role": "", "ip": ""}


def test_a_run_begins_with_the_digest_of_its_config_file_and_ends_with_its_reason(run: Run) -> None:
    (run.folder / "config.yaml").write_text(CONFIG, encoding="utf-8")
    told = subprocess.run(
        ["sha256sum", run.folder / "config.yaml"], check=True, capture_output=True, text=True
    )
    run.tell(STARTED, events.RunFinished(2, 10.0, "stopped by SIGTERM"))
    assert run.lines() == [
        {
            "what": "start", **NOBODY, "run": "run-7", "model": "resnet18", "address": "0.0.0.0:50051",
            "resumed": 0, "config_sha256": told.stdout.split()[0],
        },
        {"what": "stop", **NOBODY, "round": 2, "reason": "stopped by SIGTERM"},
    ]  # fmt: skip


def test_a_learner_is_recorded_with_the_identity_and_address_of_its_call(run: Run) -> None:
    run.tell(joined(3, "clinic-a"), caller=CLINIC)
    operator = Caller("ann", "operator", "10.0.0.9", "ann")
    run.tell(events.LearnerLeft(3, "clinic-a", "revoked"), caller=operator)
    assert run.lines() == [
        {"what": "registered", "who": "clinic-a", "role": "learner", "ip": "10.0.0.7", "control": "session"},
        {"what": "left", "who": "clinic-a", "role": "", "ip": "", "reason": "revoked"},
    ]


def test_a_commit_names_version_weights_and_the_learners_that_counted_in_that_round(run: Run) -> None:
    run.tell(joined(1, "b"), joined(2, "a"), joined(3, "late"))
    for round_, learners in ((1, (1, 2, 1)), (2, (3, 99))):
        run.tell(events.RoundStarted(round_, 1, 3))
        run.tell(*(accepted(learner, round_) for learner in learners), applied(round_, *learners))
        run.recorder.saving(1000 + round_, VECTOR * round_)
        run.tell(committed(round_))
    weights = [hashlib.sha256((VECTOR * round_).tobytes()).hexdigest() for round_ in (1, 2)]
    assert run.lines("committed") == [
        {"what": "committed", **NOBODY, "round": 1, "version": 1001, "weights_sha256": weights[0],
         "learners": ["a", "b"]},
        {"what": "committed", **NOBODY, "round": 2, "version": 1002, "weights_sha256": weights[1],
         "learners": ["99", "late"]},
    ]  # fmt: skip


def test_updates_of_a_round_that_was_given_up_are_in_no_commit(run: Run) -> None:
    run.tell(joined(1, "a"), joined(2, "b"), events.RoundStarted(1, 1, 2), accepted(1, 1))
    run.tell(events.RoundAbandoned(1, "too few"), events.RoundStarted(1, 1, 2), accepted(2, 1), applied(1, 2))
    run.recorder.saving(5, VECTOR)
    run.tell(committed(1))
    assert run.lines("committed")[0]["learners"] == ["b"]


def test_a_commit_names_those_in_the_sum_and_not_all_whose_updates_were_accepted(run: Run) -> None:
    """Some were lost with an edge, or masked for an attempt that came to nothing; some came to a leader before."""
    run.tell(joined(1, "a"), joined(2, "b"), joined(3, "c"), events.RoundStarted(1, 1, 3))
    run.tell(accepted(1, 1), accepted(2, 1), accepted(2, 1), accepted(3, 1), applied(1, 2, 3, 4))
    run.recorder.saving(5, VECTOR)
    run.tell(committed(1))
    assert run.lines("committed")[0]["learners"] == ["b", "c", "own-4"]


def test_a_flood_of_refusals_is_a_few_lines_with_a_count(run: Run) -> None:
    now = 0.0
    refusals = Refusals(run.events, lambda: now)

    def flood() -> None:
        nonlocal now
        _CALLER.set(CLINIC)
        for _ in range(1000):
            refusals.note("GetModel", PayloadError("too long"), None)
        now = 6.0
        refusals.note("GetModel", PayloadError("too long"), None)

    copy_context().run(flood)
    lines = run.lines("refused")
    assert [line["suppressed"] for line in lines] == [0, 0, 0, 0, 0, 995]
    assert lines[0] == {
        "what": "refused", "who": "clinic-a", "role": "learner", "ip": "10.0.0.7", "method": "GetModel",
        "kind": "PayloadError", "reason": "too long", "suppressed": 0,
    }  # fmt: skip


def test_a_refusal_outside_a_call_names_the_learner(run: Run) -> None:
    run.tell(joined(1, "a"), events.CallRefused(1, "late", "GetModel", "LateUpdateError"))
    assert run.lines("refused")[0]["who"] == "a"


def test_all_of_it_is_one_chain(run: Run) -> None:
    run.tell(
        STARTED, joined(1, "a"), events.RoundStarted(1, 1, 1), accepted(1, 1), events.RunFinished(0, 1.0)
    )
    assert verify(run.folder, [run.audit.head]).head.number == 3
