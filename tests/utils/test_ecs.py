"""Log lines as the Elastic Common Schema has them: their fields, their types, and what nobody can slip in."""

from __future__ import annotations

import io
import json
import logging
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from leader import events
from leader.config import LogConfig
from leader.reporting.log import open_display
from tests.leader.reporting.scores import SPREAD
from tests.leader.reporting.test_log import RUN
from tests.nasty_strings import NASTY
from tests.utils.ecs import FIELDS, problems
from utils.console import setup_logging
from utils.ecs import PLACE, VERSION, Place, trace_id

Entry = dict[str, Any]


@pytest.fixture(autouse=True)
def nowhere(root_logger: None) -> Iterator[None]:
    """This process works for nothing yet, and for nothing afterwards."""
    yield
    vars(PLACE).update(vars(Place()))


def told(*happened: events.Event) -> list[Entry]:
    stream = io.StringIO()
    display = open_display(LogConfig(format="ecs", level="debug"), 10, stream)
    for event in happened:
        display.on_event(event)
    lines = stream.getvalue().splitlines()
    assert problems(lines) == []
    return [json.loads(line) for line in lines]


def test_every_event_becomes_a_line_that_fits_the_schema() -> None:
    lines = told(*RUN)
    assert [line["event.action"] for line in lines] == [type(event).__name__ for event in RUN]
    assert {line["service.name"] for line in lines} == {"flockstep-leader"}
    assert {line["event.dataset"] for line in lines} == {"flockstep-leader.log"}
    assert {line["process.pid"] for line in lines} == {os.getpid()}
    assert {line["ecs.version"] for line in lines} == {VERSION} == {"9.4.0"}
    assert {line["flockstep.run.id"] for line in lines} == {"r1"}


def test_a_commit_says_its_round_its_duration_in_nanoseconds_and_its_figures() -> None:
    *_, line = told(RUN[0], events.RoundCommitted(3, 1.2345, 12.34, 3_200_000, 480, 2, 50000, 0.1))
    assert line["event.duration"] == 12_340_000_000
    assert line["flockstep.round"] == 3
    assert line["flockstep.loss"] == 1.2345
    assert line["flockstep.bytes_up"] == 3_200_000
    assert line["trace.id"] == trace_id("r1", 3)
    assert "event.outcome" not in line
    assert "flockstep.seconds" not in line


def test_a_refusal_is_a_failure_with_its_reason_in_the_round_that_was_open() -> None:
    refused = events.CallRefused(7, "no such token", "GetModel", "UnknownLearnerError", suppressed=3)
    *_, line = told(RUN[0], events.RoundStarted(4, 1, 2), refused)
    assert (line["log.level"], line["event.outcome"]) == ("warning", "failure")
    assert line["event.reason"] == "no such token"
    assert line["error.type"] == "UnknownLearnerError"
    assert line["flockstep.learner.id"] == 7
    assert line["flockstep.suppressed"] == 3
    assert line["trace.id"] == trace_id("r1", 4)


def test_a_learner_that_said_goodbye_is_no_failure() -> None:
    (line,) = told(events.LearnerLeft(1, "alpha", "said goodbye"))
    assert line["flockstep.learner.name"] == "alpha"
    assert line["event.reason"] == "said goodbye"
    assert "event.outcome" not in line


def test_names_that_learners_choose_become_no_fields() -> None:
    scored = events.FederatedEvaluated(2, {"a": SPREAD, "a.b": SPREAD})
    overdue = events.LearnerOverdue(2, "eve", 60.0, 120.0, {"own-eve": "", "shard-00001": "alpha"})
    first, second = told(scored, overdue)
    assert [score["name"] for score in first["flockstep.scores"]] == ["a", "a.b"]
    assert first["flockstep.scores"][0]["mean"] == SPREAD["mean"]
    assert second["flockstep.moved"][1] == {"name": "shard-00001", "value": "alpha"}


def test_a_number_that_json_has_not_is_null_however_deep() -> None:
    first, second = told(
        events.Evaluated(3, {"accuracy": 0.5, "loss": math.nan}, 2.0),
        events.RoundCommitted(3, math.inf, math.nan, 1, 1, 1, 1, 0.1),
    )
    assert first["flockstep.metrics"] == {"accuracy": 0.5, "loss": None}
    assert second["flockstep.loss"] is None
    assert "event.duration" not in second


def test_the_trace_is_the_hash_that_leader_and_learners_agree_on() -> None:
    assert trace_id("r1", 3) == "a432ba26fcabde2e5d88a01486aba937"  # printf r1:3 | sha256sum
    assert trace_id("r1", 4) != trace_id("r1", 3) != trace_id("r2", 3)


def test_a_learners_lines_say_who_and_where_it_is() -> None:
    stream = io.StringIO()
    setup_logging("ecs", "info", stream)
    log = logging.getLogger("learner.work.worker")
    log.info("nothing yet")
    PLACE.run, PLACE.learner, PLACE.round = "r1", "alpha", 3
    try:
        raise OSError("no\nroute")
    except OSError:
        log.exception("lost")
    assert problems(stream.getvalue().splitlines()) == []
    before, line = map(json.loads, stream.getvalue().splitlines())
    assert not [name for name in before if name.startswith(("trace.", "flockstep.", "error."))]
    assert (line["service.name"], line["log.logger"]) == ("flockstep-learner", "learner.work.worker")
    assert (line["flockstep.run.id"], line["flockstep.learner.name"]) == ("r1", "alpha")
    assert (line["flockstep.round"], line["trace.id"]) == (3, trace_id("r1", 3))
    assert (line["error.type"], line["error.message"]) == ("OSError", r"no\nroute")
    assert line["error.stack_trace"].startswith("Traceback")


def test_a_line_begins_with_when_how_bad_and_what() -> None:
    (line,) = told(events.EvaluationSkipped(3))
    assert list(line)[:3] == ["@timestamp", "log.level", "message"]
    assert line["message"] == "round 3/10 not evaluated: a newer model was ready"


@pytest.mark.parametrize("text", NASTY, ids=range(len(NASTY)))
def test_whatever_a_text_holds_it_is_a_value_of_one_line(text: str) -> None:
    lines = told(
        events.RunStarted(text, Path(text.replace("\0", "")), text, text, 9, text, 10, "h:1", 2, 2),
        events.LearnerJoined(1, text, text, text, None),
        events.CallRefused(None, text, text, text),
        events.LearnerOverdue(2, text, 60.0, 120.0, {text: text}),
        events.LearnerLeft(1, text, text),
    )
    assert len(lines) == 5
    assert {name for line in lines for name in line if not name.startswith("flockstep.")} <= set(FIELDS)


def test_the_list_of_fields_finds_what_does_not_fit() -> None:
    (line,) = told(events.EvaluationSkipped(3))
    for wrong in (
        {"event.duration": 1.5},
        {"@timestamp": "2026-11-28 15:00:00"},
        {"event.unheard": "x"},
        {"flockstep.round": "three"},
        {"flockstep.round.number": 3},
    ):
        assert problems([json.dumps(line), json.dumps({**line, **wrong})]) != []
    assert problems([json.dumps({"message": "x", **line})]) != []
